//! How many flows each address and port of a Service has on this node. Read by a descriptor of its own:
//! walking thousands of rows must not hold up an ADD.

use super::{
    Datapath, DatapathError,
    maps::{all, open},
    rows::ip_of,
};
use crate::model::Protocol;
use aya::maps::{HashMap as Rows, MapData};
use cni_ebpf_common::flow::{Flow, FlowKey, MAX_FLOWS, SCTP, TCP, UDP};
use std::{collections::BTreeMap, net::IpAddr};

const FLOWS: &str = "flows";

/// Flows by the address, port and protocol that their clients send to.
pub type FlowCounts = BTreeMap<(IpAddr, u16, Protocol), u64>;

impl Datapath {
    /// Flows to Services that the programs remember. TCP whose socket got its backend when it connected is
    /// none of them: nothing has to be remembered for it.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn flow_counts(&self) -> Result<FlowCounts, DatapathError> {
        let flows: Rows<MapData, FlowKey, Flow> = open(&self.pins, FLOWS)?;
        // The programs add and evict meanwhile, which may lead the iteration back to its start.
        let rows = all(flows.iter().take(2 * MAX_FLOWS as usize), FLOWS)?;
        Ok(counts(&rows))
    }
}

/// PURE: the rows from clients to backends, by frontend.
fn counts(rows: &[(FlowKey, Flow)]) -> FlowCounts {
    let mut counts = FlowCounts::new();
    for (key, _) in (rows.iter()).filter(|(_, row)| row.flags & Flow::TO_BACKEND != 0) {
        let protocol = match key.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            SCTP => Protocol::Sctp,
            _ => continue,
        };
        let frontend = (ip_of(&key.dst), u16::from_be(key.dport_be), protocol);
        *counts.entry(frontend).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::rows::addr_of;

    #[test]
    fn flows_are_counted_once_by_where_their_client_sends() {
        let address: IpAddr = "10.96.0.10".parse().unwrap();
        let row = |client: u8, protocol, flags| {
            let key = FlowKey {
                src: [client; 16],
                dst: addr_of(address),
                sport_be: 7,
                dport_be: 53u16.to_be(),
                protocol,
                pad: [0; 3],
            };
            let flow = Flow {
                seen_ns: 0,
                src: [client; 16],
                dst: [9; 16],
                sport_be: 7,
                dport_be: 0,
                flags,
                closing: 0,
                by_stack: 0,
                ifindex: 0,
                pad: 0,
            };
            (key, flow)
        };
        let rows = [
            row(1, UDP, Flow::TO_BACKEND),
            row(2, UDP, Flow::TO_BACKEND | Flow::HAIRPIN),
            row(3, UDP, Flow::ANSWER),
            row(4, UDP, 0),
            row(5, TCP, Flow::TO_BACKEND),
        ];
        let at = |protocol| (address, 53, protocol);
        let expected = [(at(Protocol::Tcp), 1), (at(Protocol::Udp), 2)];
        assert_eq!(counts(&rows), FlowCounts::from(expected));
    }
}
