//! The paths that the bench measures side by side.
//!
//! Uplinks of two nodes are the two ends of one veth pair ([`Underlay::Direct`]): host ↔ host is
//! then the least that a packet between nodes costs, and no bridge dilutes the differences.

use super::worker::{self, Measured, Serving};
use crate::lab::{Agent, Lab, LabOptions, Plugin, Pod, Session, Underlay, load::Load, reference};
use anyhow::{Context, Result};
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

/// Core of the loading ends, and of the serving ends.
pub(super) const CORES: (usize, usize) = (0, 1);

/// Where the ends of a path are, which decides the limit it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Place {
    /// On one node; the limit is the bare veth pair.
    SameNode,
    /// On two nodes; the limit is host ↔ host.
    OtherNode,
}

/// One measured path.
#[derive(Clone)]
pub(super) struct Measurable {
    /// Stable name in the raw figures.
    pub(super) key: String,
    pub(super) place: Place,
    /// Whether this is the limit of its place.
    pub(super) limit: bool,
    /// Whether this is Fairlead with its defaults, which the aims are about.
    pub(super) ours: bool,
    pub(super) target: IpAddr,
    client: Client,
    serving: usize,
}

#[derive(Clone, Copy)]
enum Client {
    Pod(usize),
    /// The first node of the first lab.
    Host,
}

impl Measurable {
    /// The same path as one that is compared with it.
    fn again(&self) -> Self {
        Self {
            key: format!("{}, again", self.key),
            limit: false,
            ..self.clone()
        }
    }
}

/// All labs, agents, pods and paths of a bench. The fields end in this order: serving ends before
/// agents, agents before pods and nodes.
#[derive(Default)]
pub(super) struct Paths {
    pub(super) list: Vec<Measurable>,
    servings: Vec<Serving>,
    agents: Vec<Agent>,
    pods: Vec<Pod>,
    labs: Vec<Lab>,
}

impl Paths {
    /// Makes everything: `binaries` holds Fairlead's, `plugins` the reference plugins, `xdp` the
    /// further modes of `--xdp` that are measured besides the default.
    ///
    /// # Errors
    /// When a lab, an agent or a pod fails.
    pub(super) fn new(
        session: &Arc<Session>,
        binaries: &Path,
        plugins: &Path,
        xdp: &[String],
    ) -> Result<Self> {
        let mut paths = Self::default();
        paths.kernel(session)?;
        paths.bridge(session, plugins)?;
        paths.fairlead(session, binaries, "fl", None)?;
        for (mode, name) in xdp.iter().zip(["x0", "x1", "x2", "x3"]) {
            paths.fairlead(session, binaries, name, Some(mode))?;
        }
        Ok(paths)
    }

    /// Sends a load over a path.
    ///
    /// # Errors
    /// When the load fails.
    pub(super) fn run(&mut self, index: usize, load: Load, time: Duration) -> Result<Measured> {
        let path = &self.list[index];
        let client = match path.client {
            Client::Pod(pod) => &self.pods[pod].ns,
            Client::Host => &self.labs[0].nodes[0].ns,
        };
        let serving = &mut self.servings[path.serving];
        worker::measure(client, CORES.0, None, serving, path.target, load, time)
    }

    /// The limits, and plain kernel routing.
    fn kernel(&mut self, session: &Arc<Session>) -> Result<()> {
        let options = LabOptions {
            name: "ref",
            nodes: 2,
            underlay: Underlay::Direct,
        };
        let lab = Lab::new(session, options)?;
        let (a, b) = reference::veth_pair(&lab.nodes[0])?;
        let bare = self.add_pods([a, b]);
        reference::route_nodes(&lab.nodes)?;
        let from = reference::routed_pod(&lab.nodes[0], 0)?;
        let near = reference::routed_pod(&lab.nodes[0], 1)?;
        let far = reference::routed_pod(&lab.nodes[1], 0)?;
        let routed = self.add_pods([from, near, far]);

        let serving = Serving::start(&lab.nodes[1].ns, CORES.1)?;
        self.servings.push(serving);
        let host = Measurable {
            key: "host ↔ host".to_owned(),
            place: Place::OtherNode,
            limit: true,
            ours: false,
            target: lab.nodes[1].v4().into(),
            client: Client::Host,
            serving: self.servings.len() - 1,
        };
        self.labs.push(lab);
        self.pod_path("bare veth pair", Place::SameNode, bare, bare + 1)?
            .limit = true;
        self.list.push(host);
        // The limits once more, as if they were other paths: what they differ by is noise.
        for index in 0..self.list.len() {
            let again = self.list[index].again();
            self.list.push(again);
        }
        self.pod_path(
            "kernel routing, same node",
            Place::SameNode,
            routed,
            routed + 1,
        )?;
        self.pod_path(
            "kernel routing, other node",
            Place::OtherNode,
            routed,
            routed + 2,
        )?;
        Ok(())
    }

    /// The reference plugin `bridge`.
    fn bridge(&mut self, session: &Arc<Session>, plugins: &Path) -> Result<()> {
        let options = LabOptions {
            name: "bridge",
            nodes: 1,
            underlay: Underlay::Bridge,
        };
        let lab = Lab::new(session, options)?;
        let plugin = reference::bridge_plugin(&lab.nodes[0], plugins);
        let from = Pod::add(&lab.nodes[0], &plugin, "n1b0").context("the reference bridge")?;
        let to = Pod::add(&lab.nodes[0], &plugin, "n1b1").context("the reference bridge")?;
        let first = self.add_pods([from, to]);
        self.labs.push(lab);
        self.pod_path(
            "reference bridge, same node",
            Place::SameNode,
            first,
            first + 1,
        )?;
        Ok(())
    }

    /// Fairlead with its defaults, or with another mode of XDP.
    fn fairlead(
        &mut self,
        session: &Arc<Session>,
        binaries: &Path,
        name: &'static str,
        xdp: Option<&str>,
    ) -> Result<()> {
        let lab = Lab::new(
            session,
            LabOptions {
                name,
                nodes: 2,
                underlay: Underlay::Direct,
            },
        )?;
        let extra: Vec<&str> = xdp.into_iter().flat_map(|mode| ["--xdp", mode]).collect();
        let mut agents = Vec::new();
        for node in &lab.nodes {
            agents.push(Agent::spawn(
                &lab,
                node,
                &binaries.join("fairlead"),
                &extra,
            )?);
        }
        for agent in &mut agents {
            agent.wait_ready()?;
        }
        let pod = |node: usize, number: u8| {
            let node = &lab.nodes[node];
            let plugin = Plugin {
                path: binaries.to_owned(),
                config: node.cni_config("1.1.0"),
            };
            Pod::add(node, &plugin, &format!("{}p{number}", node.name))
        };
        let first = self.add_pods([pod(0, 0)?, pod(0, 1)?, pod(1, 0)?]);
        self.agents.extend(agents);
        self.labs.push(lab);
        let label = xdp.map_or_else(
            || "Fairlead".to_owned(),
            |mode| format!("Fairlead, xdp {mode}"),
        );
        for (place, word, to) in [
            (Place::SameNode, "same", first + 1),
            (Place::OtherNode, "other", first + 2),
        ] {
            // XDP sits on the uplink: on one node there is nothing of it.
            if xdp.is_none() || place == Place::OtherNode {
                let key = format!("{label}, {word} node");
                self.pod_path(&key, place, first, to)?.ours = xdp.is_none();
            }
        }
        Ok(())
    }

    /// Takes pods over and answers the index of the first.
    fn add_pods<const N: usize>(&mut self, pods: [Pod; N]) -> usize {
        self.pods.extend(pods);
        self.pods.len() - N
    }

    fn pod_path(
        &mut self,
        key: &str,
        place: Place,
        from: usize,
        to: usize,
    ) -> Result<&mut Measurable> {
        let serving = Serving::start(&self.pods[to].ns, CORES.1)?;
        self.servings.push(serving);
        let path = Measurable {
            key: key.to_owned(),
            place,
            limit: false,
            ours: false,
            target: self.pods[to].v4.into(),
            client: Client::Pod(from),
            serving: self.servings.len() - 1,
        };
        Ok(self.list.push_mut(path))
    }
}
