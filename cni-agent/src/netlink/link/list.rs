//! Which links on this node are ours: read at start, to adopt the living and free the dead.

use super::Seen;
use crate::{
    model::Mac,
    netlink::{
        NetlinkError, blocking,
        message::without_counters,
        socket::{Request, RouteSocket},
    },
};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};

/// The host's end of an attachment as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    pub name: String,
    pub ifindex: u32,
    /// Empty when its making was interrupted.
    pub alias: String,
    pub up: bool,
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// Number of the other end in its own namespace. A veth whose namespace is gone is gone itself.
    pub peer_ifindex: Option<u32>,
    /// The kernel's number for the other end's namespace, as seen from this one.
    pub peer_netns_id: Option<i32>,
    /// Marked by [`super::mark_dying`]: no traffic, waits for [`super::reap`].
    pub dying: bool,
}

/// All links that Fairlead made in the namespace of this process, by name.
///
/// # Errors
/// `Refused` or `Socket` when the kernel does not answer.
pub async fn list_host_links() -> Result<Vec<HostLink>, NetlinkError> {
    blocking("list links", || list_now(&mut RouteSocket::route()?)).await
}

pub(super) fn list_now(socket: &mut RouteSocket) -> Result<Vec<HostLink>, NetlinkError> {
    // The kernel picks the veths.
    let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
    let seen = dump(socket, vec![kind])?.into_iter();
    let mut links: Vec<HostLink> = seen
        .filter(Seen::is_host_end)
        .map(|seen| HostLink {
            dying: seen.is_dying(),
            mac: <[u8; 6]>::try_from(seen.mac.as_slice()).ok().map(Mac),
            name: seen.name,
            ifindex: seen.ifindex,
            alias: seen.alias,
            up: seen.up,
            mtu: seen.mtu,
            peer_ifindex: seen.peer_ifindex,
            peer_netns_id: seen.peer_netns_id,
        })
        .collect();
    links.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(links)
}

/// The links of all makers that have these attributes.
pub(super) fn dump(
    socket: &mut RouteSocket,
    mut attributes: Vec<LinkAttribute>,
) -> Result<Vec<Seen>, NetlinkError> {
    attributes.push(without_counters());
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    let request = Request {
        message: RouteNetlinkMessage::GetLink(message),
        flags: 0,
        action: "list the links".into(),
    };
    let replies = socket.dump(request)?.into_iter();
    let links = replies.filter_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(link) => Some(Seen::from(link)),
        _ => None,
    });
    Ok(links.collect())
}
