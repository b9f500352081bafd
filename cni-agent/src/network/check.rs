//! CHECK: compares runtime's record, store, kernel and maps, and names the first difference.

use super::{Network, kernel::Kernel};
use crate::{
    cni::{CniError, result::PrevResult},
    model::{AttachmentId, Endpoint},
};
use std::{net::IpAddr, os::fd::OwnedFd, sync::Arc};

impl<K: Kernel> Network<K> {
    /// Compares everything that ADD made with what is there.
    ///
    /// # Errors
    /// 3 for an attachment that the store doesn't have, 102 with the first difference, 101 when
    /// the kernel can't be read.
    pub async fn check(
        &self,
        attachment: &AttachmentId,
        sandbox: Option<Arc<OwnedFd>>,
        previous: &PrevResult,
    ) -> Result<(), CniError> {
        let _alone = self.locks.lock(attachment).await;
        let Some(endpoint) = self.book.get(attachment) else {
            return Err(CniError::unknown_container(attachment));
        };
        if let Some(difference) = difference_from_record(&endpoint, previous) {
            return Err(CniError::differs(&difference));
        }
        let differences = self.kernel.differences(&endpoint, sandbox).await;
        match differences.map_err(|e| CniError::from(&e))?.first() {
            Some(first) => Err(CniError::differs(first)),
            None => Ok(()),
        }
    }
}

/// The first thing in which the runtime's record of ADD's result differs from the store.
fn difference_from_record(endpoint: &Endpoint, previous: &PrevResult) -> Option<String> {
    let recorded: Vec<IpAddr> = previous.addresses();
    let missing = endpoint
        .addresses
        .iter()
        .find(|address| !recorded.contains(address));
    if let Some(address) = missing {
        return Some(format!(
            "prevResult.ips lacks {address}, which the store has for this attachment"
        ));
    }
    let ifname = endpoint.attachment.ifname();
    if !previous.interface_names().any(|name| name == ifname) {
        return Some(format!("prevResult.interfaces lacks {ifname}"));
    }
    None
}
