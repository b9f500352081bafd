//! Networks of nodes and pods on one machine, for the demo, the tests and the bench.
//!
//! A *node* is a network namespace with an uplink `eth0`, a pair of podCIDRs and a folder; a
//! *pod* is a network namespace that some CNI plugin (ours, a reference plugin) or a reference
//! set-up connected. Nothing here touches the machine's own interfaces. Reading order:
//! [`Session`] (ownership and clean-up), [`Lab`], [`Node`], [`Agent`], [`Plugin`] and [`Pod`],
//! then `reference` (what we compare with) and `probe` (what is measured).

#![cfg_attr(
    not(test),
    allow(
        dead_code,
        unused_imports,
        reason = "some parts serve the scenarios only, which are tests"
    )
)]

mod agent;
mod missing;
mod netns;
mod node;
mod outside;
mod plugin;
mod pod;
mod process;
mod session;
mod sweep;
mod underlay;
mod undo;

pub(crate) mod load;
pub(crate) mod probe;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

pub(crate) use agent::Agent;
pub(crate) use missing::{ensure_able, missing};
pub(crate) use netns::NetNs;
pub(crate) use node::{Families, Node, UPLINK};
pub(crate) use outside::Outside;
pub(crate) use plugin::{Action, Call, CniError, Plugin};
pub(crate) use pod::Pod;
pub(crate) use process::{Process, start_time};
pub(crate) use session::{Session, mounts_below, remove_traces, run};
pub(crate) use sweep::{remove_group, sweep, unified_group};
pub(crate) use underlay::Underlay;
pub(crate) use undo::StepId;

use anyhow::{Context, Result, ensure};
use cni_ebpf_common::LAYOUT_VERSION;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a lab consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabOptions {
    /// Tells the labs of one run apart, part of the namespaces' names: one short word.
    pub(crate) name: &'static str,
    /// Number of nodes, 1 to 200.
    pub(crate) nodes: u8,
    /// How they are joined.
    pub(crate) underlay: Underlay,
}

/// Nodes on an underlay, with the folder of manifests that their agents share and a bpffs of
/// their own.
pub(crate) struct Lab {
    /// The nodes; `n1` is at index 0.
    pub(crate) nodes: Vec<Node>,
    dir: PathBuf,
    /// Bridges and routers between the nodes, kept for as long as the nodes.
    between: Vec<NetNs>,
    session: Arc<Session>,
}

impl Lab {
    /// Makes the nodes and joins them. No agent runs yet and no pod exists.
    ///
    /// # Errors
    /// When a namespace, link, mount or file cannot be made.
    pub(crate) fn new(session: &Arc<Session>, options: LabOptions) -> Result<Self> {
        ensure!(
            (1..=200).contains(&options.nodes),
            "a lab has 1 to 200 nodes"
        );
        let dir = session.dir().join(options.name);
        let manifests = dir.join("manifests");
        fs::create_dir_all(&manifests)?;
        let bpf = dir.join("bpf");
        fs::create_dir(&bpf)?;
        session.undo().make("the lab's bpffs", || {
            mount("bpf", &bpf, "bpf", MountFlags::empty(), None)
                .with_context(|| format!("mounting bpffs on {}", bpf.display()))?;
            let bpf = bpf.clone();
            Ok(((), move || {
                unmount(&bpf, UnmountFlags::DETACH).context("unmounting bpffs")
            }))
        })?;

        let nodes = (1..=options.nodes)
            .map(|number| Node::new(session, options.name, &dir, number))
            .collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            node.write_manifest(&manifests, Families::Both)?;
        }
        let between = underlay::connect(options.underlay, session, options.name, &nodes)?;
        Ok(Self {
            nodes,
            dir,
            between,
            session: Arc::clone(session),
        })
    }

    /// The run that owns the lab.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The folder with the Kubernetes objects, which all agents watch.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// Writes the nodes' objects anew, with addresses and podCIDRs of these families. Before the
    /// agents start: a node's podCIDRs do not change.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn set_families(&self, families: Families) -> Result<()> {
        let mut nodes = self.nodes.iter();
        nodes.try_for_each(|node| node.write_manifest(&self.manifests(), families))
    }

    /// Where a node's agent pins its maps and links.
    pub(crate) fn bpf_dir(&self, node: &Node) -> PathBuf {
        self.dir.join("bpf").join(&node.name)
    }

    /// The folders `maps` and `links` in it.
    pub(crate) fn pins(&self, node: &Node) -> PathBuf {
        self.bpf_dir(node).join(format!("v{LAYOUT_VERSION}"))
    }

    /// The lab's folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}
