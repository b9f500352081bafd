//! Path: a packet from the host's stack to a pod (tcx egress of the pod's host-side interface):
//! the kubelet's probes, answers from outside, ICMP errors. What other pods send does not come
//! this way.

use crate::{
    address::Ip,
    forward, maps,
    packet::{self, Parsed},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::verdict::{DropReason, Path};

/// Judges one packet.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Result<i32, DropReason> {
    let endpoint = maps::endpoint(packet::ifindex(ctx)).ok_or(DropReason::UnknownEndpoint)?;
    let packet = match packet::parse(ctx)? {
        Parsed::Ip(packet) => packet,
        // Both sides have permanent neighbours.
        Parsed::Arp => return Err(DropReason::Neighbor),
        Parsed::Other => return Err(DropReason::EtherType),
    };
    let own = maps::own_address(endpoint, packet.v4);
    if packet.dst != own || own == Ip::UNSPECIFIED {
        return Err(DropReason::NotForEndpoint);
    }
    // What answers would go to the pod's own loopback.
    if packet.src.is_loopback() {
        return Err(DropReason::Loopback);
    }
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::StackToPod, bytes, packets);
    Ok(forward::PASS)
}
