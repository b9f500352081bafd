//! What keeps volumes in a pool, each of which has trials of its own.

#[cfg(test)]
use super::client::Form;

/// By the names that a StorageClass has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Backend {
    Image,
    Btrfs,
    Directory,
}

/// One back end alone.
pub(super) const VARIABLE: &str = "FAIRLEAD_BACKEND";

impl Backend {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Btrfs => "btrfs",
            Self::Directory => "directory",
        }
    }
}

#[cfg(test)]
impl Backend {
    /// The one that the environment names, or all.
    pub(super) fn wanted() -> Vec<Self> {
        let all = [Self::Image, Self::Btrfs, Self::Directory];
        let Ok(name) = std::env::var(VARIABLE) else {
            return all.into();
        };
        let wanted: Vec<_> = all.into_iter().filter(|of| of.name() == name).collect();
        assert!(!wanted.is_empty(), "{VARIABLE}={name} is no back end");
        wanted
    }

    /// What its volumes are like.
    pub(super) const fn forms(self) -> &'static [Form] {
        match self {
            Self::Image => &[Form::Ext4, Form::Xfs, Form::Block],
            Self::Btrfs => &[Form::Btrfs],
            Self::Directory => &[Form::Directory],
        }
    }
}
