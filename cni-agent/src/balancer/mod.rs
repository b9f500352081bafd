//! Load balancer addresses without a cloud: gives Services of the type LoadBalancer addresses of a pool,
//! and has one node answer for each on its link (ARP, neighbour discovery).
//!
//! [`duty`] and [`pool`] decide (PURE): who gets what, and who answers for what. [`lease`] is how nodes agree
//! on one of them. Three tasks do the work: `elect` looks after the Leases, `allocate` writes the Services'
//! status while this node leads, `announce` keeps what this node answers for in the map, and tells the
//! link when it takes over. None of them waits for another: with the API server away, what is answered for
//! goes on being answered for.

mod allocate;
mod announce;
pub mod duty;
mod elect;
mod frame;
pub mod lease;
pub mod pool;

/// Namespace of the Leases: of their own, since other namespaces have those of others.
pub const NAMESPACE: &str = "fairlead-load-balancer";

use crate::network::part::Running;
use allocate::Allocator;
use elect::Elections;
use kube::Client;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout},
};

/// An agent that ends waits so long for the API server to hear that it gives its Leases up.
const FAREWELL: Duration = Duration::from_secs(3);

/// What `elect` tells the others.
struct Told {
    /// What this node answers for; none before it is known, when what an agent before this one answered
    /// for goes on.
    answered: watch::Sender<Option<BTreeSet<IpAddr>>>,
    /// Until when no other node can lead; none while another does.
    leads: watch::Sender<Option<Instant>>,
}

/// Works until `end` is dropped, then gives up what this node holds, so that others take over at once.
pub async fn run(client: Client, running: Arc<Running>, end: oneshot::Receiver<()>) {
    let told = Told {
        answered: watch::Sender::new(None),
        leads: watch::Sender::new(None),
    };
    let (answered, leads) = (told.answered.subscribe(), told.leads.subscribe());
    let allocator = Allocator::new(client.clone(), running.clone(), leads);
    let mut elections = Elections::new(client, running.clone());
    tokio::select! {
        () = elections.hold(&told) => {}
        () = allocator.allocate() => {}
        () = announce::announce(running, answered) => {}
        _ended = end => {}
    }
    // What was announced lasts on for a moment: until another node answers.
    if timeout(FAREWELL, elections.give_up()).await.is_err() {
        tracing::warn!("the API server doesn't hear that this node gives its Leases up");
    }
}
