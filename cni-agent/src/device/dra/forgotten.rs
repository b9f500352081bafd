//! Claims that hold devices and that nobody will ever take back: a kubelet that lost what it had written down knows nothing
//! of them.

use super::prepared::Prepared;
use crate::{device::pods::PodResources, node::within};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// So long nobody has to know a claim. A kubelet takes back each minute what pods have that it doesn't know any more, and
/// containers of a pod that was deleted by force may run on until then.
#[cfg(not(test))]
const LONG: Duration = Duration::from_secs(300);
#[cfg(test)]
const LONG: Duration = Duration::from_millis(100);

/// Who is asked, and since when claims by their uids are known to nobody.
pub(super) struct Forgotten {
    client: Client,
    pods: PodResources,
    since: Mutex<BTreeMap<String, Instant>>,
}

impl Forgotten {
    pub(super) fn new(client: Client, pods: PodResources) -> Self {
        Self {
            client,
            pods,
            since: Mutex::default(),
        }
    }

    /// Whether a claim is forgotten for long enough. Who doesn't answer may know it.
    pub(super) async fn is(&self, uid: &str, claim: &Prepared) -> bool {
        let is_known = self.is_known(uid, claim).await;
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if is_known {
            since.remove(uid);
            return false;
        }
        let first = *since.entry(uid.to_owned()).or_insert_with(Instant::now);
        let is_long = first.elapsed() >= LONG;
        if is_long {
            since.remove(uid);
        }
        is_long
    }

    async fn is_known(&self, uid: &str, claim: &Prepared) -> bool {
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let Ok(found) = within(claims.get_opt(&claim.name)).await else {
            return true;
        };
        if found.and_then(|of| of.metadata.uid).as_deref() == Some(uid) {
            return true;
        }
        let name = (claim.namespace.clone(), claim.name.clone());
        let held = self.pods.claims().await;
        held.is_err() || held.is_ok_and(|held| held.contains(&name))
    }
}
