//! Start: reads back store and kernel, adopts living pods without touching their traffic, frees
//! what is dead.

use super::{Network, kernel::Kernel, kernel::KernelError};
use crate::query::Adoption;
use std::collections::HashMap;

impl<K: Kernel> Network<K> {
    /// Brings store and kernel together. An endpoint lives if its link is there and up: the link
    /// ends with its sandbox, and is taken up only as the last step of ADD.
    ///
    /// # Errors
    /// When the kernel can't be read or a living endpoint can't be given its programs.
    pub async fn start(&self) -> Result<Adoption, KernelError> {
        let links = self.kernel.links().await?;
        let links: HashMap<_, _> = links.iter().map(|l| (l.name.as_str(), l)).collect();
        let mut adoption = Adoption::default();
        let mut living = Vec::new();
        for endpoint in self.book.list() {
            match links
                .get(endpoint.host_ifname.as_str())
                .filter(|link| link.up)
            {
                Some(link) => {
                    self.kernel.enforce(&endpoint, link.ifindex).await?;
                    living.push(endpoint);
                }
                None => {
                    adoption.freed.push(endpoint.attachment.to_string());
                    if let Err(error) = self.remove_endpoint(&endpoint).await {
                        return Err(KernelError(error.to_string()));
                    }
                }
            }
        }
        adoption.adopted = living.len();
        adoption.orphan_links = self.kernel.sweep(&living).await?;
        self.change_view(|view| view.adoption = Some(adoption.clone()));
        Ok(adoption)
    }
}
