//! DEL: removes an attachment. Succeeds when the sandbox, the link or everything is gone already.

use super::{Network, kernel::Kernel};
use crate::{
    cni::CniError,
    model::{Addresses, AttachmentId, Endpoint, Mac},
    netlink::link::host_ifname,
};

impl<K: Kernel> Network<K> {
    /// Removes the attachment; the addresses are free, durably, when this returns.
    ///
    /// # Errors
    /// 5 when the store can't be written, 101 when the kernel refused; to be repeated.
    pub async fn del(&self, attachment: &AttachmentId) -> Result<(), CniError> {
        let _alone = self.locks.lock(attachment).await;
        self.del_alone(attachment).await
    }

    /// As [`Network::del`], for a caller that holds the attachment's lock.
    pub(super) async fn del_alone(&self, attachment: &AttachmentId) -> Result<(), CniError> {
        let known = self.book.get(attachment);
        let known = known.or_else(|| self.book.held(attachment));
        // An ADD that was cut short may have left a link.
        let endpoint = known.unwrap_or_else(|| leftover(attachment));
        self.remove_endpoint(&endpoint).await
    }

    /// Kernel first, so that no packet uses an address that is free; then the store. What the kernel
    /// refused keeps its addresses, and is tried again by the next DEL, GC or look.
    pub(super) async fn remove_endpoint(&self, endpoint: &Endpoint) -> Result<(), CniError> {
        self.kernel
            .remove(endpoint)
            .await
            .map_err(|e| CniError::from(&e))?;
        self.book
            .remove(&endpoint.attachment)
            .await
            .map_err(|e| CniError::from(&e))?;
        self.change_view(|view| drop(view.troubled.remove(&endpoint.attachment)));
        Ok(())
    }
}

/// What is known of an attachment that the store doesn't have: its link's name.
fn leftover(attachment: &AttachmentId) -> Endpoint {
    Endpoint {
        attachment: attachment.clone(),
        id: 0,
        network: String::new(),
        pod: None,
        addresses: Addresses::default(),
        mac: Mac([0; 6]),
        host_mac: Mac([0; 6]),
        host_ifname: host_ifname(attachment),
        mtu: 0,
        sandbox: String::new(),
        created_at: 0,
        wired: false,
    }
}
