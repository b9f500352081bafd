//! One node with two pods and an uplink, on which programs are run with built frames.

use super::{BpfDir, Netns, frames::Mac};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{CgroupSockAddr, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use cni_agent::{
    datapath::{Datapath, DatapathConfig, DropReason, LogLevel, NodeRoute, PacketPath, Via},
    model::{self, Addresses, AttachmentId},
};
use cni_ebpf_common::config::LOG_LEVEL;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

pub const HOST_MAC: Mac = [0x02, 0xff, 0, 0, 0, 1];
pub const UPLINK_MAC: Mac = [0x02, 0xee, 0, 0, 0, 1];
pub const FAR_MAC: Mac = [0x02, 0xee, 0, 0, 0, 2];
/// Address of no pod, in the node's own podCIDR.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(100, 11, 1, 200);
/// Addresses on another node.
pub const FAR: Ipv4Addr = Ipv4Addr::new(100, 11, 2, 9);
pub const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 11, 2, 0, 0, 0, 0, 9);
/// Addresses in no podCIDR.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const UPLINK_MTU: u32 = 1400;

/// A pod of the lab.
#[derive(Clone, Copy)]
pub struct Pod {
    pub ifname: &'static str,
    pub ifindex: u32,
    pub id: u32,
    pub mac: Mac,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// What a program made of a frame.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the kernel's stack.
    Pass,
    Drop,
    Redirect,
}

/// Which program to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    FromPod,
    ToPod,
    FromUplink,
    XdpUplink,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
            Self::XdpUplink => "xdp_uplink",
        }
    }
}

/// The node. Pods' addresses are only in the maps: nothing but the programs is under test.
pub struct Lab {
    pub datapath: Datapath,
    pub a: Pod,
    pub b: Pod,
    pub uplink: u32,
    pub node: Netns,
    /// The same object once more on the same maps: a loaded datapath does not give its own away.
    programs: Ebpf,
    /// Holds the pods' ends `poda` and `podb`, and the uplink's, `far`.
    pub pods: Netns,
    _bpf: BpfDir,
}

impl Lab {
    pub fn new() -> Self {
        Self::with_log(LogLevel::Off)
    }

    pub fn with_log(log_level: LogLevel) -> Self {
        let (bpf, node, pods) = (BpfDir::new(), Netns::new("fl-lab-"), Netns::new("fl-pods-"));
        for (host, peer, mac) in [
            ("fla", "poda", HOST_MAC),
            ("flb", "podb", HOST_MAC),
            ("up", "far", UPLINK_MAC),
        ] {
            let far = pods.path();
            node.ip(&format!(
                "link add dev {host} address {} type veth peer name {peer} netns {}",
                model::Mac(mac),
                far.display()
            ));
            node.ip(&format!("link set dev {host} up"));
            pods.ip(&format!("link set dev {peer} up"));
        }
        let config = DatapathConfig {
            bpf_dir: bpf.dir(),
            log_level,
        };
        let datapath = node
            .within(|| Datapath::load(&config))
            .unwrap_or_else(|e| panic!("{e}"));
        let pod = |ifname, id: u8| Pod {
            ifname,
            ifindex: node.ifindex(ifname),
            id: id.into(),
            mac: [0x02, 0xaa, 0, 0, 0, id],
            v4: Ipv4Addr::new(100, 11, 1, id),
            v6: Ipv6Addr::new(0xfd00, 11, 1, 0, 0, 0, 0, id.into()),
        };
        let (a, b, uplink) = (pod("fla", 2), pod("flb", 3), node.ifindex("up"));
        for pod in [a, b] {
            datapath
                .upsert_endpoint(&endpoint(&pod), pod.ifindex)
                .unwrap();
        }
        datapath.sync_nodes(&routes(uplink)).unwrap();
        let programs = load_again(&datapath, log_level);
        Self {
            datapath,
            a,
            b,
            uplink,
            node,
            programs,
            pods,
            _bpf: bpf,
        }
    }

    /// Runs a program as if the frame came by an interface.
    pub fn run(&self, program: Program, ifindex: u32, frame: &[u8]) -> Outcome {
        self.run_as(
            program,
            Context {
                ifindex,
                ..Context::default()
            },
            frame,
        )
    }

    /// Runs a program with more said about the frame.
    pub fn run_as(&self, program: Program, context: Context, frame: &[u8]) -> Outcome {
        let mut out = vec![0; frame.len() + 256];
        let skb = context.bytes();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = context.repeat.max(1);
        let program_of = self
            .programs
            .program(program.name())
            .expect("the object has it");
        let result = self.node.within(|| match program {
            Program::XdpUplink => <&Xdp>::try_from(program_of).unwrap().test_run(options),
            _ => {
                options.ctx_in = Some(&skb);
                <&SchedClassifier>::try_from(program_of)
                    .unwrap()
                    .test_run(options)
            }
        });
        let result =
            result.unwrap_or_else(|e| panic!("{program:?} with {} bytes: {e:?}", frame.len()));
        out.truncate(usize::try_from(result.data_size_out).unwrap());
        let verdict = match (program, result.return_value) {
            (Program::XdpUplink, 2) | (_, u32::MAX) => Verdict::Pass,
            (Program::XdpUplink, 1) => Verdict::Drop,
            (_, 2) => Verdict::Drop,
            (_, 7) => Verdict::Redirect,
            (_, other) => panic!("{program:?} returned {other}"),
        };
        Outcome {
            verdict,
            frame: out,
            duration: result.duration,
        }
    }

    /// Packets dropped on an interface, by reason.
    pub fn drops(&self, ifindex: u32) -> BTreeMap<DropReason, u64> {
        let rows = self.datapath.drops().unwrap();
        rows.iter()
            .filter(|r| r.ifindex == ifindex)
            .map(|r| (r.reason, r.packets))
            .collect()
    }

    /// Packets by the way they took, without zeros.
    pub fn paths(&self) -> BTreeMap<&'static str, u64> {
        let rows: Vec<(PacketPath, _)> = self.datapath.paths().unwrap();
        rows.iter()
            .filter(|r| r.1.packets > 0)
            .map(|r| (r.0.name(), r.1.packets))
            .collect()
    }
}

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fairlead-ebpf"));

fn load_again(datapath: &Datapath, log_level: LogLevel) -> Ebpf {
    let level = log_level as u8;
    let mut loader = EbpfLoader::new();
    loader.override_global(LOG_LEVEL, &level, true);
    for map in datapath.pinned() {
        loader.map_pin_path(map.name, map.path);
    }
    let mut programs = loader.load(OBJECT).unwrap();
    for (name, program) in programs.programs_mut() {
        // The verifier gives up when a signal waits for the thread.
        let mut load = || match name {
            "xdp_uplink" => <&mut Xdp>::try_from(&mut *program).unwrap().load(),
            _ if name.ends_with(['4', '6']) => <&mut CgroupSockAddr>::try_from(&mut *program)
                .unwrap()
                .load(),
            _ => <&mut SchedClassifier>::try_from(&mut *program)
                .unwrap()
                .load(),
        };
        assert!(
            (0..10).any(|_| load().is_ok()),
            "{name}: {}",
            load().unwrap_err()
        );
    }
    programs
}

/// What is said of a frame besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    pub ifindex: u32,
    /// The interface by which the machine received the packet.
    pub ingress: u32,
    pub segments: u32,
    pub segment_size: u32,
    pub repeat: u32,
}

impl Context {
    /// `struct __sk_buff`.
    fn bytes(self) -> Vec<u8> {
        let mut skb = vec![0; 192];
        for (at, value) in [
            (36, self.ingress),
            (40, self.ifindex),
            (164, self.segments),
            (176, self.segment_size),
        ] {
            skb[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        skb
    }
}

/// The pod as the agent stores it.
pub fn endpoint(pod: &Pod) -> model::Endpoint {
    model::Endpoint {
        attachment: AttachmentId::new(&format!("pod{}", pod.id), "eth0").unwrap(),
        id: pod.id,
        network: "test".into(),
        pod: None,
        addresses: Addresses {
            v4: Some(pod.v4),
            v6: Some(pod.v6),
        },
        mac: model::Mac(pod.mac),
        host_mac: model::Mac(HOST_MAC),
        host_ifname: pod.ifname.into(),
        mtu: 1500,
        sandbox: String::new(),
        created_at: 0,
        wired: false,
    }
}

/// The lab's own podCIDRs and those of one other node.
pub fn routes(uplink: u32) -> Vec<NodeRoute> {
    let via = |next_hop: &str| Via::Node {
        next_hop: next_hop.parse().unwrap(),
        ifindex: uplink,
        mtu: UPLINK_MTU,
    };
    [
        ("100.11.1.0/24", Via::Local),
        ("fd00:b:1::/64", Via::Local),
        ("100.11.2.0/24", via("10.0.0.2")),
        ("fd00:b:2::/64", via("fd10::2")),
    ]
    .map(|(cidr, via)| NodeRoute {
        cidr: cidr.parse().unwrap(),
        via,
    })
    .to_vec()
}
