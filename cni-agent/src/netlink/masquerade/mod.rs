//! Hides pods behind the node's address when they talk to the outside: one nftables table of our
//! own, `inet fairlead`, replaced as a whole in one transaction and only when it differs. Tables of
//! others are never read or touched.

mod found;
mod intervals;
mod ruleset;

use super::{
    NetlinkError, blocking,
    socket::{Request, Socket},
    wire::Part,
};
use intervals::Interval;
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, nftables::NfTablesMessage,
};
use rtnetlink::{packet_core::NLM_F_ACK, sys::protocols::NETLINK_NETFILTER};
use ruleset::{Family, Ruleset};

pub use ruleset::TABLE;

type NftSocket = Socket<NetfilterMessage>;
type NftRequest = Request<NetfilterMessage>;

/// Hides packets from `pod_cidrs` (this node's) behind the node's address, except to `inside` (all
/// podCIDRs and node addresses of the cluster), to the pods' gateway and to multicast and IPv6
/// link-local addresses. The
/// table is replaced only when it differs; connections that exist keep the address they have. Tells
/// whether anything had to be changed.
///
/// # Errors
/// `Refused` when the kernel does not take it, for example because it has no nftables.
pub async fn sync(pod_cidrs: &[IpNetwork], inside: &[IpNetwork]) -> Result<bool, NetlinkError> {
    let ruleset = Ruleset::new(pod_cidrs, inside);
    blocking("masquerade", move || {
        let mut socket = NftSocket::open(NETLINK_NETFILTER)?;
        if is_in_place(&mut socket, &ruleset)? {
            return Ok(false);
        }
        socket.transaction(ruleset.replace())?;
        Ok(true)
    })
    .await
}

/// Whether the table is there, in whatever state.
///
/// # Errors
/// `Refused` or `Socket` when the kernel does not answer.
pub async fn exists() -> Result<bool, NetlinkError> {
    blocking("masquerade", || {
        let mut socket = NftSocket::open(NETLINK_NETFILTER)?;
        Ok(!ask(&mut socket, found::get_table())?.is_empty())
    })
    .await
}

/// Removes the table. Tells whether it was there.
///
/// # Errors
/// `Refused` when the kernel does not do it.
pub async fn remove() -> Result<bool, NetlinkError> {
    blocking("masquerade", || {
        let mut socket = NftSocket::open(NETLINK_NETFILTER)?;
        match socket.transaction(ruleset::delete()) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    })
    .await
}

/// Whether the kernel has exactly this. Rules carry a comment that names their content (a rule
/// cannot be edited without losing it); elements of sets and the chain's hook are compared.
fn is_in_place(socket: &mut NftSocket, ruleset: &Ruleset) -> Result<bool, NetlinkError> {
    // Asked one by one: a list would hold others' chains, which may be of kinds that we cannot read.
    let table = ask(socket, found::get_table())?;
    let chain = ask(socket, found::get_chain())?;
    if !(table.iter().any(found::is_our_table) && chain.iter().any(found::is_our_chain)) {
        return Ok(false);
    }
    let rules = list(socket, found::get_rules())?;
    if found::comments(&rules) != ruleset.comments() {
        return Ok(false);
    }
    for family in [Family::V4, Family::V6] {
        let read = |message: &Part<'_>, object: &str| {
            found::edges(message.payload()).map_err(|fault| NetlinkError::Answer {
                object: object.to_owned(),
                fault: fault.to_string(),
            })
        };
        let mut found = socket
            .dump_with(found::get_elements(family), read)?
            .concat();
        found.sort_unstable();
        if found != edges(ruleset.inside_of(family), family) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The borders of intervals as the kernel keeps them: where one begins, and where one is over.
fn edges(intervals: &[Interval], family: Family) -> Vec<(u128, bool)> {
    let mut edges: Vec<_> = intervals
        .iter()
        .flat_map(|interval| {
            let over = interval
                .last
                .checked_add(1)
                .filter(|over| *over <= family.greatest());
            [Some((interval.first, false)), over.map(|over| (over, true))]
        })
        .flatten()
        .collect();
    edges.sort_unstable();
    edges
}

/// One question; no answer when the object does not exist.
fn ask(socket: &mut NftSocket, request: NftRequest) -> Result<Vec<NfTablesMessage>, NetlinkError> {
    match socket.one(request) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(replies) => Ok(inner(replies)),
    }
}

fn list(socket: &mut NftSocket, request: NftRequest) -> Result<Vec<NfTablesMessage>, NetlinkError> {
    socket.dump(request).map(inner)
}

fn inner(replies: Vec<NetfilterMessage>) -> Vec<NfTablesMessage> {
    replies
        .into_iter()
        .filter_map(|reply| match reply.inner {
            NetfilterMessageInner::NfTables(message) => Some(message),
            _ => None,
        })
        .collect()
}

/// The last message of a transaction says that it was carried out.
fn acknowledge_last(requests: &mut [NftRequest]) {
    if let Some(last) = requests.last_mut() {
        last.flags |= NLM_F_ACK;
    }
}
