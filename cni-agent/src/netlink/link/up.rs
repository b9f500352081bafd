//! Lets packets flow: the last step of an ADD.

use super::{LinkIds, LinkPlan, Seen};
use crate::netlink::{
    NetlinkError,
    message::{Route, Target, get_link_at, set_link, single},
    socket::RouteSocket,
};
use rtnetlink::{MulticastGroup, packet_route::RouteNetlinkMessage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};

/// The kernel notices a carrier within microseconds; a node that needs longer than this is ill.
const CARRIER_DEADLINE: Duration = Duration::from_secs(5);

/// The routes on the node that lead to the pod.
pub(super) fn host_routes(plan: &LinkPlan, ifindex: u32) -> impl Iterator<Item = Route> {
    plan.addresses.iter().map(move |address| Route {
        cidr: single(address),
        target: Target::Link { ifindex },
    })
}

/// Sets the host's end up, adds the routes to the pod and returns when the sandbox's end is
/// operationally up. Programs must be attached before: from the first moment packets pass. Runs inside
/// the sandbox, with the socket of the node.
pub(super) fn switch_on(
    host: &mut RouteSocket,
    plan: &LinkPlan,
    ids: LinkIds,
) -> Result<(), NetlinkError> {
    // Listening begins before the change, so the notification cannot be missed.
    let mut events = RouteSocket::route()?;
    events.join(MulticastGroup::Link)?;

    let action = format!("set link {} up", plan.host_ifname);
    let mut requests = vec![set_link(ids.host_ifindex, Some(true), Vec::new(), action)];
    // Routes need the device up. Nothing of the pod runs yet, so nobody misses them in between.
    requests.extend(host_routes(plan, ids.host_ifindex).map(|route| route.replace()));
    host.send(requests)?.complete()?;

    wait_operational(plan, ids.pod_ifindex, &mut events)
}

/// The peer's carrier is there at once, but the kernel starts its queue (until then it drops what
/// is sent) in deferred work.
fn wait_operational(
    plan: &LinkPlan,
    ifindex: u32,
    events: &mut RouteSocket,
) -> Result<(), NetlinkError> {
    let start = Instant::now();
    let mut state = ask(ifindex)?;
    while !state.is_operational() {
        let waited = start.elapsed();
        let Some(left) = CARRIER_DEADLINE.checked_sub(waited) else {
            return Err(NetlinkError::NotUp {
                ifname: plan.ifname.clone(),
                host_ifname: plan.host_ifname.clone(),
                state: if state.up {
                    state.operational
                } else {
                    "set down".into()
                },
                waited,
            });
        };
        await_event(events, left)?;
        state = match events.notifications()? {
            None => ask(ifindex)?,
            Some(messages) => messages
                .into_iter()
                .filter_map(|message| match message {
                    RouteNetlinkMessage::NewLink(link) if link.header.index == ifindex => {
                        Some(Seen::from(link))
                    }
                    _ => None,
                })
                .next_back()
                .unwrap_or(state),
        };
    }
    Ok(())
}

fn ask(ifindex: u32) -> Result<Seen, NetlinkError> {
    let object = || format!("link number {ifindex}");
    let mut pod = RouteSocket::route()?;
    match pod.one(get_link_at(ifindex))?.into_iter().next() {
        Some(RouteNetlinkMessage::NewLink(link)) => Ok(Seen::from(link)),
        _ => Err(NetlinkError::Answer {
            object: object(),
            fault: "there was none".into(),
        }),
    }
}

fn await_event(events: &RouteSocket, left: Duration) -> Result<(), NetlinkError> {
    let fd = events.fd();
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(NetlinkError::Socket {
            what: "wait",
            source: errno.into(),
        }),
    }
}
