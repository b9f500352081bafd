//! One thing that another network left.

use crate::netlink::foreign::ForeignRoute;
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;

/// What kind of thing; in the order in which they are removed: nothing new is made by the old network
/// once its configuration and its program are gone.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// CNI configuration that the runtime would still read.
    Config,
    /// CNI plugins.
    Binary,
    Link,
    Route,
    /// Chains of nftables, of iptables on nftables, and what can only be looked for by other tools.
    Firewall,
    /// Records of addresses.
    Ipam,
    /// Folders of state and configuration.
    Folder,
}

/// How a finding is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Renamed, so that the runtime no longer reads it and the way back is short.
    Aside {
        from: PathBuf,
        to: PathBuf,
    },
    /// A file, or a folder with all in it. Links are not followed.
    Delete(PathBuf),
    Link {
        ifindex: u32,
        name: String,
    },
    Route(ForeignRoute),
    /// Running pods need it: only with `--force`.
    InUse {
        ifindex: u32,
        name: String,
    },
    /// By the reader of this command.
    ByHand(String),
}

/// Something that another network left, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub kind: Kind,
    pub name: String,
    pub made_by: &'static str,
    /// What it is for.
    pub does: &'static str,
    /// What happens if it stays.
    pub if_left: &'static str,
    #[serde(serialize_with = "as_text")]
    pub removal: Removal,
}

impl Finding {
    /// Whether `clean` removes it.
    pub fn is_cleaned(&self, force: bool) -> bool {
        match self.removal {
            Removal::ByHand(_) => false,
            Removal::InUse { .. } => force,
            _ => true,
        }
    }
}

impl std::fmt::Display for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Aside { to, .. } => write!(f, "clean renames it to {}", to.display()),
            Self::Delete(path) => write!(f, "clean deletes {}", path.display()),
            Self::Link { name, .. } => write!(f, "clean deletes link {name}"),
            Self::Route(route) => write!(f, "clean removes route {}", route.cidr),
            Self::InUse { name, .. } => write!(
                f,
                "a running pod uses {name}: drain the node first; --force cuts the pod off"
            ),
            Self::ByHand(command) => write!(f, "by hand: {command}"),
        }
    }
}

fn as_text<S: serde::Serializer>(removal: &Removal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(removal)
}
