//! How full the maps are. Each is opened anew by its pin, so that counting thousands of rows for a scrape
//! never holds the lock that an ADD waits for.

use super::{DatapathError, loader::SHAPES, pins::Pins};
use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuHashMap},
};
use cni_ebpf_common::{
    addr::Addr,
    endpoint::{Endpoint, EndpointAddr, EndpointAddrKey, EndpointKey},
    node::Node,
    policy::{BlockKey, EndpointPolicy, Peer, PeerKey, PortsChunk, PortsKey, Verdict, VerdictKey},
    verdict::{Counter, DropKey},
};

/// Rows in use of every map that has a bound which can be met: name, rows, most rows. Arrays have none.
pub(super) fn fills(pins: &Pins) -> Result<Vec<(&'static str, usize, u32)>, DatapathError> {
    let mut fills = Vec::new();
    for shape in &SHAPES {
        let fault = |source| DatapathError::Map {
            action: "count the rows of",
            map: shape.name,
            source,
        };
        let open = || MapData::from_pin(pins.map(shape.name)).and_then(Map::from_map_data);
        let rows = match shape.name {
            "endpoints" => hash::<EndpointKey, Endpoint>(open()),
            "endpoint_addrs" => hash::<EndpointAddrKey, EndpointAddr>(open()),
            "nodes" => trie::<Addr, Node>(open()),
            "endpoint_policies" => hash::<u32, EndpointPolicy>(open()),
            "peers" => hash::<PeerKey, Peer>(open()),
            "peer_blocks" => trie::<BlockKey, Peer>(open()),
            "verdicts" => hash::<VerdictKey, Verdict>(open()),
            "port_sets" => hash::<PortsKey, PortsChunk>(open()),
            "drops" => drops(open()),
            _ => continue,
        };
        fills.push((shape.name, rows.map_err(fault)?, shape.rows));
    }
    Ok(fills)
}

fn hash<K: Pod, V: Pod>(map: Result<Map, MapError>) -> Result<usize, MapError> {
    count(HashMap::<MapData, K, V>::try_from(map?)?.keys())
}

fn trie<K: Pod, V: Pod>(map: Result<Map, MapError>) -> Result<usize, MapError> {
    count(LpmTrie::<MapData, K, V>::try_from(map?)?.keys())
}

fn drops(map: Result<Map, MapError>) -> Result<usize, MapError> {
    count(PerCpuHashMap::<MapData, DropKey, Counter>::try_from(map?)?.keys())
}

/// A row that is removed during the walk may let it begin anew: what then counts twice is gone at the
/// next scrape.
fn count<K>(mut keys: impl Iterator<Item = Result<K, MapError>>) -> Result<usize, MapError> {
    keys.try_fold(0, |rows, key| key.map(|_| rows + 1))
}
