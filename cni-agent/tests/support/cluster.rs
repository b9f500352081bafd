//! Two nodes joined by an underlay, two pods on the first and one on the second, as the agent
//! would make them; every namespace is real and nothing but the programs carries packets.

use super::{
    BpfDir, Netns,
    frames::Mac,
    lab::{self, Pod},
};
use cni_agent::{
    datapath::{Datapath, DatapathConfig, DropReason, LogLevel, NodeRoute, Via, XdpMode},
    model,
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

const HOST_MAC: Mac = lab::HOST_MAC;

/// A node, its agent's datapath and its pods.
pub struct Node {
    pub netns: Netns,
    pub bpf: BpfDir,
    pub datapath: Datapath,
    pub xdp: XdpMode,
    mtu: u32,
    number: u8,
    pods: Vec<Pod>,
}

/// A pod's namespace and what the maps say of it.
pub struct PodNetns {
    pub netns: Netns,
    pub pod: Pod,
}

pub struct Cluster {
    pub nodes: [Node; 2],
    /// Two pods on the first node, one on the second.
    pub pods: [PodNetns; 3],
}

impl Cluster {
    /// Uplinks of this MTU; pods know nothing of it and take 1500.
    pub fn new(xdp: XdpMode, underlay_mtu: u32) -> Self {
        let netns = [Netns::new("fl-n1-"), Netns::new("fl-n2-")];
        let far = netns[1].path();
        netns[0].ip(&format!(
            "link add dev up0 type veth peer name up0 netns {}",
            far.display()
        ));
        for (number, node) in (1u8..).zip(&netns) {
            node.ip(&format!("link set dev up0 mtu {underlay_mtu} up"));
            node.ip(&format!("addr add 10.0.0.{number}/24 dev up0"));
            node.ip(&format!("addr add fd10::{number}/64 dev up0 nodad"));
        }
        let [first, second] = netns;
        let mut nodes = [
            Node::new(first, 1, xdp, underlay_mtu),
            Node::new(second, 2, xdp, underlay_mtu),
        ];
        let pods = [
            nodes[0].add_pod(2),
            nodes[0].add_pod(3),
            nodes[1].add_pod(2),
        ];
        Self { nodes, pods }
    }

    /// Lets the kernels forward what the programs leave to them, by the routes the agent makes.
    pub fn enable_stack(&self) {
        for (node, other) in self.nodes.iter().zip([2, 1]) {
            let (netns, number) = (&node.netns, node.number);
            netns.set("ipv4/ip_forward", 1);
            netns.set("ipv6/conf/all/forwarding", 1);
            netns.ip(&format!("route add 100.11.{other}.0/24 via 10.0.0.{other}"));
            netns.ip(&format!("route add fd00:b:{other}::/64 via fd10::{other}"));
            netns.ip(&format!("route add unreachable 100.11.{number}.0/24"));
            netns.ip(&format!("route add unreachable fd00:b:{number}::/64"));
        }
    }
}

impl Node {
    fn new(netns: Netns, number: u8, xdp: XdpMode, mtu: u32) -> Self {
        let bpf = BpfDir::new();
        let datapath = load(&netns, &bpf);
        let node = Self {
            netns,
            bpf,
            datapath,
            xdp,
            mtu,
            number,
            pods: Vec::new(),
        };
        node.fill(&node.datapath);
        node.attach(&node.datapath);
        node
    }

    /// Writes all rows.
    pub fn fill(&self, datapath: &Datapath) {
        let (number, mtu) = (self.number, self.mtu);
        let (ifindex, other) = (self.netns.ifindex("up0"), 3 - number);
        let via = |next_hop: String| Via::Node {
            next_hop: next_hop.parse().unwrap(),
            ifindex,
            mtu,
        };
        let route = |cidr: String, via| NodeRoute {
            cidr: cidr.parse().unwrap(),
            via,
        };
        datapath
            .sync_nodes(&[
                route(format!("100.11.{number}.0/24"), Via::Local),
                route(format!("fd00:b:{number}::/64"), Via::Local),
                route(
                    format!("100.11.{other}.0/24"),
                    via(format!("10.0.0.{other}")),
                ),
                route(
                    format!("fd00:b:{other}::/64"),
                    via(format!("fd10::{other}")),
                ),
            ])
            .unwrap();
        for pod in &self.pods {
            datapath
                .upsert_endpoint(&lab::endpoint(pod), pod.ifindex)
                .unwrap();
        }
    }

    fn add_pod(&mut self, id: u8) -> PodNetns {
        let netns = Netns::new("fl-pod-");
        let ifname = ["fl0", "fl1", "fl2", "fl3"][usize::from(id)];
        let mac = [0x02, 0xaa, 0, 0, self.number, id];
        self.netns.ip(&format!(
            "link add dev {ifname} address {} type veth peer name eth0 address {} netns {}",
            model::Mac(HOST_MAC),
            model::Mac(mac),
            netns.path().display()
        ));
        let v4 = Ipv4Addr::new(100, 11, self.number, id);
        let v6 = Ipv6Addr::new(0xfd00, 11, self.number.into(), 0, 0, 0, 0, id.into());
        let pod = Pod {
            ifname,
            ifindex: self.netns.ifindex(ifname),
            id: id.into(),
            mac,
            v4,
            v6,
        };
        self.datapath
            .upsert_endpoint(&lab::endpoint(&pod), pod.ifindex)
            .unwrap();
        self.netns
            .within(|| self.datapath.attach_endpoint(ifname, pod.ifindex))
            .unwrap();
        // The host's side: a route and a neighbour for each address.
        self.netns.ip(&format!("link set dev {ifname} up"));
        for ip in [format!("{v4}"), format!("{v6}")] {
            self.netns.ip(&format!("route add {ip} dev {ifname}"));
            self.netns.ip(&format!(
                "neigh add {ip} lladdr {} dev {ifname} nud permanent",
                model::Mac(mac)
            ));
        }
        // The pod's side; it asks for its gateway, and the program answers.
        netns.ip(&format!("addr add {v4}/32 dev eth0"));
        netns.ip(&format!("addr add {v6}/128 dev eth0 nodad"));
        netns.ip("link set dev eth0 up");
        netns.ip("route add 169.254.1.1 dev eth0 scope link");
        netns.ip("route add default via 169.254.1.1 dev eth0");
        netns.ip("route add default via fe80::1 dev eth0");
        self.pods.push(pod);
        PodNetns { netns, pod }
    }

    /// A further agent of the node, as after a restart: takes everything over.
    pub fn restart(&self) -> Datapath {
        let datapath = self.load();
        self.attach(&datapath);
        datapath
    }

    /// Loads without attaching anything.
    pub fn load(&self) -> Datapath {
        load(&self.netns, &self.bpf)
    }

    pub fn attach(&self, datapath: &Datapath) {
        let uplink = self.netns.ifindex("up0");
        self.netns.within(|| {
            datapath
                .attach_uplink("up0", uplink, self.xdp)
                .unwrap_or_else(|e| panic!("{e}"));
            for pod in &self.pods {
                datapath
                    .attach_endpoint(pod.ifname, pod.ifindex)
                    .unwrap_or_else(|e| panic!("{e}"));
            }
        });
    }

    /// Packets dropped on an interface, by reason.
    pub fn drops(&self, ifname: &str) -> BTreeMap<DropReason, u64> {
        let ifindex = self.netns.ifindex(ifname);
        let rows = self.datapath.drops().unwrap();
        rows.iter()
            .filter(|r| r.ifindex == ifindex)
            .map(|r| (r.reason, r.packets))
            .collect()
    }
}

impl PodNetns {
    /// Packets that the pod has received.
    pub fn received(&self) -> u64 {
        let text = self.netns.ip("-s -j link show dev eth0");
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    }
}

fn load(netns: &Netns, bpf: &BpfDir) -> Datapath {
    let config = DatapathConfig {
        bpf_dir: bpf.dir(),
        log_level: LogLevel::Off,
    };
    netns
        .within(|| Datapath::load(&config))
        .unwrap_or_else(|e| panic!("{e}"))
}
