//! Names of our own for volumes, snapshots and groups of them. A handle that comes from outside is one of these or it is
//! nobody's: it is only ever a key into what we remember, and never part of a path before it has been read here
//! (CVE-2026-3864, CVE-2025-62878).

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use std::{fmt, io};

const DIGITS: usize = 32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub(super) struct $name(String);

        impl $name {
            /// A new one.
            pub(super) fn random() -> io::Result<Self> {
                Ok(Self(format!(concat!($prefix, "{}"), digits()?)))
            }

            /// One that somebody names; none: it is no such name.
            pub(super) fn parse(text: &str) -> Option<Self> {
                let digits = text.strip_prefix($prefix)?;
                let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                let fits = digits.len() == DIGITS && digits.bytes().all(is_hex);
                fits.then(|| Self(text.to_owned()))
            }

            pub(super) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::parse(&text).ok_or_else(|| format!("{text:?} is none of our names"))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id! {
    /// A volume.
    VolumeId, "vol-"
}

id! {
    /// A snapshot.
    SnapshotId, "snap-"
}

id! {
    /// Snapshots of several volumes at one moment.
    GroupId, "group-"
}

fn digits() -> io::Result<String> {
    let mut bytes = [0; DIGITS / 2];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_no_other() {
        let id = VolumeId::random().unwrap();
        assert_eq!(VolumeId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(SnapshotId::parse(id.as_str()), None);
        let long = "a".repeat(128);
        for text in [
            "",
            "vol-",
            "vol-0123456789abcdef0123456789abcde",
            "vol-0123456789abcdef0123456789abcdeff",
            "vol-0123456789ABCDEF0123456789ABCDEF",
            "vol-../../../../../../etc/passwd....",
            "vol-0123456789abcdef0123456789abcde\0",
            "/vol-0123456789abcdef0123456789abcdef",
            &long,
        ] {
            assert_eq!(VolumeId::parse(text), None, "{text:?}");
        }
    }
}
