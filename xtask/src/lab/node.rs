//! A node: a network namespace with an uplink, a podCIDR pair and the folders its agent uses.

use super::{NetNs, Session};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Name of every node's interface to the underlay.
pub(crate) const UPLINK: &str = "eth0";

/// The families of a node's addresses and podCIDRs, as its Kubernetes object tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    V4,
    V6,
}

/// One node of a lab.
pub(crate) struct Node {
    /// From 1.
    pub(crate) number: u8,
    /// The name of its lab.
    pub(crate) lab: &'static str,
    /// Its Kubernetes name: `n1`, `n2`, …
    pub(crate) name: String,
    /// Its network namespace.
    pub(crate) ns: NetNs,
    /// Its folder: state, sockets, CNI configuration, logs.
    pub(crate) dir: PathBuf,
}

impl Node {
    /// Makes the namespace and the folder; the underlay connects it.
    ///
    /// # Errors
    /// Those of the namespace and the file system.
    pub(super) fn new(
        session: &Arc<Session>,
        lab: &'static str,
        dir: &Path,
        number: u8,
    ) -> Result<Self> {
        let name = format!("n{number}");
        let dir = dir.join(&name);
        for folder in ["state", "cni"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let ns = NetNs::new(session, &format!("{lab}-{name}"))?.without_dad()?;
        Ok(Self {
            number,
            lab,
            name,
            ns,
            dir,
        })
    }

    /// Address on the underlay.
    pub(crate) fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, 250, 10 + self.number)
    }

    /// IPv6 address on the underlay.
    pub(crate) fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(
            0xfd00,
            0x172,
            0x31,
            0x250,
            0,
            0,
            0,
            0x10 + u16::from(self.number),
        )
    }

    /// Address on the underlay of the family wanted.
    pub(crate) fn addr(&self, v6: bool) -> IpAddr {
        if v6 {
            self.v6().into()
        } else {
            self.v4().into()
        }
    }

    /// The IPv4 podCIDR, `100.11.<number>.0/24`.
    pub(crate) fn pod_cidr4(&self) -> String {
        format!("100.11.{}.0/24", self.number)
    }

    /// The IPv6 podCIDR, `fd00:100:11:<number>::/64`.
    pub(crate) fn pod_cidr6(&self) -> String {
        format!("fd00:100:11:{:x}::/64", self.number)
    }

    /// The `index`th address pair of the podCIDRs, for pods that are wired without an agent. It
    /// begins where an agent's own allocation of a small lab does not reach.
    pub(crate) fn static_pod_addrs(&self, index: u8) -> Result<(Ipv4Addr, Ipv6Addr)> {
        ensure!(
            index < 100,
            "a lab's node takes at most 100 statically wired pods"
        );
        let host = 100 + index;
        let v6 = [
            0xfd00,
            0x100,
            0x11,
            u16::from(self.number),
            0,
            0,
            0,
            u16::from(host),
        ];
        Ok((
            Ipv4Addr::new(100, 11, self.number, host),
            Ipv6Addr::from(v6),
        ))
    }

    /// Socket of the node's agent.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// Where the shim spools and the agent replays.
    pub(crate) fn spool(&self) -> PathBuf {
        self.state_dir().join("spool")
    }

    /// Folder of the agent's store.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Standard error of the agent.
    pub(crate) fn agent_log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// The CNI configuration that a runtime on this node would have in `/etc/cni/net.d`, for the
    /// plugin of Fairlead.
    pub(crate) fn cni_config(&self, cni_version: &str) -> Value {
        json!({
            "cniVersion": cni_version,
            "name": "fairlead",
            "type": "fairlead-cni",
            "socket": self.socket(),
            "spool": self.spool(),
        })
    }

    /// The Kubernetes object of this node.
    fn object(&self, families: Families) -> Value {
        let v4 = (self.v4().to_string(), self.pod_cidr4());
        let v6 = (self.v6().to_string(), self.pod_cidr6());
        let wanted = match families {
            Families::Both => vec![v4, v6],
            Families::V4 => vec![v4],
            Families::V6 => vec![v6],
        };
        let (internal, cidrs): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        let mut addresses = vec![json!({ "type": "Hostname", "address": self.name })];
        let internal = internal.iter();
        addresses.extend(internal.map(|ip| json!({ "type": "InternalIP", "address": ip })));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name },
            "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
            "status": { "addresses": addresses },
        })
    }

    /// Writes the object to the folder that all agents watch. JSON is YAML, and the rename makes
    /// it appear whole.
    pub(super) fn write_manifest(&self, manifests: &Path, families: Families) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.object(families))?;
        let hidden = manifests.join(format!(".{}.tmp", self.name));
        fs::write(&hidden, text)?;
        fs::rename(&hidden, manifests.join(format!("node-{}.yaml", self.name)))
            .context("writing a node's manifest")
    }
}
