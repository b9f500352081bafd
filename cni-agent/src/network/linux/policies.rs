//! What people ask about policies: answered from the cluster as it is now, and by the programs themselves.

use super::{Linux, blocking, fault};
use crate::{
    cni::{CniError, code},
    datapath::{DatapathError, Entry, Fate, Tried, TriedPacket},
    domains::InUse,
    model::{Endpoint, Protocol},
    network::{
        Network,
        kernel::KernelError,
        policies::local,
        policy_ends::{Meant, at, find},
    },
    policy::{Direction, Explanation, LocalPod, Port, explain, selected_by},
    query::{Backend, End, PolicyAnswer, PolicyQuestion, PolicyRow, ProgramsSay},
    state::Cluster,
};
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

const STACK: &str = "handed to the host's stack";
/// Of a client, which no rule looks at.
const CLIENT_PORT: u16 = 40_000;

impl Network<Linux> {
    /// Why one end may connect to the other, or not.
    ///
    /// # Errors
    /// An end is nobody, neither is of this node, or the kernel can't be asked.
    pub async fn explain_policy(&self, asked: &PolicyQuestion) -> Result<PolicyAnswer, CniError> {
        let cluster = self.cluster.borrow().clone();
        let wrong = |end| move |error: String| not_found(end, &error);
        let from = find(&cluster, &asked.from).map_err(wrong("FROM"))?;
        let to = find(&cluster, &asked.to).map_err(wrong("TO"))?;
        let (from, to) = one_family(&from, &to).map_err(wrong("TO"))?;
        let endpoints = self.book.list();
        let here = |end: &End| {
            let has = |endpoint: &&Endpoint| endpoint.addresses.iter().any(|a| a == end.address);
            endpoints.iter().find(has)
        };
        let (sender, receiver) = (here(&from), here(&to));
        let packet = self
            .packet(asked.port, &from, &to, sender, receiver)
            .await?;
        let datapath = self.kernel.datapath.clone();
        let tried: Tried = blocking(move || datapath.try_packet(&packet).map_err(fault))
            .await
            .map_err(|error: KernelError| CniError::kernel(&error))?;
        let backend = (tried.destination.ip() != to.address).then(|| Backend {
            address: tried.destination,
            end: at(&cluster, tried.destination.ip())
                .end(tried.destination.is_ipv4())
                .unwrap_or_else(|| to.clone()),
        });
        let (answers, port) = match (&backend, asked.port) {
            (Some(backend), Port::Of(protocol, _)) => (
                backend.end.clone(),
                Port::Of(protocol, backend.address.port()),
            ),
            _ => (to.clone(), asked.port),
        };
        let receiver = here(&answers);
        let node = &self.config.node_name;
        let says = |pod: Option<&Endpoint>, direction, peer: &End| {
            let pod = pod.map(local)?;
            Some(explain(&cluster, node, &pod, direction, peer.address, port))
        };
        let answer = PolicyAnswer {
            node: node.clone(),
            port: asked.port,
            allowed: true,
            egress: says(sender, Direction::Egress, &answers),
            ingress: says(receiver, Direction::Ingress, &from),
            elsewhere: elsewhere(&from, &answers, sender, receiver),
            programs: said(&packet, &tried),
            backend,
            problems: Vec::new(),
            from,
            to,
        };
        Ok(self.judged(answer))
    }

    /// Which of the two is this node's decides where the packet comes in.
    async fn packet(
        &self,
        port: Port,
        from: &End,
        to: &End,
        sender: Option<&Endpoint>,
        receiver: Option<&Endpoint>,
    ) -> Result<TriedPacket, CniError> {
        let own = self
            .cluster
            .borrow()
            .nodes
            .get(&self.config.node_name)
            .cloned();
        let of_own = own.is_some_and(|own| {
            own.addresses.contains(&from.address) || own.further_addresses.contains(&from.address)
        });
        let kernel = |error: KernelError| CniError::kernel(&error);
        let (entry, ifindex, macs) = match (sender, receiver) {
            (Some(pod), _) => {
                let ifindex = self.kernel.ifindex_of(pod).await.map_err(kernel)?;
                (Entry::Pod, ifindex, [pod.mac.0, pod.host_mac.0])
            }
            (None, Some(pod)) if of_own => {
                let ifindex = self.kernel.ifindex_of(pod).await.map_err(kernel)?;
                (Entry::Host, ifindex, [pod.host_mac.0, pod.mac.0])
            }
            (None, Some(_)) => {
                let uplink = self.view().desired.and_then(|d| d.uplinks.first().cloned());
                let uplink = uplink.ok_or_else(|| {
                    CniError::try_again(
                        "this node has no uplink yet, by which such a packet would come",
                    )
                })?;
                let mac = mac_of(&uplink.name).map_err(|error| CniError::io(&error))?;
                // Whoever hands it on: nobody looks at it.
                (Entry::Uplink, uplink.ifindex, [[2, 0, 0, 0, 0, 1], mac])
            }
            (None, None) => {
                let node = [from, to].into_iter().find_map(|end| end.node.as_ref());
                let there = node.map_or_else(String::new, |node| format!(" (on node {node})"));
                let error = format!(
                    "neither end is a pod of this node, so that nothing is decided here; ask where one of them runs{there}"
                );
                return Err(not_found("FROM and TO", &error));
            }
        };
        let (protocol, ports) = match port {
            Port::Of(protocol, port) => (number(protocol), [CLIENT_PORT, port]),
            Port::None if from.address.is_ipv4() => (1, [0, 0]),
            Port::None => (58, [0, 0]),
        };
        Ok(TriedPacket {
            entry,
            ifindex,
            macs,
            source: SocketAddr::new(from.address, ports[0]),
            destination: SocketAddr::new(to.address, ports[1]),
            protocol,
        })
    }

    /// Puts together what the rules and the programs say.
    fn judged(&self, mut answer: PolicyAnswer) -> PolicyAnswer {
        let passes = answer.programs.passes;
        if !self.config.network_policy {
            let off =
                "policies are not enforced on this node: start the agent with --network-policy";
            answer.problems.push(off.into());
            answer.allowed = passes;
            return answer;
        }
        let allows = |said: &Option<Explanation>| {
            let said = said.as_ref();
            said.is_none_or(|said| said.allowed || said.audit)
        };
        let (egress, ingress) = (allows(&answer.egress), allows(&answer.ingress));
        answer.allowed = egress && ingress && passes;
        // What the stack carries is asked about once more when it gets to the pod.
        let expected = egress && (ingress || answer.programs.outcome == STACK);
        let by_policy = answer.programs.outcome.starts_with("policy_");
        if (passes || by_policy) && passes != expected {
            let differs = "the programs don't say what the policies say: ask again in a moment; if that stays, `fairlead status` says what is in the way";
            answer.problems.push(differs.into());
        }
        answer
    }

    /// Every policy, in the order in which tiers are asked, with the pods of this node that it selects.
    pub fn policy_rows(&self) -> Vec<PolicyRow> {
        let cluster = self.cluster.borrow().clone();
        let locals: Vec<LocalPod> = self.book.list().iter().map(local).collect();
        rows(&cluster, &locals)
    }
}

/// Words of the command line that lead to nothing.
pub(super) fn not_found(word: &str, error: &str) -> CniError {
    CniError::new(code::CONFIG, format!("{word}: {error}"))
}

impl Linux {
    /// Tells which addresses connections of this node's pods go on to.
    pub fn in_use(&self) -> InUse {
        let datapath = self.datapath.clone();
        Arc::new(move |asked| {
            let peers = || -> Result<BTreeSet<IpAddr>, DatapathError> {
                let mut peers = BTreeSet::new();
                for (_, endpoint) in datapath.endpoints()? {
                    let rows = datapath.connections(endpoint.id)?;
                    peers.extend(rows.iter().map(|row| row.peer));
                }
                Ok(peers)
            };
            match peers() {
                Ok(peers) => asked.intersection(&peers).copied().collect(),
                Err(error) => {
                    tracing::warn!(%error, "connections can't be read: addresses of names stay allowed for now");
                    asked.clone()
                }
            }
        })
    }

    /// Index of the host's end of a pod's link.
    async fn ifindex_of(&self, pod: &Endpoint) -> Result<u32, KernelError> {
        let (datapath, id) = (self.datapath.clone(), pod.id);
        let rows = blocking(move || datapath.endpoints().map_err(fault)).await?;
        let row = rows.iter().find(|(_, row)| row.id == id);
        let row = row.map(|(ifindex, _)| *ifindex);
        row.ok_or_else(|| fault("the pod's link is not served; `fairlead status` says why"))
    }
}

fn rows(cluster: &Cluster, locals: &[LocalPod]) -> Vec<PolicyRow> {
    let selected = selected_by(cluster, locals);
    let pods = |kind: &str, namespace: &str, name: &str| {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        selected.get(&key).cloned().unwrap_or_default()
    };
    let mut rows: Vec<PolicyRow> = (cluster.policies.values())
        .map(|policy| PolicyRow {
            tier: "NetworkPolicy".into(),
            priority: None,
            kind: "NetworkPolicy".into(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            ingress: policy.ingress.as_ref().map(Vec::len),
            egress: policy.egress.as_ref().map(Vec::len),
            pods: pods("NetworkPolicy", &policy.namespace, &policy.name),
            problems: Vec::new(),
        })
        .collect();
    rows.extend(cluster.cluster_policies.values().map(|policy| PolicyRow {
        tier: format!("{:?}", policy.tier),
        priority: Some(policy.priority),
        kind: policy.kind.clone(),
        namespace: String::new(),
        name: policy.name.clone(),
        ingress: Some(policy.ingress.len()).filter(|rules| *rules > 0),
        egress: Some(policy.egress.len()).filter(|rules| *rules > 0),
        pods: pods(&policy.kind, "", &policy.name),
        problems: policy.unmet.clone(),
    }));
    let place = |tier: &str| {
        ["Admin", "NetworkPolicy", "Baseline"]
            .iter()
            .position(|t| *t == tier)
    };
    rows.sort_by(|a, b| (place(&a.tier), a).cmp(&(place(&b.tier), b)));
    rows
}

/// Addresses of one family, the older first.
fn one_family(from: &Meant, to: &Meant) -> Result<(End, End), String> {
    for v4 in [true, false] {
        if let (Some(from), Some(to)) = (from.end(v4), to.end(v4)) {
            return Ok((from, to));
        }
    }
    Err("has no address of a family that FROM has too; name both by addresses of one family".into())
}

fn elsewhere(
    from: &End,
    to: &End,
    sender: Option<&Endpoint>,
    receiver: Option<&Endpoint>,
) -> Vec<String> {
    let ends = [
        (from, sender, "what it may send"),
        (to, receiver, "what may come to it"),
    ];
    let of_others = ends.into_iter().filter(|(_, here, _)| here.is_none());
    of_others
        .filter_map(|(end, _, what)| {
            let node = end.node.as_ref()?;
            Some(format!(
                "{}: {what} is decided on node {node}; ask there too",
                end.name
            ))
        })
        .collect()
}

fn said(packet: &TriedPacket, tried: &Tried) -> ProgramsSay {
    let program = match packet.entry {
        Entry::Pod => "from_pod",
        Entry::Uplink => "from_uplink",
        Entry::Host => "to_pod",
    };
    let (passes, outcome) = match tried.fate {
        Fate::Dropped(reason) => (false, reason.name()),
        Fate::Redirected => (true, "forwarded"),
        Fate::Stack => (true, STACK),
    };
    ProgramsSay {
        program: program.into(),
        passes,
        outcome: outcome.into(),
    }
}

pub(super) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Of a device of this network namespace.
fn mac_of(device: &str) -> Result<[u8; 6], String> {
    let path = format!("/sys/class/net/{device}/address");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let bytes: Option<Vec<u8>> = (text.trim().split(':'))
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let mac = bytes.and_then(|bytes| bytes.try_into().ok());
    mac.ok_or_else(|| format!("{path}: {text:?} is no address"))
}
