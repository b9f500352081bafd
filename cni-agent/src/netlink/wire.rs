//! The frame around netlink messages: where each begins, and what the kernel says of a failure. Read
//! by hand because the message crates drop the kernel's words.

use super::error::NetlinkError;
use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkMessage, NetlinkPayload};

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The netlink messages of one datagram.
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

pub(super) struct Part<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    bytes: &'a [u8],
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let header = self.0.get(..NLMSG_HEADER)?;
        let length = u32_at(header, 0)? as usize;
        let bytes = self
            .0
            .get(..length)
            .filter(|bytes| bytes.len() >= NLMSG_HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let part = Part {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            sequence: u32_at(header, 8)?,
            bytes,
        };
        Some(part)
    }
}

impl Part<'_> {
    pub(super) fn decode<M: NetlinkDeserializable>(&self, object: &str) -> Result<M, NetlinkError> {
        let fault = |fault: String| NetlinkError::Answer {
            object: object.to_owned(),
            fault,
        };
        let message =
            NetlinkMessage::<M>::deserialize(self.bytes).map_err(|e| fault(e.to_string()))?;
        match message.payload {
            NetlinkPayload::InnerMessage(message) => Ok(message),
            _ => Err(fault(format!("unexpected message type {}", self.kind))),
        }
    }

    /// What follows the netlink header.
    pub(super) fn payload(&self) -> &[u8] {
        self.bytes.get(NLMSG_HEADER..).unwrap_or(&[])
    }

    /// Error number and words of an error or end message; none for success.
    pub(super) fn failure(&self) -> Option<(i32, Option<String>)> {
        let code = u32_at(self.bytes, NLMSG_HEADER).unwrap_or(0).cast_signed();
        if code == 0 {
            return None;
        }
        let mut reason = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            // Behind the code an error has the header of its request; the end of a dump has not.
            let start = NLMSG_HEADER
                + 4
                + if self.kind == NLMSG_ERROR {
                    NLMSG_HEADER
                } else {
                    0
                };
            let mut rest = self.bytes.get(start..).unwrap_or(&[]);
            while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
                let Some(value) = rest.get(4..length as usize) else {
                    break;
                };
                if kind == NLMSGERR_ATTR_MSG {
                    let text = String::from_utf8_lossy(value);
                    reason = Some(text.trim_end_matches('\0').to_owned());
                }
                rest = rest
                    .get((length as usize).next_multiple_of(4)..)
                    .unwrap_or(&[]);
            }
        }
        Some((code.saturating_neg(), reason))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = (NLMSG_HEADER + body.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_kernels_words_are_found_behind_the_request() {
        let mut body = (-libc::EEXIST).to_ne_bytes().to_vec();
        body.extend([0; NLMSG_HEADER]);
        body.extend([8, 0, 9, 0, 1, 2, 3, 4]); // An attribute of another kind.
        body.extend([9, 0, 1, 0]);
        body.extend(b"word\0");
        let mut bytes = message(NLMSG_ERROR, NLM_F_ACK_TLVS, 7, &body);
        bytes.extend(message(NLMSG_ERROR, 0, 8, &[0; 20]));
        let parts: Vec<_> = Parts(&bytes).collect();
        assert_eq!(
            parts.iter().map(|part| part.sequence).collect::<Vec<_>>(),
            [7, 8]
        );
        assert_eq!(
            parts[0].failure(),
            Some((libc::EEXIST, Some("word".into())))
        );
        assert_eq!(parts[1].failure(), None);
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        for length in [0u32, 15, 17, u32::MAX] {
            let mut bytes = message(NLMSG_DONE, 0, 1, &[]);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Parts(&bytes).count(), 0, "{length}");
        }
        // An attribute shorter than its own header must not hold the walk.
        let mut body = (-1i32).to_ne_bytes().to_vec();
        body.extend([0; NLMSG_HEADER]);
        body.extend([0, 0, 1, 0]);
        let bytes = message(NLMSG_ERROR, NLM_F_ACK_TLVS, 1, &body);
        assert_eq!(Parts(&bytes).next().unwrap().failure(), Some((1, None)));
    }
}
