//! Which interface of which sandbox a CNI call is about.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The pair that names an attachment for the container runtime (CNI specification, section 2:
/// `CNI_CONTAINERID` and `CNI_IFNAME`). Valid by construction: neither part can be a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct AttachmentId {
    container_id: String,
    ifname: String,
}

#[derive(Deserialize)]
struct Raw {
    container_id: String,
    ifname: String,
}

impl TryFrom<Raw> for AttachmentId {
    type Error = InvalidAttachment;
    fn try_from(raw: Raw) -> Result<Self, InvalidAttachment> {
        Self::new(&raw.container_id, &raw.ifname)
    }
}

/// Why a pair of names is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAttachment {
    #[error("CNI_CONTAINERID is empty; the runtime must set it")]
    EmptyContainerId,
    #[error("CNI_CONTAINERID has {0} bytes, at most {max} are taken", max = AttachmentId::MAX_CONTAINER_ID)]
    LongContainerId(usize),
    #[error(
        "CNI_CONTAINERID must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'"
    )]
    ContainerIdCharacters,
    #[error("CNI_IFNAME is empty; the runtime must set it, eth0 for example")]
    EmptyIfname,
    #[error("CNI_IFNAME has {0} bytes, Linux takes at most 15")]
    LongIfname(usize),
    #[error("CNI_IFNAME must not be '.' or '..' nor hold '/', ':' or white space")]
    IfnameCharacters,
}

impl AttachmentId {
    /// Longest container id taken; runtimes use 64 hexadecimal digits.
    pub const MAX_CONTAINER_ID: usize = 128;

    /// Checks both names by the rules of CNI 1.1.0 (section 2, parameters).
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, InvalidAttachment> {
        if container_id.is_empty() {
            return Err(InvalidAttachment::EmptyContainerId);
        }
        if container_id.len() > Self::MAX_CONTAINER_ID {
            return Err(InvalidAttachment::LongContainerId(container_id.len()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let bytes = container_id.as_bytes();
        if !bytes[0].is_ascii_alphanumeric() || !bytes.iter().all(|&b| allowed(b)) {
            return Err(InvalidAttachment::ContainerIdCharacters);
        }
        if ifname.is_empty() {
            return Err(InvalidAttachment::EmptyIfname);
        }
        if ifname.len() > 15 {
            return Err(InvalidAttachment::LongIfname(ifname.len()));
        }
        if matches!(ifname, "." | "..")
            || ifname
                .chars()
                .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
        {
            return Err(InvalidAttachment::IfnameCharacters);
        }
        Ok(Self {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// `CNI_CONTAINERID`.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// `CNI_IFNAME`.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(container_id: &str, ifname: &str, expected: Option<InvalidAttachment>) {
        assert_eq!(
            AttachmentId::new(container_id, ifname).err(),
            expected,
            "{container_id:?} {ifname:?}"
        );
    }

    #[test]
    fn names_that_could_be_paths_or_options_are_refused() {
        check("a1_b.c-d", "eth0", None);
        check(&"a".repeat(128), &"e".repeat(15), None);
        check("", "eth0", Some(InvalidAttachment::EmptyContainerId));
        check(
            &"a".repeat(129),
            "eth0",
            Some(InvalidAttachment::LongContainerId(129)),
        );
        check(
            "../etc",
            "eth0",
            Some(InvalidAttachment::ContainerIdCharacters),
        );
        check(
            "a/b",
            "eth0",
            Some(InvalidAttachment::ContainerIdCharacters),
        );
        check("-a", "eth0", Some(InvalidAttachment::ContainerIdCharacters));
        check("a", "", Some(InvalidAttachment::EmptyIfname));
        check(
            "a",
            &"e".repeat(16),
            Some(InvalidAttachment::LongIfname(16)),
        );
        for ifname in [".", "..", "a/b", "a:b", "a b", "a\nb"] {
            check("a", ifname, Some(InvalidAttachment::IfnameCharacters));
        }
    }

    #[test]
    fn a_stored_attachment_is_checked_again_when_read() {
        let text = r#"{"container_id":"../x","ifname":"eth0"}"#;
        assert!(serde_json::from_str::<AttachmentId>(text).is_err());
    }
}
