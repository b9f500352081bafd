//! Sockets that talk to Services.
#![expect(unsafe_code, reason = "access to map memory")]

use crate::address::Ip;
use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    macros::btf_map,
};
use cni_ebpf_common::socket::{
    MAX_SOCKET_BACKENDS, MAX_SOCKETS, SocketKey, SocketPeer, SocketSettings,
};
use core::ptr;

/// Whose sockets are served; the agent writes.
#[btf_map(name = "socket_settings")]
static SOCKET_SETTINGS: Array<SocketSettings, 1> = Array::new();

/// Frontends that sockets mean; the programs write.
#[btf_map(name = "sockets")]
static SOCKETS: LruHashMap<SocketKey, SocketPeer, { MAX_SOCKETS as usize }> = LruHashMap::new();

/// Backends of sockets that send datagrams; the programs write, the agent removes.
#[btf_map(name = "socket_backends")]
static SOCKET_BACKENDS: LruHashMap<SocketKey, SocketPeer, { MAX_SOCKET_BACKENDS as usize }> =
    LruHashMap::new();

/// Whose sockets are served.
#[inline(always)]
pub(crate) fn socket_settings() -> SocketSettings {
    SOCKET_SETTINGS.get(0).copied().unwrap_or_default()
}

/// A key or a value of the maps of sockets, in words, for the same reason as in `endpoint_addr`.
#[repr(C)]
struct PeerWords {
    addr: [u64; 2],
    rest: u64,
}

impl PeerWords {
    #[inline(always)]
    fn new(ip: Ip, port: u16) -> Self {
        let [high, low] = port.to_ne_bytes();
        Self {
            addr: ip.words(),
            rest: u64::from_ne_bytes([high, low, 0, 0, 0, 0, 0, 0]),
        }
    }

    #[inline(always)]
    fn peer(&self) -> (Ip, u16) {
        let [high, low, ..] = self.rest.to_ne_bytes();
        (Ip::from_words(self.addr), u16::from_ne_bytes([high, low]))
    }
}

/// A socket and whom it talks to, as a key.
#[repr(C)]
pub(crate) struct Talk {
    cookie: u64,
    peer: PeerWords,
}

impl Talk {
    /// The port is as it lies in memory.
    #[inline(always)]
    pub(crate) fn new(cookie: u64, ip: Ip, port: u16) -> Self {
        let peer = PeerWords::new(ip, port);
        Self { cookie, peer }
    }

    #[inline(always)]
    fn key(&self) -> &SocketKey {
        const { assert!(size_of::<Talk>() == size_of::<SocketKey>()) };
        // SAFETY: the same fields at the same offsets.
        unsafe { &*ptr::from_ref(self).cast::<SocketKey>() }
    }
}

/// The frontend that a socket means by the backend that it reaches.
#[inline(always)]
pub(crate) fn socket_frontend(talk: &Talk) -> Option<(Ip, u16)> {
    const { assert!(size_of::<PeerWords>() == size_of::<SocketPeer>()) };
    let row = SOCKETS.get_ptr(talk.key())?;
    // SAFETY: as in `FlowRow::get`; the same fields at the same offsets.
    Some(unsafe { row.cast::<PeerWords>().read() }.peer())
}

/// Remembers it.
#[inline(always)]
pub(crate) fn remember_socket_frontend(talk: &Talk, frontend: (Ip, u16)) {
    let row = PeerWords::new(frontend.0, frontend.1);
    // SAFETY: as in `socket_frontend`.
    let row = unsafe { &*ptr::from_ref(&row).cast::<SocketPeer>() };
    // Without it the process sees its backend as its peer.
    let _no_memory = SOCKETS.insert(talk.key(), row, 0);
}

/// The backend to which a socket sends what is for a frontend.
#[inline(always)]
pub(crate) fn socket_backend(talk: &Talk) -> Option<(Ip, u16)> {
    let row = SOCKET_BACKENDS.get_ptr(talk.key())?;
    // SAFETY: as in `socket_frontend`.
    Some(unsafe { row.cast::<PeerWords>().read() }.peer())
}

/// Remembers it.
#[inline(always)]
pub(crate) fn remember_socket_backend(talk: &Talk, backend: (Ip, u16)) {
    let row = PeerWords::new(backend.0, backend.1);
    // SAFETY: as in `socket_frontend`.
    let row = unsafe { &*ptr::from_ref(&row).cast::<SocketPeer>() };
    // Without it the next datagram chooses.
    let _no_memory = SOCKET_BACKENDS.insert(talk.key(), row, 0);
}
