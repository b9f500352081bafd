//! Start: reads back store and kernel, adopts living pods without touching their traffic, frees
//! what is dead.

use super::{Network, kernel::Kernel, kernel::KernelError};
use crate::{model::Endpoint, query::Adoption};
use std::collections::HashMap;

impl<K: Kernel> Network<K> {
    /// Brings store and kernel together. An endpoint lives if its link is there and up: the link
    /// ends with its sandbox, and is taken up only as the last step of ADD.
    ///
    /// One endpoint that can't be given its programs or can't be freed does not keep the others from
    /// being served: it is told as a problem, and what it has in the kernel stays.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub async fn start(&self) -> Result<Adoption, KernelError> {
        let links = self.kernel.links().await?;
        let links: HashMap<_, _> = links.iter().map(|l| (l.name.as_str(), l)).collect();
        let mut adoption = Adoption::default();
        let mut living = Vec::new();
        for endpoint in self.book.list() {
            let link = links.get(endpoint.host_ifname.as_str());
            let refused = match link.filter(|link| link.up) {
                Some(link) => match self.kernel.enforce(&endpoint, link.ifindex).await {
                    Ok(()) => {
                        adoption.adopted += 1;
                        living.push(endpoint);
                        continue;
                    }
                    // Its sandbox may have ended since the links were read.
                    Err(error) => self.has_link(&endpoint).await?.then_some(error),
                },
                None => None,
            };
            if let Some(error) = refused {
                adoption.problems.push(format!(
                    "{} was not given its programs anew: {error}; end the pod, or start the agent again",
                    endpoint.attachment
                ));
                living.push(endpoint);
            } else if let Err(error) = self.remove_endpoint(&endpoint).await {
                adoption.problems.push(format!(
                    "{} has ended and is not freed: {error}; tried again by DEL, GC and the next start",
                    endpoint.attachment
                ));
            } else {
                adoption.freed.push(endpoint.attachment.to_string());
            }
        }
        adoption.orphan_links = self.kernel.sweep(&living).await?;
        self.change_view(|view| view.adoption = Some(adoption.clone()));
        Ok(adoption)
    }

    async fn has_link(&self, endpoint: &Endpoint) -> Result<bool, KernelError> {
        let links = self.kernel.links().await?;
        let mut own = links.iter().filter(|l| l.name == endpoint.host_ifname);
        Ok(own.any(|link| link.up))
    }
}
