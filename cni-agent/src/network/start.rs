//! Start: reads back store and kernel, adopts living pods without touching their traffic, frees
//! what is dead.

use super::{
    Network, Trouble,
    kernel::{HostLink, Kernel, KernelError},
};
use crate::{model::Endpoint, query::Adoption};
use std::collections::HashMap;

impl<K: Kernel> Network<K> {
    /// Brings store and kernel together. An endpoint lives if its link is there, which ends with its
    /// sandbox, and its ADD was finished: the store says so, or the link is up, which is the last
    /// step. A finished one whose link somebody has set down lives.
    ///
    /// One endpoint that can't be given its programs or can't be freed does not keep the others from
    /// being served: it is told as a problem, and what it has in the kernel stays.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub async fn start(&self) -> Result<Adoption, KernelError> {
        let links = self.kernel.links().await?;
        let mut adoption = Adoption {
            recovered: self.recover(&links).await?,
            ..Adoption::default()
        };
        let links: HashMap<_, _> = links.iter().map(|l| (l.name.as_str(), l)).collect();
        let endpoints = self.book.list();
        let serving = |e: &Endpoint| {
            let link = links.get(e.host_ifname.as_str());
            link.filter(|link| link.up || e.wired)
        };
        let known = endpoints
            .iter()
            .filter_map(|e| Some((e.clone(), serving(e)?.ifindex)));
        self.kernel.fill(known.collect()).await;
        let mut living = Vec::new();
        for endpoint in endpoints {
            let refused = match serving(&endpoint) {
                Some(link) => match self.kernel.enforce(&endpoint, link.ifindex).await {
                    Ok(()) => {
                        adoption.adopted += 1;
                        self.book.mark_wired(&endpoint.attachment);
                        living.push(endpoint);
                        continue;
                    }
                    // Its sandbox may have ended since the links were read.
                    Err(error) => self.has_link(&endpoint).await?.then_some(error),
                },
                None => None,
            };
            if let Some(error) = refused {
                self.trouble(&endpoint, unenforced(&endpoint, &error));
                living.push(endpoint);
            } else if let Err(error) = self.remove_endpoint(&endpoint).await {
                let text = format!(
                    "{} has ended and is not freed: {error}; tried again from time to time",
                    endpoint.attachment
                );
                let unenforced = false;
                self.trouble(&endpoint, Trouble { text, unenforced });
            } else {
                adoption.freed.push(endpoint.attachment.to_string());
            }
        }
        let strangers: Vec<String> = self.view().strangers.into_keys().collect();
        adoption.orphan_links = self.kernel.sweep(&living, &strangers).await?;
        self.change_view(|view| view.adoption = Some(adoption.clone()));
        Ok(adoption)
    }

    /// Deals with links that no endpoint owns and that carry packets. Where the store is new, its
    /// predecessor was lost: what the maps tell of such a link is entered again. One that the maps don't
    /// know was not made by an ADD that was cut short, which writes its rows first: it stays as it is.
    /// Everything else is left to the sweep. Returns how many endpoints were entered.
    async fn recover(&self, links: &[HostLink]) -> Result<usize, KernelError> {
        let known = self.book.list();
        let is_known = |link: &HostLink| known.iter().any(|e| e.host_ifname == link.name);
        let orphans: Vec<HostLink> = links
            .iter()
            .filter(|link| link.up && !is_known(link))
            .cloned()
            .collect();
        if orphans.is_empty() {
            return Ok(0);
        }
        let (found, store_is_new) = (self.kernel.recover(&orphans).await?, self.book.is_new());
        let in_maps = |link: &HostLink| found.iter().any(|e| e.host_ifname == link.name);
        for link in orphans.iter().filter(|link| !in_maps(link)) {
            self.stranger(link, "the maps don't know it");
        }
        let mut recovered = 0;
        for mut endpoint in found.iter().filter(|_| store_is_new).cloned() {
            endpoint.created_at = self.clock.unix_secs();
            match self.book.adopt(endpoint.clone()).await {
                Ok(()) => {
                    tracing::warn!(attachment = %endpoint.attachment, "not in the store, entered again as the kernel has it");
                    recovered += 1;
                }
                Err(error) => {
                    for link in orphans.iter().filter(|l| l.name == endpoint.host_ifname) {
                        self.stranger(link, &format!("it can't be entered again: {error}"));
                    }
                }
            }
        }
        Ok(recovered)
    }

    fn stranger(&self, link: &HostLink, why: &str) {
        let text = format!(
            "the store has no endpoint for {} ({}), which carries packets, and {why}: it goes on as it is, unknown to DEL and to the pool of addresses; end its pod, or remove it by `ip link del {}`",
            link.name, link.alias, link.name
        );
        tracing::warn!(problem = %text, "a link of a pod without an endpoint");
        self.change_view(|view| drop(view.strangers.insert(link.name.clone(), text)));
    }

    fn trouble(&self, endpoint: &Endpoint, trouble: Trouble) {
        tracing::warn!(problem = %trouble.text, "an endpoint is not as it should be");
        let attachment = endpoint.attachment.clone();
        self.change_view(|view| drop(view.troubled.insert(attachment, trouble)));
    }

    async fn has_link(&self, endpoint: &Endpoint) -> Result<bool, KernelError> {
        let links = self.kernel.links().await?;
        let mut own = links.iter().filter(|l| l.name == endpoint.host_ifname);
        Ok(own.any(|link| link.up || endpoint.wired))
    }
}

/// The trouble of an endpoint that was not given its programs.
pub(super) fn unenforced(endpoint: &Endpoint, error: &KernelError) -> Trouble {
    Trouble {
        text: format!(
            "{} was not given its programs anew: {error}; tried again from time to time, or end the pod",
            endpoint.attachment
        ),
        unenforced: true,
    }
}
