//! Reads and writes the pinned maps. What the programs read is written whole, in an order in
//! which no packet meets half an endpoint.

use super::{
    DatapathError,
    announcements::Announcements,
    outside,
    pins::Pins,
    rows::{self, EndpointRows, NodeRoute},
    services::Services,
};
use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, lpm_trie::Key,
    },
};
use cni_ebpf_common::{
    addr::Addr,
    endpoint::{
        Endpoint, EndpointAddr, EndpointAddrKey, EndpointKey, MAX_ENDPOINT_ADDRS, MAX_ENDPOINTS,
    },
    flow::{ENDPOINT_FLOWS, EndpointFlows},
    node::{MAX_NODES, Node, NodeKey},
    verdict::{Counter, DropKey},
};
use ipnetwork::IpNetwork;
use std::{collections::BTreeSet, net::IpAddr};

const ENDPOINTS: &str = "endpoints";
const ENDPOINT_ADDRS: &str = "endpoint_addrs";
const NODES: &str = "nodes";
const FLOWS_OF_ENDPOINTS: &str = "endpoint_flows";

/// The typed maps.
pub(super) struct Maps {
    endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    endpoint_addrs: HashMap<MapData, EndpointAddrKey, EndpointAddr>,
    nodes: LpmTrie<MapData, Addr, Node>,
    endpoint_flows: Array<MapData, EndpointFlows>,
    pub(super) services: Services,
    pub(super) outside: outside::Settings,
    pub(super) announcements: Announcements,
    pub(super) drops: PerCpuHashMap<MapData, DropKey, Counter>,
    pub(super) drop_totals: PerCpuArray<MapData, Counter>,
    pub(super) paths: PerCpuArray<MapData, Counter>,
}

/// What a call of `sync_nodes` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesChange {
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    /// podCIDRs that found no room: packets to them take the kernel's routes.
    pub refused: Vec<IpNetwork>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            endpoints: typed(ebpf, ENDPOINTS)?,
            endpoint_addrs: typed(ebpf, ENDPOINT_ADDRS)?,
            nodes: typed(ebpf, NODES)?,
            endpoint_flows: typed(ebpf, FLOWS_OF_ENDPOINTS)?,
            services: Services::take(ebpf)?,
            outside: outside::settings(ebpf)?,
            announcements: Announcements::take(ebpf)?,
            drops: typed(ebpf, "drops")?,
            drop_totals: typed(ebpf, "drop_totals")?,
            paths: typed(ebpf, "paths")?,
        })
    }

    /// Writes an endpoint: what it may send first, then where packets to it go. When there is no
    /// room, what was written is taken back.
    pub(super) fn upsert_endpoint(&mut self, new: &EndpointRows) -> Result<(), DatapathError> {
        let before = get(self.endpoints.get(&new.key, 0), ENDPOINTS)?;
        if before.is_none_or(|row| row.id != new.row.id) {
            self.begin_flows(new)?;
        }
        write(
            self.endpoints.insert(new.key, new.row, 0),
            ENDPOINTS,
            MAX_ENDPOINTS,
        )?;
        let mut old_interfaces = BTreeSet::new();
        for (i, (key, row)) in new.addrs.iter().enumerate() {
            let replaced = get(self.endpoint_addrs.get(key, 0), ENDPOINT_ADDRS)?;
            let result = self.endpoint_addrs.insert(key, row, 0);
            if let Err(fault) = write(result, ENDPOINT_ADDRS, MAX_ENDPOINT_ADDRS) {
                // Only an address without a row can fail for want of room, so those before it
                // either were there already or are taken back here.
                if before.is_none() {
                    for (key, _) in &new.addrs[..i] {
                        gone(self.endpoint_addrs.remove(key), ENDPOINT_ADDRS)?;
                    }
                    gone(self.endpoints.remove(&new.key), ENDPOINTS)?;
                }
                return Err(fault);
            }
            if let Some(old) = replaced.filter(|old| old.ifindex != new.key.ifindex) {
                old_interfaces.insert(old.ifindex);
            }
        }
        for ifindex in old_interfaces {
            self.remove_interface(ifindex, new.row.id)?;
        }
        Ok(())
    }

    /// A new endpoint has no flows, whatever one of the same number, or of one with the same place, had
    /// before: its packets would be looked up for nothing.
    fn begin_flows(&mut self, new: &EndpointRows) -> Result<(), DatapathError> {
        let place = new.row.id % ENDPOINT_FLOWS;
        let flows = get(self.endpoint_flows.get(&place, 0), FLOWS_OF_ENDPOINTS)?;
        if flows.is_none_or(|flows| flows == EndpointFlows::default()) {
            return Ok(());
        }
        for (key, _) in &new.addrs {
            // One of its rows was removed by others: it lives.
            if self.address(key)?.is_some_and(|row| row.id == new.row.id) {
                return Ok(());
            }
        }
        let others = self.endpoints()?;
        if others
            .iter()
            .all(|(_, row)| row.id % ENDPOINT_FLOWS != place)
        {
            let none = EndpointFlows::default();
            let result = self.endpoint_flows.set(place, none, 0);
            write(result, FLOWS_OF_ENDPOINTS, ENDPOINT_FLOWS)?;
        }
        Ok(())
    }

    /// Removes all rows of an endpoint: first what it may send, so that nothing leaves the pod
    /// from here on. Rows that are another endpoint's by now are left alone.
    pub(super) fn remove_endpoint(
        &mut self,
        id: u32,
        addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        let mut keys = Vec::new();
        let mut interfaces = BTreeSet::new();
        for ip in addresses {
            let key = EndpointAddrKey {
                addr: rows::addr_of(*ip),
            };
            let row = get(self.endpoint_addrs.get(&key, 0), ENDPOINT_ADDRS)?;
            if let Some(row) = row.filter(|row| row.id == id) {
                keys.push(key);
                interfaces.insert(row.ifindex);
            }
        }
        if interfaces.is_empty() {
            // A removal that was interrupted, or none at all: look for what is left.
            interfaces.extend(
                self.endpoints()?
                    .iter()
                    .filter(|r| r.1.id == id)
                    .map(|r| r.0),
            );
        }
        for ifindex in interfaces {
            self.remove_interface(ifindex, id)?;
        }
        for key in keys {
            gone(self.endpoint_addrs.remove(&key), ENDPOINT_ADDRS)?;
        }
        Ok(())
    }

    /// Removes the rows of every endpoint that is not in `keep`; the numbers of those removed.
    pub(super) fn retain_endpoints(
        &mut self,
        keep: &BTreeSet<u32>,
    ) -> Result<BTreeSet<u32>, DatapathError> {
        let mut removed = BTreeSet::new();
        for (ifindex, row) in self.endpoints()? {
            if !keep.contains(&row.id) {
                self.remove_interface(ifindex, row.id)?;
                removed.insert(row.id);
            }
        }
        for (ip, row) in self.addresses()? {
            if !keep.contains(&row.id) {
                let key = EndpointAddrKey {
                    addr: rows::addr_of(ip),
                };
                gone(self.endpoint_addrs.remove(&key), ENDPOINT_ADDRS)?;
                removed.insert(row.id);
            }
        }
        Ok(removed)
    }

    fn remove_interface(&mut self, ifindex: u32, id: u32) -> Result<(), DatapathError> {
        let key = EndpointKey { ifindex };
        if get(self.endpoints.get(&key, 0), ENDPOINTS)?.is_some_and(|row| row.id == id) {
            gone(self.endpoints.remove(&key), ENDPOINTS)?;
            self.forget_drops(ifindex)?;
        }
        Ok(())
    }

    /// The row of an interface.
    pub(super) fn endpoint(&self, key: &EndpointKey) -> Result<Option<Endpoint>, DatapathError> {
        get(self.endpoints.get(key, 0), ENDPOINTS)
    }

    /// The row of an address.
    pub(super) fn address(
        &self,
        key: &EndpointAddrKey,
    ) -> Result<Option<EndpointAddr>, DatapathError> {
        get(self.endpoint_addrs.get(key, 0), ENDPOINT_ADDRS)
    }

    /// All rows of `endpoints`, by interface.
    pub(super) fn endpoints(&self) -> Result<Vec<(u32, Endpoint)>, DatapathError> {
        let rows = all(self.endpoints.iter(), ENDPOINTS)?;
        let mut rows: Vec<_> = rows.into_iter().map(|(k, v)| (k.ifindex, v)).collect();
        rows.sort_by_key(|row| row.0);
        Ok(rows)
    }

    /// All rows of `endpoint_addrs`, by address.
    pub(super) fn addresses(&self) -> Result<Vec<(IpAddr, EndpointAddr)>, DatapathError> {
        let rows = all(self.endpoint_addrs.iter(), ENDPOINT_ADDRS)?;
        let mut rows: Vec<_> = rows
            .into_iter()
            .map(|(k, v)| (rows::ip_of(&k.addr), v))
            .collect();
        rows.sort_by_key(|row| row.0);
        Ok(rows)
    }

    /// All podCIDRs.
    pub(super) fn nodes(&self) -> Result<Vec<NodeRoute>, DatapathError> {
        let rows = self.node_rows()?;
        let mut rows: Vec<_> = rows
            .iter()
            .filter_map(|(k, v)| rows::node_route(k, v))
            .collect();
        rows.sort_by_key(|row| row.cidr);
        Ok(rows)
    }

    fn node_rows(&self) -> Result<Vec<(NodeKey, Node)>, DatapathError> {
        let rows = all(self.nodes.iter(), NODES)?;
        let plain = |k: Key<Addr>| NodeKey {
            prefix_len: k.prefix_len(),
            addr: k.data(),
        };
        Ok(rows.into_iter().map(|(k, v)| (plain(k), v)).collect())
    }

    /// Makes `nodes` hold the desired podCIDRs: additions and changes, then removals, then once
    /// more what had found no room.
    pub(super) fn sync_nodes(
        &mut self,
        desired: &[NodeRoute],
    ) -> Result<NodesChange, DatapathError> {
        let desired: Vec<_> = desired.iter().map(rows::node_row).collect();
        let diff = rows::diff_nodes(&self.node_rows()?, &desired);
        let mut change = NodesChange::default();
        for (key, node) in &diff.change {
            self.write_node(key, node)?;
            change.changed += 1;
        }
        let mut waiting = Vec::new();
        for (key, node) in diff.add {
            match self.write_node(&key, &node) {
                Ok(()) => change.added += 1,
                Err(DatapathError::MapFull { .. }) => waiting.push((key, node)),
                Err(other) => return Err(other),
            }
        }
        for key in &diff.remove {
            gone(
                self.nodes.remove(&Key::new(key.prefix_len, key.addr)),
                NODES,
            )?;
            change.removed += 1;
        }
        for (key, node) in waiting {
            match self.write_node(&key, &node) {
                Ok(()) => change.added += 1,
                Err(DatapathError::MapFull { .. }) => {
                    change
                        .refused
                        .extend(rows::node_route(&key, &node).map(|route| route.cidr));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(change)
    }

    fn write_node(&mut self, key: &NodeKey, node: &Node) -> Result<(), DatapathError> {
        write(
            self.nodes
                .insert(&Key::new(key.prefix_len, key.addr), node, 0),
            NODES,
            MAX_NODES,
        )
    }
}

/// Takes a map of the type that the caller wants.
pub(super) fn typed<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DatapathError> {
    let map = ebpf
        .take_map(name)
        .ok_or(DatapathError::Missing { kind: "map", name })?;
    T::try_from(map).map_err(|source| DatapathError::Map {
        action: "open",
        map: name,
        source,
    })
}

/// Opens a pinned map by a descriptor of its own: who walks or writes thousands of rows must not hold up an
/// ADD, which waits for the others.
pub(super) fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    map: &'static str,
) -> Result<T, DatapathError> {
    let open = MapData::from_pin(pins.map(map)).and_then(Map::from_map_data);
    open.and_then(T::try_from)
        .map_err(|source| DatapathError::Map {
            action: "open",
            map,
            source,
        })
}

/// A look-up; no row is no fault.
pub(super) fn get<T>(
    result: Result<T, MapError>,
    map: &'static str,
) -> Result<Option<T>, DatapathError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(DatapathError::Map {
            action: "read",
            map,
            source,
        }),
    }
}

/// A removal; no row is no fault.
pub(super) fn gone(result: Result<(), MapError>, map: &'static str) -> Result<(), DatapathError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(DatapathError::Map {
            action: "remove a row of",
            map,
            source,
        }),
    }
}

/// A write; no room gets its own error. Hash maps say E2BIG, tries ENOSPC.
pub(super) fn write(
    result: Result<(), MapError>,
    map: &'static str,
    size: u32,
) -> Result<(), DatapathError> {
    result.map_err(|source| match &source {
        MapError::SyscallError(e)
            if matches!(e.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
        {
            DatapathError::MapFull { map, size }
        }
        _ => DatapathError::Map {
            action: "write",
            map,
            source,
        },
    })
}

/// Every row. Programs may remove none, so each comes once.
pub(super) fn all<K: Pod, V>(
    rows: impl Iterator<Item = Result<(K, V), MapError>>,
    map: &'static str,
) -> Result<Vec<(K, V)>, DatapathError> {
    rows.collect::<Result<_, _>>()
        .map_err(|source| DatapathError::Map {
            action: "list",
            map,
            source,
        })
}
