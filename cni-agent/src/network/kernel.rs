//! The narrow rim between the network part's logic and the kernel: what Linux does in
//! [`super::linux`], and a simulated kernel does in tests.

use super::desired::{Desired, Uplink};
use crate::{
    cni::CniError,
    model::Endpoint,
    policy::{Plan, Start, Tables},
};
use std::{
    collections::BTreeMap, fmt, future::Future, net::IpAddr, os::fd::OwnedFd, sync::Arc,
    time::Instant,
};

/// A step in the kernel that failed, already worded for people: what, where, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The kernel refused, or can't be asked.
    Refused(String),
    /// The sandbox that the runtime named is none: the node's own namespace, or no network namespace.
    Sandbox(String),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(text) | Self::Sandbox(text)) = self;
        f.write_str(text)
    }
}

impl From<&KernelError> for CniError {
    fn from(error: &KernelError) -> Self {
        match error {
            KernelError::Refused(_) => Self::kernel(error),
            KernelError::Sandbox(text) => Self::environment(text.clone()),
        }
    }
}

impl std::error::Error for KernelError {}

/// The host's end of a pod's link, as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    pub name: String,
    pub ifindex: u32,
    /// `fairlead:<container id>/<interface>`.
    pub alias: String,
    pub up: bool,
}

/// What of the desired state the kernel did not take; nothing when all of it is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unapplied {
    /// Without these, pods of this node can't be served.
    pub own: Vec<KernelError>,
    /// Ways to other nodes, XDP that another's program keeps out: what can be reached goes on, and so
    /// do new pods.
    pub remote: Vec<KernelError>,
}

impl Unapplied {
    /// Whether everything is in place.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.remote.is_empty()
    }
}

/// What the network part asks of the kernel. Every call is idempotent.
pub trait Kernel: Send + Sync + 'static {
    /// Makes the pair with its peer in the sandbox, puts programs and map entries in place as
    /// `enforce` does, and only then takes the host's end up. Returns when the pod can send. After a
    /// failure no packet passes; `remove` ends what it left.
    fn wire(
        &self,
        endpoint: &Endpoint,
        sandbox: Arc<OwnedFd>,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Puts programs and map entries of the endpoint in place, replacing what was there.
    fn enforce(
        &self,
        endpoint: &Endpoint,
        ifindex: u32,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Writes the map entries of endpoints (with the numbers of their links) that have their
    /// programs from an agent before: each pod must be known when the first gets its programs
    /// anew. What fails is told by `enforce`.
    fn fill(&self, _living: Vec<(Endpoint, u32)>) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The first of an endpoint's programs and map entries that is not as `enforce` left it.
    fn lost(
        &self,
        endpoint: &Endpoint,
        ifindex: u32,
    ) -> impl Future<Output = Result<Option<String>, KernelError>> + Send;

    /// Stops every packet of the endpoint, removes its entries and programs, and has its link
    /// removed soon. Succeeds when there is nothing to remove.
    fn remove(&self, endpoint: &Endpoint) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// The links of ours that the kernel has, whatever the store says.
    fn links(&self) -> impl Future<Output = Result<Vec<HostLink>, KernelError>> + Send;

    /// Of these links, all up, what the map entries tell of each as an endpoint. What only the store
    /// knows (network, pod, sandbox) is empty.
    fn recover(
        &self,
        links: &[HostLink],
    ) -> impl Future<Output = Result<Vec<Endpoint>, KernelError>> + Send;

    /// Removes a link that no endpoint owns, and entries and pins that no endpoint of `living`
    /// owns. Links named by `spared` keep everything. Returns how many links were removed.
    fn sweep(
        &self,
        living: &[Endpoint],
        spared: &[String],
    ) -> impl Future<Output = Result<usize, KernelError>> + Send;

    /// What differs from the endpoint as it should be; the first difference comes first. Without a
    /// sandbox only the host's side is compared.
    fn differences(
        &self,
        endpoint: &Endpoint,
        sandbox: Option<Arc<OwnedFd>>,
    ) -> impl Future<Output = Result<Vec<String>, KernelError>> + Send;

    /// The devices that hold the node's addresses, or the one that is named.
    fn uplinks(
        &self,
        addresses: &[IpAddr],
        named: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Uplink>, KernelError>> + Send;

    /// Of these addresses those that are neighbours, with the number of the interface: only they can
    /// be next hops.
    fn neighbours(
        &self,
        addresses: Vec<IpAddr>,
    ) -> impl Future<Output = Result<BTreeMap<IpAddr, u32>, KernelError>> + Send;

    /// Makes the kernel hold what is desired of nodes, routes and masquerading. Goes on after a
    /// failure and returns every one.
    fn apply(&self, desired: &Desired) -> impl Future<Output = Unapplied> + Send;

    /// Puts the node's side of living endpoints back where somebody else removed it: the way to their
    /// addresses, and their neighbours. Goes on after a failure and returns every one.
    fn mend(&self, endpoints: &[Endpoint]) -> impl Future<Output = Vec<KernelError>> + Send;

    /// Numbers that no row of policies has.
    fn policy_start(&self) -> impl Future<Output = Result<Start, KernelError>> + Send {
        async { Ok(Start::default()) }
    }

    /// Puts tables of policies in force; `sweep` removes what agents before this one left, too.
    fn write_policies(
        &self,
        _plan: Plan,
        _after: Arc<Tables>,
        _sweep: bool,
    ) -> impl Future<Output = Result<(), KernelError>> + Send {
        async { Ok(()) }
    }

    /// Removes what a plan says is gone.
    fn clear_policies(&self, _plan: Plan) -> impl Future<Output = Result<(), KernelError>> + Send {
        async { Ok(()) }
    }

    /// Judges no packet by policies.
    fn ignore_policies(&self) -> impl Future<Output = Result<(), KernelError>> + Send {
        async { Ok(()) }
    }

    /// When the last writing of Services ended; none while it failed, or before the first.
    fn services_written(&self) -> Option<Instant> {
        None
    }

    /// Tables and chains of the firewall; those of others.
    fn chains(&self) -> impl Future<Output = Result<Vec<(String, String)>, KernelError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Forgets what is over, as nothing tells of it; called now and then. What fails is tried the next
    /// time.
    fn tidy(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Returns when links, addresses or routes changed, so that `uplinks` may answer differently.
    fn changed(&self) -> impl Future<Output = ()> + Send;
}
