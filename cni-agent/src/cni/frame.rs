//! Frames over a Unix socket: `FL`, the version and the body's length, both big-endian, and the
//! body: JSON. A descriptor may come with the first byte.

use super::CniError;
use bytes::{Buf, BufMut, BytesMut};
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};

/// Bytes before the body.
pub const HEADER: usize = 8;
/// Longest body of a request, and of an answer to a CNI call.
pub const MAX_BODY: usize = 1 << 20;
/// Longest body of an answer to a person's question: a row of some hundred bytes for each endpoint,
/// node or drop counter that a node can have.
pub const MAX_ANSWER: usize = 64 << 20;
/// The version spoken; any other gets an error in a frame of this one.
pub const VERSION: u16 = 1;
const MAGIC: [u8; 2] = *b"FL";

/// A frame that can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection ended: {0}")]
    Io(#[from] io::Error),
    #[error("the peer doesn't speak this protocol: it began with {0:02x?}")]
    Magic([u8; 2]),
    #[error("the peer speaks version {0} of the protocol, not {VERSION}")]
    Version(u16),
    #[error(
        "a frame of {0} bytes; at most {MAX_BODY} are taken of a request, {MAX_ANSWER} of an answer"
    )]
    TooLarge(u32),
    #[error("{0} descriptors came with the frame, or more than there was room for; one is taken")]
    Descriptors(usize),
    #[error("the sandbox's descriptor could not be taken: the agent has too many files open")]
    NoRoom,
    #[error("the body is not understood: {0}")]
    Body(#[from] serde_json::Error),
}

impl FrameError {
    /// What to answer the peer.
    ///
    /// # Errors
    /// When there is nobody to answer: the connection is broken.
    pub fn into_cni(self) -> io::Result<CniError> {
        let install = "install plugin, command line and agent of one release";
        Ok(match self {
            Self::Io(error) => return Err(error),
            Self::Version(_) => CniError::incompatible(self.to_string()).with_details(install),
            Self::NoRoom => CniError::try_again(&self.to_string()).with_details(
                "repeat the call; if it stays so, raise the agent's limit of open files (LimitNOFILE)",
            ),
            Self::TooLarge(_) => CniError::config("size", &self),
            Self::Magic(_) | Self::Descriptors(_) => CniError::decode("the request", &self),
            Self::Body(error) => CniError::decode("the request", &error),
        })
    }
}

/// Reads one frame. A descriptor that comes with it is closed.
///
/// # Errors
/// See [`FrameError`].
pub async fn read_frame<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, FrameError> {
    Ok(read(stream, MAX_BODY).await?.0)
}

/// As [`read_frame`], for an answer to a person's question.
///
/// # Errors
/// See [`FrameError`].
pub async fn read_answer<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, FrameError> {
    Ok(read(stream, MAX_ANSWER).await?.0)
}

/// Reads one frame and the descriptor that came with its first byte.
///
/// # Errors
/// See [`FrameError`].
pub async fn read_frame_with_fd<T: DeserializeOwned>(
    stream: &mut UnixStream,
) -> Result<(T, Option<OwnedFd>), FrameError> {
    read(stream, MAX_BODY).await
}

async fn read<T: DeserializeOwned>(
    stream: &mut UnixStream,
    most: usize,
) -> Result<(T, Option<OwnedFd>), FrameError> {
    let (header, descriptor) = read_header(stream).await?;
    let length = body_length(header, most)?;
    // Grows as the bytes come: a peer that only claims a large body gets no memory for it.
    let mut body = BytesMut::new();
    let mut rest = stream.take(length as u64);
    while body.len() < length {
        if rest.read_buf(&mut body).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok((serde_json::from_slice(&body)?, descriptor))
}

/// Writes one frame.
///
/// # Errors
/// When the connection is broken, or the body too large.
pub async fn write_frame<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    stream.write_all(&to_frame(value)?).await?;
    stream.flush().await
}

fn to_frame<T: Serialize>(value: &T) -> io::Result<BytesMut> {
    let mut frame = BytesMut::new();
    frame.put_slice(&MAGIC);
    frame.put_u16(VERSION);
    frame.put_u32(0);
    let mut frame = frame.writer();
    serde_json::to_writer(&mut frame, value)?;
    let mut frame = frame.into_inner();
    let length = frame.len() - HEADER;
    if length > MAX_ANSWER {
        let text = format!("a message of {length} bytes; at most {MAX_ANSWER} are sent");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    frame[4..HEADER].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

fn body_length(header: [u8; HEADER], most: usize) -> Result<usize, FrameError> {
    let mut header = &header[..];
    let mut magic = [0; 2];
    header.copy_to_slice(&mut magic);
    let (version, length) = (header.get_u16(), header.get_u32());
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= most)
        .ok_or(FrameError::TooLarge(length))
}

async fn read_header(stream: &UnixStream) -> Result<([u8; HEADER], Option<OwnedFd>), FrameError> {
    let (mut header, mut got, mut descriptors) = ([0; HEADER], 0, Vec::new());
    while got < HEADER {
        stream.readable().await?;
        let space = &mut header[got..];
        let received = stream.try_io(Interest::READABLE, || {
            receive(stream, space, &mut descriptors)
        });
        match received {
            Ok(Received { bytes: 0, .. }) => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Ok(Received { cut: true, .. }) => return Err(not_taken(descriptors.len())),
            Ok(Received { bytes, .. }) => got += bytes,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    if descriptors.len() > 1 {
        return Err(FrameError::Descriptors(descriptors.len()));
    }
    Ok((header, descriptors.pop()))
}

/// Why the kernel closed descriptors instead of handing them over. There is room for one always; none
/// at all is taken when the process can't open another file.
fn not_taken(taken: usize) -> FrameError {
    match taken {
        0 => FrameError::NoRoom,
        several => FrameError::Descriptors(several),
    }
}

struct Received {
    bytes: usize,
    /// The kernel closed descriptors that there was no room for.
    cut: bool,
}

fn receive(
    stream: &UnixStream,
    space: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let mut parts = [IoSliceMut::new(space)];
    let message = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e: Errno| io::Error::from(e))?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    Ok(Received {
        bytes: message.bytes,
        cut: message.flags.contains(ReturnFlags::CTRUNC),
    })
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
