//! What happens to a packet, and why if it is dropped. Numbers are stable: they are map keys,
//! metric labels and lines of the operations page; a reason is never renumbered.

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $n:literal => $text:literal,)* }) => {
        $(#[$doc])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant = $n,)* }
        impl $name {
            /// Every value, in order of its number.
            pub const ALL: &[$name] = &[$($name::$variant,)*];
            /// One more than the greatest number.
            pub const LEN: u32 = { let mut max = 0; $(if $n >= max { max = $n + 1; })* max };
            /// The name that metrics, logs and the command line use.
            pub const fn name(self) -> &'static str { match self { $($name::$variant => $text,)* } }
        }
        impl TryFrom<u32> for $name {
            type Error = u32;
            fn try_from(n: u32) -> Result<Self, u32> { match n { $($n => Ok($name::$variant),)* other => Err(other) } }
        }
    };
}

numbered! {
    /// Why a packet was dropped.
    DropReason {
        /// The frame or its IP header is cut short, contradicts itself or has a bad length.
        Malformed = 1 => "malformed",
        /// The interface has no endpoint: the pod is being made or removed.
        UnknownEndpoint = 2 => "unknown_endpoint",
        /// The pod sent from an IP address that is not its own.
        SourceAddress = 3 => "source_address",
        /// The pod sent from a MAC that is not its own.
        SourceMac = 4 => "source_mac",
        /// No endpoint has this address of the node's own podCIDR.
        NoEndpoint = 5 => "no_endpoint",
        /// An IPv6 router advertisement or redirect of a pod, or to one (RFC 4861, RFC 6105).
        RouterAdvertisement = 6 => "router_advertisement",
        /// A pod answered as a DHCP or DHCPv6 server.
        DhcpServer = 7 => "dhcp_server",
        /// Neither IPv4, IPv6 nor ARP.
        EtherType = 8 => "ether_type",
        /// Multicast or broadcast, which is not carried between pods.
        Multicast = 9 => "multicast",
        /// ARP or neighbour discovery that is not a question for the gateway.
        Neighbor = 10 => "neighbor",
        /// A packet from outside claims the address of one of this node's pods.
        SpoofedFromOutside = 11 => "spoofed_from_outside",
        /// The host sent something to a pod's interface that is not addressed to that pod.
        NotForEndpoint = 12 => "not_for_endpoint",
        /// The kernel refused to rewrite or redirect the packet.
        Redirect = 13 => "redirect",
        /// The pod sent to a MAC that is not its gateway's.
        DestinationMac = 14 => "destination_mac",
        /// To a pod from a loopback address, or from a pod to one (CVE-2020-8558).
        Loopback = 15 => "loopback",
        /// A client's port is taken at every backend that a new flow of a Service could have.
        TranslationClash = 16 => "translation_clash",
        /// A later fragment to a Service whose first fragment was not seen.
        FragmentUnknown = 17 => "fragment_unknown",
        /// To a Service that keeps to endpoints of this node (policy `Local`), which has none.
        NoLocalBackend = 18 => "no_local_backend",
        /// A client that is in none of the Service's `loadBalancerSourceRanges`.
        SourceRange = 19 => "source_range",
        /// A packet between a Service's client and a backend elsewhere has no hop left.
        HopLimit = 20 => "hop_limit",
        /// Policies don't allow what came to the pod.
        PolicyIngress = 21 => "policy_ingress",
        /// Policies don't allow what the pod sent.
        PolicyEgress = 22 => "policy_egress",
        /// Nobody has said yet what policies ask of the pod.
        PolicyUnknown = 23 => "policy_unknown",
    }
}

numbered! {
    /// Which way a packet took; counted per CPU in the map `paths`.
    Path {
        /// From a local pod to a local pod.
        PodToPod = 0 => "pod_to_pod",
        /// From a local pod to another node's pod.
        PodToNode = 1 => "pod_to_node",
        /// From a local pod to the kernel's stack (host, outside, too large, expiring).
        PodToStack = 2 => "pod_to_stack",
        /// From the uplink to a local pod.
        UplinkToPod = 3 => "uplink_to_pod",
        /// From the kernel's stack to a local pod.
        StackToPod = 4 => "stack_to_pod",
        /// Answered by the programs themselves (ARP, neighbour discovery).
        Answered = 5 => "answered",
        /// From the uplink to a local pod, by XDP.
        XdpToPod = 6 => "xdp_to_pod",
        /// From a Service's client outside to a backend of another node.
        ServiceToNode = 7 => "service_to_node",
        /// From a backend to a Service's client outside.
        ServiceToClient = 8 => "service_to_client",
        /// Policies don't allow it, and only watch.
        Audited = 9 => "audited",
    }
}

/// Key of the per-CPU map `drops`. The interface is the endpoint's host side, or an uplink.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropKey {
    pub ifindex: u32,
    /// A [`DropReason`].
    pub reason: u32,
}

/// Value of `drops`, of `drop_totals` (index: reason) and of `paths` (index: path).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// Rows of `drops`: some reasons for each endpoint. When full, new (interface, reason) pairs are
/// counted only in `drop_totals`, which always has a row for each reason.
pub const MAX_DROPS: u32 = 16_384;

/// Rows of `drop_totals` and of `paths`: room for reasons and ways to come, so that a new one does not
/// change the maps' layout.
pub const MAX_COUNTERS: u32 = 64;

const _: () = assert!(DropReason::LEN <= MAX_COUNTERS && Path::LEN <= MAX_COUNTERS);
const _: () = assert!(size_of::<DropKey>() == 8 && size_of::<Counter>() == 16);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::DropKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counter {}
}
