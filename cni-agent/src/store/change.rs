//! What the store holds and the changes that it takes, as plain values.

use crate::{
    ipam::Released,
    model::{AttachmentId, Endpoint},
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// Everything in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub endpoints: BTreeMap<AttachmentId, Arc<Endpoint>>,
    /// Released addresses, for the order of reuse.
    pub released: BTreeMap<IpAddr, Released>,
    /// The endpoint number to try next; 0 before the first.
    pub next_endpoint_id: u32,
    /// The node that the state belongs to, once it is known.
    pub node: Option<String>,
}

/// One step of a commit; the steps of a commit hold all together or not at all.
#[derive(Clone, Debug)]
pub enum Change {
    /// Enters or replaces an endpoint. Its addresses are no longer released. Refused if another
    /// endpoint has its number or one of its addresses.
    PutEndpoint(Arc<Endpoint>),
    /// Removes the endpoint if it is still the one with this number, and only then enters its
    /// addresses as released.
    RemoveEndpoint {
        attachment: AttachmentId,
        id: u32,
        released: Vec<(IpAddr, Released)>,
    },
    /// Notes that the endpoint's ADD was finished, if it is still the one with this number.
    MarkWired { attachment: AttachmentId, id: u32 },
    /// Drops rows of released addresses.
    Forget(Vec<IpAddr>),
    /// The endpoint number to try next. Commits may arrive in another order than numbers were
    /// given: an earlier number than the stored one is ignored.
    NextEndpointId(u32),
    /// The node that the state belongs to. Refused if it belongs to another one.
    Node(String),
}
