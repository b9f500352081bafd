//! Where the desired state comes from. A source reads Kubernetes objects, converts what the node
//! needs to the model, and publishes snapshots of the whole cluster; it never writes to the kernel.
//!
//! [`kubernetes`] is the source in a cluster, [`manifests`] the standalone one: a watched folder. PURE
//! parts: [`convert`] (one object to the model), `document` (text to objects) and `merge` (objects to one
//! cluster).

mod arrivals;
pub mod convert;
mod document;
mod folder;
pub mod kubernetes;
mod last_good;
pub mod manifests;
mod merge;
mod object;
pub mod policy_api;
mod problem;
mod resource;
#[cfg(test)]
mod tests;

pub use arrivals::Arrivals;
pub use problem::{Severity, SourceProblem};
pub(crate) use resource::resource;

use crate::{
    model::{ClusterPolicy, NetworkPolicy},
    state::Cluster,
};
use std::{future::Future, pin::Pin, sync::Arc};
use tokio::sync::watch;

/// The policies that a file holds, and what is wrong with the file. Other kinds in it are passed over.
pub fn read_policies(
    file: &str,
    bytes: &[u8],
) -> (Vec<NetworkPolicy>, Vec<ClusterPolicy>, Vec<SourceProblem>) {
    let parsed = document::parse(file, bytes);
    let (mut policies, mut of_cluster) = (Vec::new(), Vec::new());
    for found in parsed.objects {
        match found.object {
            object::Object::Policy(policy) => policies.push(policy),
            object::Object::ClusterPolicy(policy) => of_cluster.push(policy),
            _ => {}
        }
    }
    (policies, of_cluster, parsed.problems)
}

/// A stream of desired state.
pub trait Source: Send + Sync + 'static {
    /// The present snapshot and every later one. Level-triggered: a slow reader gets the newest.
    /// The channel closes when the source is dropped.
    fn subscribe(&self) -> watch::Receiver<Arc<Cluster>>;

    /// When the news came that the snapshots hold; one that doesn't know tells of none.
    fn arrivals(&self) -> Arrivals {
        Arrivals::default()
    }

    /// Returns when the source has broken down and tells nothing new any more.
    fn ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    /// What is wrong with the input at present, each with its place and remedy; empty if nothing.
    fn problems(&self) -> Vec<SourceProblem>;

    /// Where a rule of a policy is written, as `file:line`; none: it is in no file. `object` and `rule` as in
    /// [`crate::policy::AskedRule`].
    fn place(&self, object: &str, rule: &str) -> Option<String> {
        let _in_no_file = (object, rule);
        None
    }
}
