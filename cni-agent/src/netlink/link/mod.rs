//! The pair of links that joins a sandbox to the node. `wire` makes everything with the host's end
//! down, so that no packet can pass, lets its caller put programs and map entries in place, and only
//! then lets packets flow. `inspect` compares all of it with the plan; `delete_link`, or
//! `mark_dying` and `reap`, end it. Deleting the host's end removes everything else.

mod create;
mod further;
mod inspect;
mod list;
mod mend;
mod remove;
mod up;
mod wire;

pub use inspect::{Difference, inspect};
pub use list::{HostLink, list_host_links};
pub use mend::mend;
pub use remove::{OwnLink, delete_link, mark_dying, reap};
pub use wire::wire;

use super::{
    NetlinkError,
    message::single,
    sysctl::{self, Family},
};
use crate::model::{Addresses, AttachmentId, Mac};
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage,
};
use sha2::{Digest, Sha256};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// What every alias of ours begins with.
pub const ALIAS_PREFIX: &str = "fairlead:";
/// What the name of every host end begins with.
pub const HOST_IFNAME_PREFIX: &str = "fl";
/// The kernel keeps this many bytes of an alias.
const MAX_ALIAS: usize = 255;
/// Link group (a number that only groups links) of those that wait to be deleted: "FLdy".
const DYING_GROUP: u32 = 0x464c_6479;
/// Link group of those of them that the next request deletes: "FLgo".
const GOING_GROUP: u32 = 0x464c_676f;
/// Link group of a host's end that has no alias yet: "FLnw". An agent that is killed at that moment
/// leaves a link that the next one knows for its own.
const UNFINISHED_GROUP: u32 = 0x464c_6e77;
/// What an unfinished link is called once it is marked to be deleted.
const UNFINISHED_ALIAS: &str = "fairlead:unfinished";
/// The group of every other link.
const NO_GROUP: u32 = 0;
/// The least MTU that IPv6 works with; below it the kernel gives a device no IPv6 at all.
const MIN_MTU_V6: u32 = 1280;
/// The loopback device is the first of every namespace.
const LOOPBACK: u32 = 1;

/// Everything that decides how the two links of an attachment look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// Name in the sandbox (`CNI_IFNAME`).
    pub ifname: String,
    /// Name on the node, from [`host_ifname`].
    pub host_ifname: String,
    /// Alias of the host's end, from [`alias`].
    pub alias: String,
    pub mac: Mac,
    pub host_mac: Mac,
    pub addresses: Addresses,
    pub mtu: u32,
}

/// The numbers of the two links, each in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LinkIds {
    host_ifindex: u32,
    pod_ifindex: u32,
}

/// The stable name of the host's end: `fl` and 12 hexadecimal digits of the hash of the attachment.
pub fn host_ifname(attachment: &AttachmentId) -> String {
    let mut hash = Sha256::new();
    hash.update(attachment.container_id());
    hash.update([0]);
    hash.update(attachment.ifname());
    let digits: String = hash
        .finalize()
        .iter()
        .take(6)
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("{HOST_IFNAME_PREFIX}{digits}")
}

/// Whether a name is one that [`host_ifname`] gives.
pub(super) fn is_host_ifname(name: &str) -> bool {
    let digits = name.strip_prefix(HOST_IFNAME_PREFIX);
    digits.is_some_and(|d| d.len() == 12 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The alias of the host's end: for people, and to know our links from others'.
pub fn alias(attachment: &AttachmentId) -> String {
    let mut alias = format!("{ALIAS_PREFIX}{attachment}");
    let end = alias.floor_char_boundary(MAX_ALIAS);
    alias.truncate(end);
    alias
}

impl LinkPlan {
    /// Refuses names that are no interface names and an MTU without room for the addresses.
    fn check(&self) -> Result<(), NetlinkError> {
        check_ifname(&self.ifname)?;
        check_ifname(&self.host_ifname)?;
        if self.addresses.v6.is_some() && self.mtu < MIN_MTU_V6 {
            return Err(NetlinkError::Refused(super::Refusal {
                action: format!("give {} IPv6 with MTU {}", self.ifname, self.mtu),
                errno: libc::EINVAL,
                reason: Some(format!("IPv6 needs an MTU of at least {MIN_MTU_V6}")),
            }));
        }
        Ok(())
    }

    /// Whether the kernel gives these links IPv6 at all. A kernel started without it has no such
    /// folder.
    fn has_ipv6(&self) -> bool {
        self.mtu >= MIN_MTU_V6 && kernel_has_ipv6()
    }

    /// The pod's link-local address, made from its MAC as RFC 4291 says (appendix A). Given by us,
    /// since the kernel's own would be tentative for a second.
    fn link_local(&self) -> IpNetwork {
        let [a, b, c, d, e, f] = self.mac.0.map(u16::from);
        let address = Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            (a ^ 2) << 8 | b,
            c << 8 | 0xff,
            0xfe00 | d,
            e << 8 | f,
        );
        prefix(address.into(), 64)
    }

    /// The gateways of the families that the pod has.
    fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|address| match address {
            IpAddr::V4(_) => IpAddr::V4(super::GATEWAY_V4),
            IpAddr::V6(_) => IpAddr::V6(super::GATEWAY_V6),
        })
    }
}

/// Whether the kernel was started with IPv6. Remembered once it is so: /proc/sys is slow to look
/// something up in among hundreds of namespaces.
fn kernel_has_ipv6() -> bool {
    static SEEN: AtomicBool = AtomicBool::new(false);
    if !SEEN.load(Ordering::Relaxed) {
        SEEN.store(Path::new("/proc/sys/net/ipv6").exists(), Ordering::Relaxed);
    }
    SEEN.load(Ordering::Relaxed)
}

/// The prefix that holds all addresses of the gateway's family.
fn everywhere(gateway: IpAddr) -> IpNetwork {
    let unspecified: IpAddr = match gateway {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    prefix(unspecified, 0)
}

/// A prefix of a length that is known to be one; the address alone otherwise.
fn prefix(address: IpAddr, length: u8) -> IpNetwork {
    IpNetwork::new(address, length).unwrap_or_else(|_| single(address))
}

/// Names go into paths under /proc/sys, so they are checked here again whatever the caller did.
fn check_ifname(ifname: &str) -> Result<(), NetlinkError> {
    let bad = ifname.is_empty()
        || ifname.len() > 15
        || matches!(ifname, "." | "..")
        || ifname
            .chars()
            .any(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control());
    if bad {
        Err(NetlinkError::Ifname(ifname.to_owned()))
    } else {
        Ok(())
    }
}

/// The attributes of a link that anything here asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    ifindex: u32,
    name: String,
    alias: String,
    up: bool,
    lower_up: bool,
    operational: String,
    mac: Vec<u8>,
    mtu: u32,
    group: u32,
    peer_ifindex: Option<u32>,
    peer_netns_id: Option<i32>,
    ipv6: Option<Ipv6Settings>,
}

/// Whether a link may have IPv6 at all: comes with every answer about it, which is ten times cheaper
/// than to read it from /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ipv6Settings {
    disabled: bool,
}

impl Ipv6Settings {
    fn find(families: &[AfSpecUnspec]) -> Option<Ipv6Settings> {
        let settings = families.iter().find_map(|family| match family {
            AfSpecUnspec::Inet6(settings) => Some(settings),
            _ => None,
        })?;
        settings.iter().find_map(|setting| match setting {
            AfSpecInet6::DevConf(conf) => Some(Ipv6Settings {
                disabled: conf.disable_ipv6 != 0,
            }),
            _ => None,
        })
    }

    /// Lets the link have IPv6 addresses; writes only what is not so. What else /proc/sys has for a link
    /// stays: among hundreds of namespaces it is looked up slowly (all have the same names), and router
    /// advertisements never come through `from_pod` and `to_pod`. That a pod now and then asks for one
    /// (`multicast` among its drops) is harmless.
    fn adjust(settings: Option<Ipv6Settings>, ifname: &str) -> Result<(), NetlinkError> {
        // Unknown (an old kernel's answer) counts as wrong.
        if settings.is_none_or(|settings| settings.disabled) {
            sysctl::put_interface(Family::V6, ifname, "disable_ipv6", "0")?;
        }
        Ok(())
    }
}

impl From<LinkMessage> for Seen {
    fn from(message: LinkMessage) -> Seen {
        let mut seen = Seen {
            ifindex: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            lower_up: message.header.flags.contains(LinkFlags::LowerUp),
            ..Seen::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => seen.name = name,
                LinkAttribute::IfAlias(alias) => seen.alias = alias,
                LinkAttribute::OperState(state) => {
                    seen.operational = format!("{state:?}").to_lowercase();
                }
                LinkAttribute::Address(mac) => seen.mac = mac,
                LinkAttribute::Mtu(mtu) => seen.mtu = mtu,
                LinkAttribute::Group(group) => seen.group = group,
                LinkAttribute::Link(peer) => seen.peer_ifindex = Some(peer),
                LinkAttribute::LinkNetNsId(id) => seen.peer_netns_id = Some(id),
                LinkAttribute::AfSpecUnspec(families) => {
                    seen.ipv6 = Ipv6Settings::find(&families);
                }
                _ => {}
            }
        }
        seen
    }
}

impl Seen {
    /// A host's end whose making was interrupted.
    fn is_unfinished(&self) -> bool {
        self.group == UNFINISHED_GROUP
            && self.alias.is_empty()
            && self.name.starts_with(HOST_IFNAME_PREFIX)
    }

    /// The host's end of a pair that Fairlead made.
    fn is_host_end(&self) -> bool {
        let named = self.name.starts_with(HOST_IFNAME_PREFIX);
        named && self.alias.starts_with(ALIAS_PREFIX) || self.is_unfinished()
    }

    /// Marked to be deleted, by us or by somebody who uses the same number.
    fn is_dying(&self) -> bool {
        matches!(self.group, DYING_GROUP | GOING_GROUP)
    }

    /// An unfinished one, once it is marked to be deleted.
    fn is_dying_unfinished(&self) -> bool {
        self.is_dying() && self.alias == UNFINISHED_ALIAS
    }

    /// Carries packets: set up, carrier there, and the kernel has noticed.
    fn is_operational(&self) -> bool {
        self.up && self.lower_up && self.operational == "up"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_fit_the_kernel() {
        let attachment = AttachmentId::new("abc", "eth0").unwrap();
        assert_eq!(host_ifname(&attachment), "fld887cd286879");
        assert_eq!(alias(&attachment), "fairlead:abc/eth0");
        let longest = AttachmentId::new(&"a".repeat(128), &"e".repeat(15)).unwrap();
        assert!(host_ifname(&longest).len() <= 15 && alias(&longest).len() <= MAX_ALIAS);
    }

    #[test]
    fn names_that_are_paths_never_reach_proc() {
        for name in ["", "..", "a/b", "a b", "0123456789abcdef"] {
            assert!(check_ifname(name).is_err(), "{name:?}");
        }
        assert!(check_ifname("eth0.100").is_ok());
    }

    #[test]
    fn link_local_address_comes_from_the_mac() {
        let plan = LinkPlan {
            ifname: "eth0".into(),
            host_ifname: "fl0".into(),
            alias: String::new(),
            mac: Mac([0x02, 0x00, 0x5e, 0x10, 0x00, 0x01]),
            host_mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: Addresses::default(),
            mtu: 1500,
        };
        assert_eq!(plan.link_local().to_string(), "fe80::5eff:fe10:1/64");
    }
}
