//! Packets of connections with right checksums, and what a program made of them: every checksum is
//! computed anew from the bytes.

use super::{
    frames::{self, IPV4, IPV6, TCP, UDP},
    lab::{HOST_MAC, Lab, Pod},
};
use cni_agent::{
    model::Protocol,
    service::{Frontend, FrontendKind, WhenEmpty},
};
use std::net::{IpAddr, SocketAddr};

pub const SCTP: u8 = 132;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 0x11;
pub const RST: u8 = 0x14;
pub const SYN_ACK: u8 = 0x12;

pub fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

pub fn frontend(place: SocketAddr, protocol: u8, backends: &[SocketAddr]) -> Frontend {
    let mut backends = backends.to_vec();
    backends.sort_unstable();
    Frontend {
        address: place.ip(),
        port: place.port(),
        protocol: match protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            SCTP => Protocol::Sctp,
            other => panic!("no such protocol {other}"),
        },
        service: "default/test".into(),
        port_name: String::new(),
        affinity_secs: 0,
        kind: FrontendKind::ClusterIp,
        internal: backends.clone(),
        internal_empty: WhenEmpty::Pass,
        external: backends,
        external_empty: WhenEmpty::Pass,
        source_ranges: None,
        same_everywhere: false,
    }
}

/// An upper header and data with its checksum. `kind`: TCP's flags, SCTP's first chunk.
pub fn payload(src: SocketAddr, dst: SocketAddr, protocol: u8, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    match protocol {
        TCP => {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, kind, 0x10, 0, 0, 0, 0, 0]);
            bytes.extend(data);
            let sum = pseudo(src.ip(), dst.ip(), protocol, &bytes);
            bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        UDP => {
            let len = u16::try_from(8 + data.len()).unwrap();
            bytes.extend(len.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(data);
            let sum = match pseudo(src.ip(), dst.ip(), protocol, &bytes) {
                0 => 0xffff,
                sum => sum,
            };
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        SCTP => {
            bytes.extend([0, 0, 0, 7, 0, 0, 0, 0, kind, 0, 0, 20]);
            bytes.extend([0; 16]);
            bytes.extend(data);
            let crc = crc32c(&bytes);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        _ => bytes.extend(data),
    }
    bytes
}

/// A frame of a pod.
pub fn from(pod: &Pod, src: SocketAddr, dst: SocketAddr, protocol: u8, kind: u8) -> Vec<u8> {
    framed(
        HOST_MAC,
        pod.mac,
        src,
        dst,
        protocol,
        &payload(src, dst, protocol, kind, b"hello"),
    )
}

pub fn framed(
    to: frames::Mac,
    mac: frames::Mac,
    src: SocketAddr,
    dst: SocketAddr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let kind = if src.is_ipv4() { IPV4 } else { IPV6 };
    frames::ethernet(
        to,
        mac,
        kind,
        &frames::ip(src.ip(), dst.ip(), protocol, payload),
    )
}

/// What a frame says: from where to where. Panics when a checksum is wrong.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let (src, dst) = addresses(frame);
    let (protocol, upper) = upper(frame);
    match protocol {
        TCP => assert_eq!(pseudo(src, dst, TCP, upper), 0, "TCP's checksum"),
        UDP if upper[6..8] == [0, 0] => {}
        UDP => assert_eq!(pseudo(src, dst, UDP, upper), 0, "UDP's checksum"),
        SCTP => {
            let mut bare = upper.to_vec();
            bare[8..12].fill(0);
            assert_eq!(upper[8..12], crc32c(&bare).to_le_bytes(), "SCTP's checksum");
        }
        _ => {}
    }
    let port = |at: usize| u16::from_be_bytes([upper[at], upper[at + 1]]);
    (SocketAddr::new(src, port(0)), SocketAddr::new(dst, port(2)))
}

/// Addresses of a frame, whose IPv4 header must be sound.
pub fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    if frame[14] >> 4 == 4 {
        assert!(frames::ipv4_is_sound(frame), "IPv4's checksum");
        let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
        (ip(26), ip(30))
    } else {
        let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
        (ip(22), ip(38))
    }
}

fn upper(frame: &[u8]) -> (u8, &[u8]) {
    if frame[14] >> 4 == 4 {
        (frame[23], &frame[14 + usize::from(frame[14] & 0xf) * 4..])
    } else {
        (frame[20], &frame[54..])
    }
}

/// The checksum over the pseudo header and a payload; 0 when the one in it is right.
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let len = u32::try_from(payload.len()).unwrap();
    let head = [
        &bytes(src)[..],
        &bytes(dst),
        &len.to_be_bytes(),
        &[0, 0, 0, protocol],
    ]
    .concat();
    frames::checksum(&[&head[..], payload].concat())
}

/// Bit by bit, as RFC 9260 defines it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

/// Changes every row of the lab's `flows`.
pub fn change_flows(lab: &Lab, change: impl Fn(&mut cni_ebpf_common::flow::Flow)) {
    use cni_ebpf_common::flow::{Flow, FlowKey};
    let pinned = lab.datapath.pinned();
    let map = pinned.iter().find(|map| map.name == "flows").unwrap();
    let data = aya::maps::MapData::from_pin(&map.path).unwrap();
    let map = aya::maps::Map::LruHashMap(data);
    let mut flows = aya::maps::HashMap::<_, FlowKey, Flow>::try_from(map).unwrap();
    let rows: Vec<_> = flows.iter().map(Result::unwrap).collect();
    for (key, mut flow) in rows {
        change(&mut flow);
        flows.insert(key, flow, 0).unwrap();
    }
}
