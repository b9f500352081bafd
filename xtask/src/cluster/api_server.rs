//! An API server with nothing else of a cluster, for the bench: its nodes are a lab's.

use super::{
    control_plane, pki,
    place::{Cluster, kubernetes},
    plan::{self, Member, Plan},
    underlay,
};
use crate::lab::{Lab, Session, run as program};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Tells it apart from clusters of `cargo xtask cluster`.
const NAME: &str = "bench";

/// How kube-proxy carries Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    Iptables,
    Nftables,
}

impl ProxyMode {
    /// As kube-proxy calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// etcd and the API server in a network namespace of their own. The session removes them.
pub(crate) struct ApiServer {
    cluster: Cluster,
    plan: Plan,
}

impl ApiServer {
    /// Starts both and waits until they serve.
    ///
    /// # Errors
    /// When one doesn't start, with the end of its log.
    pub(crate) fn start(session: &Session) -> Result<Self> {
        let cluster = Cluster::named(NAME)?;
        let plan = Plan {
            nodes: plan::first(1),
            cni: plan::Cni::None,
            kube_proxy: false,
            dns: false,
            ipv6: false,
        };
        cluster.begin()?;
        let doomed = cluster.clone();
        session
            .undo()
            .make("the API server", || Ok(((), move || doomed.remove())))?;
        pki::make(&cluster)?;
        underlay::make(&cluster)?;
        control_plane::serve(&cluster, &plan)?;
        Ok(Self { cluster, plan })
    }

    /// A way from a lab's first node to the API server, beside its uplink; `index` tells labs apart.
    ///
    /// # Errors
    /// Those of `ip`.
    pub(crate) fn reach(&self, lab: &Lab, index: u8) -> Result<()> {
        let node = &lab.nodes[0].ns;
        let control = self.cluster.netns(Member::ControlPlane);
        let (near, far) = (format!("172.29.{index}.2"), format!("172.29.{index}.1"));
        node.ip(&format!(
            "link add api type veth peer name lab{index} netns {control}\n\
             addr add {near}/30 dev api\nlink set api up\n"
        ))?;
        let words = format!("-n {control} addr add {far}/30 dev lab{index}");
        program("ip", &words.split(' ').collect::<Vec<_>>())?;
        let words = format!("-n {control} link set lab{index} up");
        program("ip", &words.split(' ').collect::<Vec<_>>())?;
        node.ip(&format!(
            "route add {}/32 via {far} dev api\n",
            Member::ControlPlane.v4()
        ))
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.cluster.dir().join("admin.json")
    }

    /// A command beside the API server, as the administrator.
    pub(crate) fn beside(&self, path: &Path) -> Command {
        let mut command = self.cluster.inside(Member::ControlPlane, path);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// kube-proxy for the node of that name.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub(crate) fn kube_proxy(&self, node: &str, mode: ProxyMode) -> Result<Command> {
        let mut command = Command::new(kubernetes("kube-proxy")?);
        let config = self.cluster.dir().join("proxy.json");
        command
            .arg(format!("--kubeconfig={}", config.display()))
            .arg(format!("--hostname-override={node}"))
            .arg(format!("--cluster-cidr={}", self.plan.pods()))
            .arg(format!("--proxy-mode={}", mode.name()))
            .args(super::node::OF_THE_MACHINE);
        Ok(command)
    }
}
