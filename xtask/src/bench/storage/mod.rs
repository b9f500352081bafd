//! Volumes: how soon a pod has one, what its reads and writes cost beside a bare directory's, and how long snapshots and
//! clones take, beside a copy.
//!
//! The pool is a file system made for the bench: XFS, and btrfs for the back end of that name, each in a file of its own
//! behind a loop device, as the driver makes one where the node's file system can't share blocks. The bare directory
//! is in the same file system: what is compared is what the driver adds.

mod cuts;
mod io;
mod latency;
mod report;
mod rig;

use super::stats::Estimate;
use crate::{csi_client::Class, lab::Session};
use anyhow::Result;
use rig::{PoolFs, Rig};
use std::{path::Path, sync::Arc, time::Duration};

pub(super) use report::{draw, tables};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) rounds: u32,
    /// Of one run of fio.
    pub(super) time: Duration,
    pub(super) quick: bool,
}

/// What a volume is, and on which pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BackEnd {
    name: &'static str,
    pool: PoolFs,
    class: Class,
}

/// All of them. A directory is bounded where the kernel has quotas of projects, and measured in either case.
const BACK_ENDS: [BackEnd; 5] = [
    BackEnd {
        name: "image, ext4",
        pool: PoolFs::Xfs,
        class: Class {
            parameters: &[("fsType", "ext4")],
            block: false,
        },
    },
    BackEnd {
        name: "image, xfs",
        pool: PoolFs::Xfs,
        class: Class {
            parameters: &[("fsType", "xfs")],
            block: false,
        },
    },
    BackEnd {
        name: "image, block",
        pool: PoolFs::Xfs,
        class: Class {
            parameters: &[],
            block: true,
        },
    },
    BackEnd {
        name: "directory",
        pool: PoolFs::Xfs,
        class: Class {
            parameters: &[("backend", "directory"), ("allowUnenforced", "true")],
            block: false,
        },
    },
    BackEnd {
        name: "btrfs",
        pool: PoolFs::Btrfs,
        class: Class {
            parameters: &[("backend", "btrfs")],
            block: false,
        },
    },
];

/// The figures.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Storage {
    latencies: Vec<latency::Latency>,
    io: Vec<io::Series>,
    cuts: Vec<cuts::Cut>,
    /// Back ends that the driver refused, with its words.
    refused: Vec<String>,
}

/// Measures everything.
///
/// # Errors
/// When a pool can't be made, or a call or a run fails.
pub(super) fn measure(
    session: &Arc<Session>,
    binaries: &Path,
    extent: Extent,
    say: &dyn Fn(&str),
) -> Result<Storage> {
    let mut rigs = Vec::new();
    for pool in [PoolFs::Xfs, PoolFs::Btrfs] {
        say(&format!("volumes: a pool on {}, and an agent", pool.name()));
        rigs.push(Rig::new(session, binaries, pool)?);
    }
    let mut refused = Vec::new();
    let mut rows = Vec::new();
    for back_end in BACK_ENDS {
        for rig in rigs.iter().filter(|rig| rig.pool == back_end.pool) {
            match rig.tried(&back_end)? {
                None => rows.push((rig, back_end)),
                Some(why) => {
                    say(&format!("{}: not measured: {why}", back_end.name));
                    refused.push(format!("{}: {why}", back_end.name));
                }
            }
        }
    }
    say("volumes: from the request to the pod's mount, 1 and 50 at a time");
    let latencies = latency::measure(&rows, extent)?;
    let io = io::measure(&rigs, &rows, extent, say)?;
    let cuts = cuts::measure(&rows, extent, say)?;
    Ok(Storage {
        latencies,
        io,
        cuts,
        refused,
    })
}
