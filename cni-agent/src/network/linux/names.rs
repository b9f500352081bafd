//! Puts names to what the programs tell of: addresses, endpoints' numbers, interfaces, and the policies that
//! decide.

use super::{Linux, blocking, fault, policy_plan::protocol};
use crate::{
    datapath::PacketEnds,
    model::Endpoint,
    network::{Network, desired::Uplink, kernel::KernelError, policies::local},
    policy::{Because, Direction, Explanation, Port, explain},
    query::{End, FlowEnds},
    state::Cluster,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// Explanations of one answer: those of other packets name no policy.
const MOST_EXPLAINED: usize = 256;

/// What names are taken from, as it was at one moment.
pub(super) struct Known {
    cluster: Arc<Cluster>,
    node: String,
    endpoints: Vec<Endpoint>,
    /// Endpoints' numbers by interface.
    interfaces: BTreeMap<u32, u32>,
    uplinks: Vec<Uplink>,
}

impl Network<Linux> {
    /// What is known now.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) async fn known(&self) -> Result<Known, KernelError> {
        let datapath = self.kernel.datapath.clone();
        let rows = blocking(move || datapath.endpoints().map_err(fault)).await?;
        let desired = self.view().desired;
        Ok(Known {
            cluster: self.cluster.borrow().clone(),
            node: self.config.node_name.clone(),
            endpoints: self.book.list(),
            interfaces: rows
                .iter()
                .map(|(ifindex, row)| (*ifindex, row.id))
                .collect(),
            uplinks: desired.map_or_else(Vec::new, |desired| desired.uplinks.clone()),
        })
    }
}

impl Known {
    pub(super) fn names(&self) -> Names<'_> {
        Names {
            pods: by_address(&self.cluster),
            known: self,
            explained: HashMap::new(),
        }
    }
}

type Asked = (u32, Direction, IpAddr, String);

/// Puts names to addresses and numbers.
pub(super) struct Names<'a> {
    known: &'a Known,
    pods: HashMap<IpAddr, End>,
    explained: HashMap<Asked, Vec<String>>,
}

/// Everybody with a name.
fn by_address(cluster: &Cluster) -> HashMap<IpAddr, End> {
    let mut all = HashMap::new();
    let mut put =
        |name: String, addresses: &mut dyn Iterator<Item = &IpAddr>, node: Option<&String>| {
            for address in addresses {
                let end = End {
                    name: name.clone(),
                    address: *address,
                    node: node.cloned(),
                };
                all.insert(*address, end);
            }
        };
    for service in cluster.services.values() {
        let name = format!("service {}/{}", service.namespace, service.name);
        put(name, &mut service.cluster_ips.iter(), None);
    }
    for node in cluster.nodes.values() {
        let mut addresses = node.addresses.iter().chain(&node.further_addresses);
        put(format!("node {}", node.name), &mut addresses, None);
    }
    for pod in cluster.pods.values().filter(|pod| !pod.host_network) {
        let name = format!("pod {}/{}", pod.namespace, pod.name);
        put(name, &mut pod.ips.iter(), pod.node.as_ref());
    }
    all
}

impl Names<'_> {
    /// The pod or the uplink whose program saw it.
    pub(super) fn seen_by(&self, ifindex: u32) -> String {
        let Known {
            interfaces,
            uplinks,
            ..
        } = self.known;
        if let Some(id) = interfaces.get(&ifindex) {
            return self.endpoint(*id);
        }
        match uplinks.iter().find(|uplink| uplink.ifindex == ifindex) {
            Some(uplink) => format!("uplink {}", uplink.name),
            None => format!("interface {ifindex}"),
        }
    }

    /// An endpoint by its number.
    pub(super) fn endpoint(&self, id: u32) -> String {
        let endpoint = self.known.endpoints.iter().find(|e| e.id == id);
        match endpoint.and_then(|endpoint| endpoint.pod.as_ref()) {
            Some(pod) => format!("pod {}/{}", pod.namespace, pod.name),
            None => format!("endpoint {id}"),
        }
    }

    fn end(&self, address: IpAddr) -> End {
        let known = self.pods.get(&address).cloned();
        known.unwrap_or_else(|| End {
            name: String::new(),
            address,
            node: None,
        })
    }

    pub(super) fn ends(&self, ends: &PacketEnds) -> FlowEnds {
        FlowEnds {
            from: self.end(ends.source.ip()),
            from_port: ends.source.port(),
            to: self.end(ends.destination.ip()),
            to_port: ends.destination.port(),
            protocol: protocol_name(ends.protocol),
        }
    }

    /// Which policies say so, as `fairlead policy explain` has it.
    pub(super) fn policies(&mut self, direction: Direction, ends: &PacketEnds) -> Vec<String> {
        let (own, peer) = match direction {
            Direction::Ingress => (ends.destination, ends.source),
            Direction::Egress => (ends.source, ends.destination),
        };
        let has = |endpoint: &&Endpoint| endpoint.addresses.iter().any(|a| a == own.ip());
        let Some(endpoint) = self.known.endpoints.iter().find(has) else {
            return Vec::new();
        };
        let port = match protocol(ends.protocol) {
            Some(protocol) => Port::Of(protocol, ends.destination.port()),
            None => Port::None,
        };
        let asked = (endpoint.id, direction, peer.ip(), port.to_string());
        if let Some(known) = self.explained.get(&asked) {
            return known.clone();
        }
        if self.explained.len() >= MOST_EXPLAINED {
            return Vec::new();
        }
        let pod = local(endpoint);
        let said = explain(
            &self.known.cluster,
            &self.known.node,
            &pod,
            direction,
            peer.ip(),
            port,
        );
        let policies = deciders(&said);
        self.explained.insert(asked, policies.clone());
        policies
    }
}

/// The rule that denies, or the policies that select the pod and allow something else.
fn deciders(said: &Explanation) -> Vec<String> {
    let mut policies: Vec<String> = match said.because {
        Because::Rule => {
            let decides = said.rules.iter().rfind(|rule| rule.decides);
            let named = decides.map(|rule| format!("{} {}", rule.object, rule.rule));
            named.into_iter().collect()
        }
        Because::NoRule => {
            let own = said
                .rules
                .iter()
                .filter(|rule| rule.tier == "NetworkPolicy");
            own.map(|rule| rule.object.clone()).collect()
        }
        Because::NoPolicy | Because::OwnNode | Because::NotKnown => Vec::new(),
    };
    policies.dedup();
    policies
}

fn protocol_name(number: u8) -> String {
    match (protocol(number), number) {
        (Some(protocol), _) => protocol.as_str().to_owned(),
        (None, 1 | 58) => "ICMP".to_owned(),
        (None, other) => other.to_string(),
    }
}
