//! Local endpoints: the pod interfaces that this node serves.

use crate::addr::Addr;

/// Key of the map `endpoints`: the host-side interface a packet came in by.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    pub ifindex: u32,
}

/// Value of `endpoints`: what the pod behind that interface may use as its source.
/// An address of all zeros means that the endpoint has none in that family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's IPv4 address, IPv4-mapped.
    pub ipv4: Addr,
    /// The pod's IPv6 address.
    pub ipv6: Addr,
    /// The agent's number of this endpoint, stable for its life.
    pub id: u32,
    /// MAC of the pod's end.
    pub mac: [u8; 6],
    /// MAC of the host's end, the pod's gateway.
    pub host_mac: [u8; 6],
}

/// Key of the map `endpoint_addrs`: an address of a local pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointAddrKey {
    pub addr: Addr,
}

/// Value of `endpoint_addrs`: where packets to that address go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointAddr {
    /// Host-side interface.
    pub ifindex: u32,
    /// The endpoint's number, as in [`Endpoint::id`].
    pub id: u32,
    /// MAC of the pod's end: the frame's new destination.
    pub mac: [u8; 6],
    /// MAC of the host's end: the frame's new source.
    pub host_mac: [u8; 6],
}

/// Most endpoints of one node. Kubernetes' default is 110 pods; large nodes run 500. When the map
/// is full, ADD fails with a clear error and what runs is not touched.
pub const MAX_ENDPOINTS: u32 = 4096;
/// Two families per endpoint.
pub const MAX_ENDPOINT_ADDRS: u32 = 2 * MAX_ENDPOINTS;

const _: () = assert!(size_of::<Endpoint>() == 48 && align_of::<Endpoint>() == 4);
const _: () = assert!(size_of::<EndpointAddr>() == 20);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::EndpointKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::EndpointAddrKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::EndpointAddr {}
}
