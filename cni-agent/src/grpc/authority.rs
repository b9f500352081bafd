//! Names of sockets that are no names of hosts. The kubelet registers a driver with the path of its socket as the HTTP/2
//! `:authority` (`%2Fvar%2Flib%2F…`), which is none by RFC 3986, so that the server's library ends the call. What comes is
//! read frame by frame, and a value of that field is overwritten in its place by one that is an authority: nobody here
//! looks at it. Lengths stay, so that nothing else moves.
//!
//! For connections of a few calls: both ends count the length of the field's text towards what they remember of fields
//! (RFC 7541, 4.1), and it isn't the same any more once that is full.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::Connected;

/// What a client begins with (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Of each frame: length, type, flags, stream.
const HEADER: usize = 9;
/// Longest frame that the server has allowed.
const LONGEST: usize = 1 << 14;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// Marks a string as Huffman-coded.
const HUFFMAN: u8 = 0x80;

/// A connection whose client may call its peer what it likes.
#[derive(Debug)]
pub(crate) struct Lenient {
    inner: UnixStream,
    frames: Frames,
}

impl Lenient {
    pub(crate) fn new(inner: UnixStream) -> Self {
        Self {
            inner,
            frames: Frames::default(),
        }
    }
}

impl Connected for Lenient {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Lenient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.frames.done.is_empty() {
            let mut bytes = [0; 8192];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.frames.take(read.filled());
        }
        let most = into.remaining().min(this.frames.done.len());
        into.put_slice(&this.frames.done[..most]);
        this.frames.done.drain(..most);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lenient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Frames as they come.
#[derive(Debug, Default)]
struct Frames {
    begun: bool,
    /// Not a whole frame yet.
    rest: Vec<u8>,
    done: Vec<u8>,
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        if !self.begun {
            if self.rest.len() < PREFACE {
                return;
            }
            self.done.extend(self.rest.drain(..PREFACE));
            self.begun = true;
        }
        while let Some(&[high, middle, low, kind, flags, ..]) = self.rest.get(..HEADER) {
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > LONGEST {
                // The server refuses it.
                self.done.append(&mut self.rest);
                return;
            }
            let Some(payload) = self.rest.get_mut(HEADER..HEADER + length) else {
                return;
            };
            if kind == HEADERS {
                let padding = usize::from(flags & PADDED != 0);
                let priority = 5 * usize::from(flags & PRIORITY != 0);
                if let Some(fields) = payload.get_mut(padding + priority..) {
                    // What can't be read is the server's to refuse.
                    let _unreadable = overwrite(fields).is_none();
                }
            }
            self.done.extend(self.rest.drain(..HEADER + length));
        }
    }
}

/// Overwrites the values of `:authority` among the fields of a request (RFC 7541, 6).
fn overwrite(fields: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = fields.get(at) {
        let (prefix, has_value) = match first {
            0x80.. => (7, false),
            0x40..0x80 => (6, true),
            0x20..0x40 => (5, false),
            0x00..0x20 => (4, true),
        };
        let name = integer(fields, &mut at, prefix)?;
        if !has_value {
            continue;
        }
        if name == 0 {
            let length = integer(fields, &mut at, 7)?;
            at = at.checked_add(length)?;
        }
        let huffman = fields.get(at)? & HUFFMAN != 0;
        let length = integer(fields, &mut at, 7)?;
        let value = fields.get_mut(at..at.checked_add(length)?)?;
        if name == AUTHORITY {
            fill(value, huffman);
        }
        at += length;
    }
    Some(())
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
fn integer(bytes: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*bytes.get(*at)? & mask);
    *at += 1;
    if value < usize::from(mask) {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Writes as many letters `a` as there is room for; Huffman-coded they have five bits, `00011`, and what is left at the end
/// is filled with ones.
fn fill(value: &mut [u8], huffman: bool) {
    if !huffman {
        return value.fill(b'a');
    }
    let bits = value.len() * 8;
    let letters = bits / 5 * 5;
    for (index, byte) in value.iter_mut().enumerate() {
        let bit = |at: usize| at >= letters || at % 5 >= 3;
        *byte = (0..8).fold(0, |byte, low| byte << 1 | u8::from(bit(index * 8 + low)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as grpc-go 1.8 begins it: method, scheme, path, authority, and a field with a name of its own.
    fn request(huffman: bool) -> Vec<u8> {
        let mut fields = vec![0x83, 0x86, 0x44, 3, b'/', b'x', b'y', 0x41];
        // `%2Fa`, which has 6 + 5 + 7 + 5 bits.
        match huffman {
            true => fields.extend([0x83, 0b0101_0100, 0b0101_1000, 0b0110_0011]),
            false => fields.extend([4, b'%', b'2', b'F', b'a']),
        }
        fields.extend([0x40, 1, b'n', 2, b'%', b'v']);
        let mut frame = vec![
            0,
            0,
            u8::try_from(fields.len()).unwrap(),
            HEADERS,
            4,
            0,
            0,
            0,
            1,
        ];
        frame.extend(fields);
        frame
    }

    fn through(bytes: &[u8], pieces: usize) -> Vec<u8> {
        let mut frames = Frames::default();
        for piece in bytes.chunks(pieces) {
            frames.take(piece);
        }
        assert!(frames.rest.is_empty());
        frames.done
    }

    #[test]
    fn an_authority_that_is_none_becomes_one_and_nothing_else_changes() {
        for (huffman, value) in [
            (false, vec![b'a'; 4]),
            // Four times 00011 and four ones.
            (true, vec![0b0001_1000, 0b1100_0110, 0b0011_1111]),
        ] {
            let ping = [0, 0, 2, 6, 0, 0, 0, 0, 0, 0x41, 7];
            let mut sent = vec![b'P'; PREFACE];
            sent.extend(ping);
            sent.extend(request(huffman));
            sent.extend(ping);
            let mut expected = sent.clone();
            let at = PREFACE + ping.len() + HEADER + 9;
            expected[at..at + value.len()].copy_from_slice(&value);
            for pieces in [1, 7, 4096] {
                assert_eq!(through(&sent, pieces), expected, "{huffman} {pieces}");
            }
        }
    }

    #[test]
    fn what_can_t_be_read_is_passed_on() {
        for fields in [
            &[0x41][..],
            &[0x41, 0xff],
            &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff],
            &[0x40, 9],
        ] {
            let mut sent = vec![b'P'; PREFACE];
            sent.extend([
                0,
                0,
                u8::try_from(fields.len()).unwrap(),
                HEADERS,
                4,
                0,
                0,
                0,
                1,
            ]);
            sent.extend(fields);
            assert_eq!(through(&sent, 4096), sent);
        }
        let mut long = vec![b'P'; PREFACE];
        long.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 7]);
        assert_eq!(through(&long, 4096), long);
    }

    #[test]
    fn numbers_are_read_as_hpack_writes_them() {
        for (bytes, prefix, value) in [
            (&[0x0a][..], 5, 10),
            (&[0x1f, 0x9a, 0x0a], 5, 1337),
            (&[0x2a], 8 - 1, 42),
        ] {
            let mut at = 0;
            assert_eq!(
                (integer(bytes, &mut at, prefix), at),
                (Some(value), bytes.len())
            );
        }
    }
}
