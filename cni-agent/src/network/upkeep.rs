//! Upkeep: what no event tells of endpoints. A sandbox that ended without a DEL leaves an endpoint
//! without a link; what failed before is tried again, programs and map entries that others took away are
//! put back; what somebody set down is told.

use super::{
    Network, Trouble,
    kernel::{HostLink, Kernel},
    start::unenforced,
};
use crate::model::Endpoint;
use std::collections::{BTreeMap, HashMap};

impl<K: Kernel> Network<K> {
    /// Looks at each endpoint that no operation is under way for. Returns how many were freed.
    pub async fn look_after_endpoints(&self) -> usize {
        if let Err(error) = self.book.flush().await {
            tracing::warn!(%error, "finished ADDs are not noted yet");
        }
        // The endpoints before the links: what is added in between is in neither or in the links.
        let endpoints = self.book.list();
        let links = match self.kernel.links().await {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "the endpoints are looked at later");
                return 0;
            }
        };
        let by_name: HashMap<_, _> = links.iter().map(|l| (l.name.as_str(), l)).collect();
        let before = self.view().troubled;
        let (mut troubled, mut freed) = (BTreeMap::new(), 0);
        for endpoint in endpoints {
            let Some(_alone) = self.locks.try_lock(&endpoint.attachment) else {
                let kept = before.get(&endpoint.attachment).cloned();
                troubled.extend(kept.map(|trouble| (endpoint.attachment, trouble)));
                continue;
            };
            // Another one, or none, since the list was made.
            if (self.book.get(&endpoint.attachment)).is_none_or(|now| now.id != endpoint.id) {
                continue;
            }
            let trouble = match by_name.get(endpoint.host_ifname.as_str()) {
                Some(link) => {
                    let before = before.get(&endpoint.attachment);
                    self.look_at(&endpoint, link, before).await
                }
                None => match self.free_ended(&endpoint).await {
                    Ok(gone) => {
                        freed += usize::from(gone);
                        None
                    }
                    Err(trouble) => Some(trouble),
                },
            };
            troubled.extend(trouble.map(|trouble| (endpoint.attachment, trouble)));
        }
        for attachment in self.book.all_held() {
            if let (Some(_alone), Some(held)) = (
                self.locks.try_lock(&attachment),
                self.book.held(&attachment),
            ) && let Err(error) = self.remove_endpoint(&held).await
            {
                tracing::warn!(%attachment, %error, "what a failed ADD has left can't be removed yet");
            }
        }
        self.change_view(|view| {
            for (attachment, trouble) in &troubled {
                if view.troubled.get(attachment) != Some(trouble) {
                    tracing::warn!(problem = %trouble.text, "an endpoint is not as it should be");
                }
            }
            // One that was removed while the others were looked at is no trouble any more.
            view.troubled = troubled;
            view.troubled.retain(|id, _| self.book.get(id).is_some());
            view.strangers
                .retain(|name, _| by_name.contains_key(name.as_str()));
        });
        freed
    }

    async fn look_at(
        &self,
        endpoint: &Endpoint,
        link: &HostLink,
        before: Option<&Trouble>,
    ) -> Option<Trouble> {
        let lost = self.kernel.lost(endpoint, link.ifindex).await;
        // One that can't be looked at is ending, or was not enforced to begin with.
        let lost = lost.unwrap_or_default();
        if let Some(lost) = &lost {
            tracing::warn!(attachment = %endpoint.attachment, %lost, "enforcement was lost and is put back");
        }
        if (lost.is_some() || before.is_some_and(|trouble| trouble.unenforced))
            && let Err(error) = self.kernel.enforce(endpoint, link.ifindex).await
        {
            return Some(unenforced(endpoint, &error));
        }
        if link.up {
            return None;
        }
        let text = format!(
            "{} of {} was set down, its pod has no network: `ip link set {} up`",
            link.name, endpoint.attachment, link.name
        );
        let unenforced = false;
        Some(Trouble { text, unenforced })
    }

    /// Frees the endpoint if its link is gone now, too, that its lock is held. Returns whether it was.
    async fn free_ended(&self, endpoint: &Endpoint) -> Result<bool, Trouble> {
        let trouble = |error: &dyn std::fmt::Display| Trouble {
            text: format!(
                "{} has ended and is not freed: {error}; tried again from time to time",
                endpoint.attachment
            ),
            unenforced: false,
        };
        let links = self.kernel.links().await.map_err(|e| trouble(&e))?;
        if links.iter().any(|link| link.name == endpoint.host_ifname) {
            return Ok(false);
        }
        self.remove_endpoint(endpoint)
            .await
            .map_err(|e| trouble(&e))?;
        tracing::info!(attachment = %endpoint.attachment, "its sandbox ended without a DEL: freed");
        Ok(true)
    }
}
