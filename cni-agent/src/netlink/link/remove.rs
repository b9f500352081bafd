//! Ends links. Deleting one waits for all processors to let go of it (RCU), about the same time for
//! one as for many; so a DEL only sets its link down and marks it (`mark_dying`: no packet passes
//! from then on), and `reap` deletes marked ones together, by requests on a link group.

use super::{ALIAS_PREFIX, DYING_GROUP, GOING_GROUP, Seen, UNFINISHED_ALIAS, list::dump};
use crate::netlink::{
    NetlinkError, blocking,
    message::{self, RouteRequest, get_link, set_link},
    socket::{Request, RouteSocket},
};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

/// Links that one request deletes. It holds the kernel's lock on all links for some milliseconds.
const BATCH: usize = 16;

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
pub fn mark_dying(links: &[OwnLink]) -> Result<usize, NetlinkError> {
    let mut socket = RouteSocket::route()?;
    let mut marked = 0;
    let mut first_error = None;
    for own in links {
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
}

/// Deletes all marked links, a few by each request: whoever else wants to change links waits no longer
/// than one request takes. Tells how many there were.
///
/// # Errors
/// `Refused` or `Socket` when the kernel does not do it.
pub async fn reap() -> Result<usize, NetlinkError> {
    blocking("delete marked links", || {
        reap_now(&mut RouteSocket::route()?)
    })
    .await
}

/// As [`reap`]. Goes on after a failure; the first one is the one to tell.
pub(super) fn reap_now(socket: &mut RouteSocket) -> Result<usize, NetlinkError> {
    // One look for both questions: a link that is marked between two would seem to be a stranger's.
    let links = dump(socket, Vec::new())?;
    let ours = |link: &&Seen| link.is_host_end() && link.is_dying();
    // A group is only a number: should somebody else use it, their links must not go with ours.
    let alone = !links
        .iter()
        .any(|link| link.group == GOING_GROUP && !ours(&link));
    let dying: Vec<&Seen> = links.iter().filter(ours).collect();
    let mut deleted = 0;
    let mut first_error = None;
    for batch in dying.chunks(BATCH) {
        let mut note = |result: Result<usize, NetlinkError>| match result {
            Ok(count) => deleted += count,
            Err(error) => first_error = first_error.take().or(Some(error)),
        };
        if alone {
            note(delete_together(socket, batch).map(|()| batch.len()));
        } else {
            for link in batch {
                let gone = socket.one(message::delete_link(link.ifindex, &link.name));
                note(gone_is_fine(gone).map(|_| 1));
            }
        }
    }
    first_error.map_or(Ok(deleted), Err)
}

fn delete_together(socket: &mut RouteSocket, batch: &[&Seen]) -> Result<(), NetlinkError> {
    let set_apart = |link: &&Seen| -> RouteRequest {
        let group = vec![LinkAttribute::Group(GOING_GROUP)];
        let action = format!("set link {} apart to delete it", link.name);
        set_link(link.ifindex, None, group, action)
    };
    // Those that are gone meanwhile are refused; a group of none that is left, too.
    let refusals = socket.send(batch.iter().map(set_apart).collect())?.refusals;
    let mut refusals = refusals.into_iter().map(|(_, refusal)| refusal);
    let refused = refusals.find(|refusal| refusal.errno != libc::ENODEV);
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(GOING_GROUP));
    let request = Request {
        message: RouteNetlinkMessage::DelLink(message),
        flags: 0,
        action: format!("delete {} marked links", batch.len()),
    };
    gone_is_fine(socket.one(request))?;
    refused.map_or(Ok(()), |refusal| Err(NetlinkError::Refused(refusal)))
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
pub(super) fn gone_is_fine(
    result: Result<Vec<RouteNetlinkMessage>, NetlinkError>,
) -> Result<bool, NetlinkError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}
