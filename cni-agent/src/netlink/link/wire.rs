//! The whole of an ADD in the kernel, on one thread: handing it from thread to thread costs as much
//! as a third of the work.

use super::{LinkPlan, create, remove::gone_is_fine, up};
use crate::netlink::{
    NetlinkError,
    message::delete_link,
    netns::{self, OwnThread},
    socket::RouteSocket,
};
use std::{
    fmt::Display,
    os::fd::{AsFd, BorrowedFd},
};

/// Makes the pair of links of `plan` with its peer in `netns` and lets packets flow. In between, with
/// the host's end still down, `enforce` gets the host's number to put programs and map entries in
/// place; it runs in the namespace of the caller. Returns that number when the sandbox's end can send.
/// A failed or abandoned call leaves no link; what `enforce` did is the caller's to undo.
///
/// # Errors
/// `Exists` or `HostExists` when a name is taken, `NotNetns` or `HostNetns` for a descriptor that is
/// no sandbox's, `Enforce` with the words of `enforce`, `NotUp` when the carrier does not come,
/// `Refused` naming the request that the kernel did not take.
pub async fn wire<E: Display>(
    plan: &LinkPlan,
    netns: BorrowedFd<'_>,
    enforce: impl FnOnce(u32) -> Result<(), E> + Send + 'static,
) -> Result<u32, NetlinkError> {
    plan.check()?;
    netns::check_pod(netns)?;
    let netns = netns::duplicate(netns)?;
    let plan = plan.clone();
    netns::on_own_thread_or_undo(
        "fl-wire",
        move |thread| {
            let mut host = RouteSocket::route()?;
            let ifindex = steps(&mut host, &plan, netns.as_fd(), thread, enforce)?;
            Ok((ifindex, (ifindex, host, plan)))
        },
        // Runs inside the sandbox, hence by the socket that was opened outside of it.
        |(ifindex, mut host, plan)| undo(&mut host, ifindex, &plan),
    )
    .await
}

fn steps<E: Display>(
    host: &mut RouteSocket,
    plan: &LinkPlan,
    netns: BorrowedFd<'_>,
    thread: &OwnThread,
    enforce: impl FnOnce(u32) -> Result<(), E>,
) -> Result<u32, NetlinkError> {
    let (ids, ipv6) = create::pair(host, plan, netns)?;
    let wired = create::furnish_host(host, plan, ids, ipv6)
        .and_then(|()| {
            enforce(ids.host_ifindex).map_err(|error| NetlinkError::Enforce(error.to_string()))
        })
        .and_then(|()| thread.enter(netns))
        .and_then(|()| create::furnish_pod(plan, ids))
        .and_then(|()| up::switch_on(host, plan, ids));
    if wired.is_err() {
        undo(host, ids.host_ifindex, plan);
    }
    wired.map(|()| ids.host_ifindex)
}

/// Removes the pair again; the first error is the one to tell.
fn undo(host: &mut RouteSocket, ifindex: u32, plan: &LinkPlan) {
    if let Err(error) = gone_is_fine(host.one(delete_link(ifindex, &plan.host_ifname))) {
        tracing::warn!(link = plan.host_ifname, %error, "cannot undo an ADD");
    }
}
