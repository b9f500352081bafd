//! GC: removes every attachment of a network that the runtime doesn't name as valid.

use super::{Network, kernel::Kernel};
use crate::{cni::CniError, model::AttachmentId};
use std::collections::BTreeSet;

impl<K: Kernel> Network<K> {
    /// Removes what is not `valid` of `network`, going on after failures. Returns what was removed.
    ///
    /// # Errors
    /// All failures together, after everything was tried.
    pub async fn gc(
        &self,
        network: &str,
        valid: &BTreeSet<AttachmentId>,
    ) -> Result<Vec<AttachmentId>, CniError> {
        let stale = self.book.list().into_iter();
        let stale = stale.filter(|e| e.network == network && !valid.contains(&e.attachment));
        let (mut removed, mut failures) = (Vec::new(), Vec::new());
        for endpoint in stale {
            match self.del(&endpoint.attachment).await {
                Ok(()) => {
                    tracing::info!(attachment = %endpoint.attachment, "removed by GC");
                    removed.push(endpoint.attachment);
                }
                Err(error) => failures.push(format!("{}: {error}", endpoint.attachment)),
            }
        }
        if failures.is_empty() {
            Ok(removed)
        } else {
            Err(CniError::several(
                "GC could not remove every stale attachment",
                &failures,
            ))
        }
    }
}
