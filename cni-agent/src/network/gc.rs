//! GC: removes every attachment of a network that the runtime doesn't name as valid.

use super::{Network, kernel::Kernel};
use crate::{
    cni::{CniError, caller::Caller},
    model::AttachmentId,
};
use std::collections::BTreeSet;

impl<K: Kernel> Network<K> {
    /// Removes what is not `valid` of `network`, going on after failures. Returns what was removed.
    /// What was added since the call began is nothing that its list could name, and stays.
    ///
    /// # Errors
    /// 11 when the caller has given up: its list is of another time. Otherwise all failures together,
    /// after everything was tried.
    pub async fn gc(
        &self,
        network: &str,
        valid: &BTreeSet<AttachmentId>,
        caller: &Caller,
    ) -> Result<Vec<AttachmentId>, CniError> {
        let stale = self.book.list().into_iter();
        caller.still_waits(self.clock.as_ref())?;
        let stale = stale.filter(|e| e.network == network && !valid.contains(&e.attachment));
        let (mut removed, mut failures) = (Vec::new(), Vec::new());
        for endpoint in stale {
            let _alone = self.locks.lock(&endpoint.attachment).await;
            let now = self.book.get(&endpoint.attachment);
            if now.is_none_or(|now| now.id != endpoint.id) {
                continue;
            }
            match self.remove_endpoint(&endpoint).await {
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
