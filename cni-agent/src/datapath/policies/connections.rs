//! Tables of endpoints' connections: made, read, and made larger where they need it.

use super::{
    super::{
        DatapathError,
        flows::now_ns,
        grace::Expedited,
        loader::CONNECTIONS_OF,
        maps::{get, write},
        rows::ip_of,
    },
    Policies,
};
use aya::maps::{HashMap, Map, MapData, MapError, MapType};
use cni_ebpf_common::{
    endpoint::MAX_ENDPOINTS,
    policy::{CONNECTIONS, Connection, ConnectionKey, MOST_CONNECTIONS, is_live},
};
use std::{collections::BTreeMap, net::IpAddr, os::fd::AsFd as _};

impl Policies {
    /// Room for an endpoint's connections; what is there stays.
    pub(super) fn prepare(&mut self, endpoint: u32) -> Result<(), DatapathError> {
        let there = get(self.connections.get(&endpoint, 0), CONNECTIONS_OF)?;
        if there.is_some() {
            return Ok(());
        }
        self.put_connections(endpoint, &new_connections(CONNECTIONS)?)
    }

    fn put_connections(&mut self, endpoint: u32, made: &MapData) -> Result<(), DatapathError> {
        // The kernel waits until no program is at the old one.
        let _short = Expedited::begin();
        write(
            self.connections.insert(endpoint, made, 0),
            CONNECTIONS_OF,
            MAX_ENDPOINTS,
        )
    }

    /// Gives an endpoint twice the room when three quarters of it are connections that go on.
    pub(super) fn grow(&mut self, endpoint: u32, now_ns: u64) -> Result<(), DatapathError> {
        let Some(old) = get(self.connections.get(&endpoint, 0), CONNECTIONS_OF)? else {
            return Ok(());
        };
        let size = old.info().map_err(read)?.max_entries();
        let old = open_connections(old)?;
        let goes_on = |key: &ConnectionKey, row: &Connection| {
            row.closing == 0 && is_live(key.protocol, false, row.seen_ns, now_ns)
        };
        let found = rows(&old, size)?;
        let going_on = found.iter().filter(|(key, row)| goes_on(key, row)).count();
        if going_on < size as usize / 4 * 3 || size >= MOST_CONNECTIONS {
            return Ok(());
        }
        let made = new_connections(2 * size)?;
        let put =
            |rows: &BTreeMap<ConnectionKey, Connection>, flags| -> Result<(), DatapathError> {
                let copy = made.fd().as_fd().try_clone_to_owned();
                let copy = copy.map_err(|e| read(MapError::IoError(e)))?;
                let mut new = open_connections(MapData::from_fd(copy).map_err(read)?)?;
                for (key, row) in rows {
                    match new.insert(key, row, flags) {
                        // The programs have had it by now.
                        Err(MapError::SyscallError(e))
                            if e.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                        done => write(done, CONNECTIONS_OF, 2 * size)?,
                    }
                }
                Ok(())
            };
        put(&found, 0)?;
        self.put_connections(endpoint, &made)?;
        // What began while these were copied.
        put(&rows(&old, size)?, BPF_NOEXIST)?;
        tracing::info!(
            endpoint,
            rows = 2 * size,
            "an endpoint's table of connections has grown"
        );
        Ok(())
    }

    pub(super) fn connections_of(
        &self,
        endpoint: u32,
    ) -> Result<Vec<ConnectionRow>, DatapathError> {
        let Some(map) = get(self.connections.get(&endpoint, 0), CONNECTIONS_OF)? else {
            return Ok(Vec::new());
        };
        let size = map.info().map_err(read)?.max_entries();
        let map = open_connections(map)?;
        let now = now_ns();
        let mut live = Vec::new();
        for (key, row) in rows(&map, size)? {
            if is_live(key.protocol, row.closing != 0, row.seen_ns, now) {
                live.push(ConnectionRow {
                    peer: ip_of(&key.peer),
                    own_port: u16::from_be(key.own_port_be),
                    peer_port: u16::from_be(key.peer_port_be),
                    protocol: key.protocol,
                    by_peer: row.flags & Connection::BY_PEER != 0,
                    of_node: row.flags & Connection::OF_NODE != 0,
                });
            }
        }
        Ok(live)
    }
}

/// A connection of an endpoint, as policies remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionRow {
    pub peer: IpAddr,
    pub own_port: u16,
    pub peer_port: u16,
    /// IP's number.
    pub protocol: u8,
    /// The peer began it.
    pub by_peer: bool,
    /// The peer is this node, which is always allowed.
    pub of_node: bool,
}

fn read(source: MapError) -> DatapathError {
    DatapathError::Map {
        action: "read",
        map: CONNECTIONS_OF,
        source,
    }
}

/// Every row once. The programs add and evict meanwhile, which may lead the iteration back to its start.
fn rows(
    map: &Connections,
    size: u32,
) -> Result<BTreeMap<ConnectionKey, Connection>, DatapathError> {
    let rows = map.iter().take(2 * size as usize);
    rows.collect::<Result<_, _>>().map_err(read)
}

type Connections = HashMap<MapData, ConnectionKey, Connection>;

fn open_connections(map: MapData) -> Result<Connections, DatapathError> {
    Map::from_map_data(map)
        .and_then(Connections::try_from)
        .map_err(|source| DatapathError::Map {
            action: "open",
            map: CONNECTIONS_OF,
            source,
        })
}

fn new_connections(rows: u32) -> Result<MapData, DatapathError> {
    let of_endpoint = aya_obj::Map::new_from_params(
        MapType::LruHash as u32,
        size_of::<ConnectionKey>() as u32,
        size_of::<Connection>() as u32,
        rows,
        0,
    );
    let made = MapData::create(of_endpoint, "connections_of", None);
    made.map_err(|source| DatapathError::Map {
        action: "make",
        map: CONNECTIONS_OF,
        source,
    })
}

/// `insert` only where there is no row.
const BPF_NOEXIST: u64 = 1;
