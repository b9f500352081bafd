//! Ends links. Deleting one waits for all processors to let go of it (RCU), about the same time for
//! one as for many; so a DEL only sets its link down and marks it (`mark_dying`: no packet passes
//! from then on), and `reap` deletes all marked ones together by one request on their link group.

use super::{ALIAS_PREFIX, DYING_GROUP, Seen, UNFINISHED_ALIAS, list::list_now};
use crate::netlink::{
    NetlinkError, blocking,
    message::{self, get_link, set_link, without_counters},
    socket::{Request, RouteSocket},
};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

/// A link by its name and the alias that proves that it is the one meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnLink {
    pub host_ifname: String,
    pub alias: String,
}

/// Deletes the host's end, and with it the sandbox's end, routes and neighbours. Tells whether it
/// was there. Takes milliseconds: see [`mark_dying`].
///
/// # Errors
/// `NotOurs` when the link's alias is not `expected_alias`.
pub async fn delete_link(host_ifname: &str, expected_alias: &str) -> Result<bool, NetlinkError> {
    let own = OwnLink {
        host_ifname: host_ifname.into(),
        alias: expected_alias.into(),
    };
    blocking("delete a link", move || {
        let mut socket = RouteSocket::route()?;
        let Some(seen) = find_own(&mut socket, &own)? else {
            return Ok(false);
        };
        gone_is_fine(socket.one(message::delete_link(seen.ifindex, &own.host_ifname)))
    })
    .await
}

/// Sets links down and marks them for [`reap`]: when this returns, no packet passes them. Links
/// that are not there are passed over. Tells how many were marked.
///
/// # Errors
/// `NotOurs` when an alias is not the expected one; the other links are marked all the same.
pub async fn mark_dying(links: &[OwnLink]) -> Result<usize, NetlinkError> {
    let links = links.to_vec();
    blocking("mark links", move || {
        let mut socket = RouteSocket::route()?;
        let mut marked = 0;
        let mut first_error = None;
        for own in &links {
            let result = find_own(&mut socket, own).and_then(|seen| match seen {
                None => Ok(false),
                Some(seen) => {
                    let mut attributes = vec![LinkAttribute::Group(DYING_GROUP)];
                    if seen.is_unfinished() {
                        // From now on nothing else says that it is ours.
                        attributes.push(LinkAttribute::IfAlias(UNFINISHED_ALIAS.into()));
                    }
                    let action = format!("set link {} down and mark it", own.host_ifname);
                    let mark = set_link(seen.ifindex, Some(false), attributes, action);
                    gone_is_fine(socket.one(mark))
                }
            });
            match result {
                Ok(there) => marked += usize::from(there),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(marked), Err)
    })
    .await
}

/// Deletes all marked links by one request. Tells how many there were.
///
/// # Errors
/// `Refused` or `Socket` when the kernel does not do it.
pub async fn reap() -> Result<usize, NetlinkError> {
    blocking("delete marked links", || {
        reap_now(&mut RouteSocket::route()?)
    })
    .await
}

pub(super) fn reap_now(socket: &mut RouteSocket) -> Result<usize, NetlinkError> {
    // Counted first, because the request on an empty group is an error, and because a group is only
    // a number: should somebody else use it, their links must not go with ours.
    let ours = list_now(socket)?
        .into_iter()
        .filter(|link| link.dying)
        .collect::<Vec<_>>();
    if ours.is_empty() {
        return Ok(0);
    }
    if count_group(socket)? == ours.len() {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(DYING_GROUP));
        let action = format!("delete {} marked links", ours.len());
        let request = Request {
            message: RouteNetlinkMessage::DelLink(message),
            flags: 0,
            action,
        };
        gone_is_fine(socket.one(request))?;
    } else {
        for link in &ours {
            gone_is_fine(socket.one(message::delete_link(link.ifindex, &link.name)))?;
        }
    }
    Ok(ours.len())
}

/// How many links of all kinds and makers are in the group of the dying.
fn count_group(socket: &mut RouteSocket) -> Result<usize, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(without_counters());
    let request = Request {
        message: RouteNetlinkMessage::GetLink(message),
        flags: 0,
        action: "list the links".into(),
    };
    let in_group = |reply: &RouteNetlinkMessage| match reply {
        RouteNetlinkMessage::NewLink(link) => {
            link.attributes.contains(&LinkAttribute::Group(DYING_GROUP))
        }
        _ => false,
    };
    Ok(socket
        .dump(request)?
        .iter()
        .filter(|reply| in_group(reply))
        .count())
}

/// The link of that name, if there is one.
pub(super) fn find(socket: &mut RouteSocket, ifname: &str) -> Result<Option<Seen>, NetlinkError> {
    match socket.one(get_link(ifname)) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(replies) => Ok(replies.into_iter().find_map(|reply| match reply {
            RouteNetlinkMessage::NewLink(link) => Some(Seen::from(link)),
            _ => None,
        })),
    }
}

fn find_own(socket: &mut RouteSocket, own: &OwnLink) -> Result<Option<Seen>, NetlinkError> {
    let Some(seen) = find(socket, &own.host_ifname)? else {
        return Ok(None);
    };
    let proven = seen.alias == own.alias && seen.alias.starts_with(ALIAS_PREFIX);
    if !proven && !seen.is_unfinished() && !seen.is_dying_unfinished() {
        return Err(NetlinkError::NotOurs {
            ifname: own.host_ifname.clone(),
            expected: own.alias.clone(),
            found: seen.alias,
        });
    }
    Ok(Some(seen))
}

/// A link that vanished meanwhile (its sandbox ended) is as good as deleted.
fn gone_is_fine(
    result: Result<Vec<RouteNetlinkMessage>, NetlinkError>,
) -> Result<bool, NetlinkError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}
