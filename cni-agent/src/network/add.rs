//! ADD: wires an interface of a sandbox. The link comes up only after its programs and entries are
//! in place; the addresses become durable beside that, and the reply waits for both. A step that
//! fails undoes the ones before it.

use super::{Network, desired::Desired, kernel::Kernel, spool};
use crate::{
    cni::{CniError, args::CniArgs, caller::Caller, netconf::NetConf, result::PrevResult},
    model::{AttachmentId, Endpoint, Mac},
    netlink::link::host_ifname,
    store::Reservation,
};
use sha2::{Digest, Sha256};
use std::{net::IpAddr, os::fd::OwnedFd, sync::Arc};

/// A validated ADD.
#[derive(Debug)]
pub struct AddRequest {
    pub attachment: AttachmentId,
    pub sandbox: Arc<OwnedFd>,
    /// The sandbox's path, only shown.
    pub sandbox_path: String,
    pub conf: NetConf,
    pub args: CniArgs,
    /// What the plugins before us in the chain did.
    pub previous: PrevResult,
    pub caller: Caller,
}

impl<K: Kernel> Network<K> {
    /// Wires the attachment and returns its endpoint. Repeated for the same sandbox, it returns
    /// what the first call made.
    ///
    /// # Errors
    /// 11 while the node can't serve yet, and when the caller has given up before its turn; 7 for
    /// addresses that can't be had, 100 when no address is left, 101 when the kernel refused a step.
    pub async fn add(&self, request: &AddRequest) -> Result<Endpoint, CniError> {
        let id = &request.attachment;
        let _alone = self.locks.lock(id).await;
        let desired = self.serving()?;
        spool::take_back(&self.config.spool(), id, || {
            request.caller.still_waits(self.clock.as_ref())
        })?;
        if let Some(endpoint) = self.book.get(id) {
            let differences = self
                .kernel
                .differences(&endpoint, Some(request.sandbox.clone()))
                .await;
            // What can't be compared is left alone: it may well be a living pod.
            if differences.map_err(|e| CniError::from(&e))?.is_empty() {
                // Where the store was lost, the caller knows what it doesn't.
                let sandbox = match endpoint.sandbox.as_str() {
                    "" => request.sandbox_path.clone(),
                    known => known.to_owned(),
                };
                return Ok(Endpoint {
                    sandbox,
                    ..endpoint
                });
            }
            // The same container id with another sandbox, or damaged by hand: made anew.
            self.remove_endpoint(&endpoint).await?;
        } else if let Some(held) = self.book.held(id) {
            self.remove_endpoint(&held).await?;
        }
        let wanted: Vec<IpAddr> = wanted_addresses(request);
        let reservation = self
            .book
            .reserve(id, &wanted)
            .map_err(|e| CniError::from(&e))?;
        let endpoint = self.plan(request, &desired, &reservation);

        self.admit(&endpoint)
            .await
            .map_err(|e| CniError::from(&e))?;
        // Durable and wired at the same time; the reply waits for both. A pod whose row is lost in
        // between is undone by the start, which finds its link without a row.
        let (stored, wired) = tokio::join!(
            self.book.commit_endpoint(reservation, endpoint.clone()),
            self.kernel.wire(&endpoint, request.sandbox.clone())
        );
        self.admitted(endpoint.id).await;
        let (failure, uncommitted) = match (stored, wired) {
            (Ok(()), Ok(())) => return Ok(self.book.mark_wired(id).unwrap_or(endpoint)),
            (Err(e), _) => (CniError::from(&e.error), Some(e)),
            (Ok(()), Err(e)) => (CniError::from(&e), None),
        };
        // The addresses are free only once the kernel doesn't use them any more.
        if let Err(undo) = self.remove_endpoint(&endpoint).await {
            tracing::warn!(attachment = %id, error = %undo, "undo of a failed ADD is tried again");
            if let Some(uncommitted) = uncommitted {
                self.book.hold(uncommitted, endpoint);
            }
        }
        Err(failure)
    }

    /// What the kernel holds beside the endpoints, once the node can serve.
    ///
    /// # Errors
    /// 11 (try again later) with the reason and its remedy.
    pub fn serving(&self) -> Result<Arc<Desired>, CniError> {
        let view = self.view();
        view.desired.ok_or_else(|| {
            let reason = view.problems.first().cloned();
            CniError::try_again("the node can't serve pods yet")
                .with_details(reason.unwrap_or_else(|| "the agent is starting".to_owned()))
        })
    }

    fn plan(&self, request: &AddRequest, desired: &Desired, reservation: &Reservation) -> Endpoint {
        let attachment = request.attachment.clone();
        let requested_mac = request.conf.runtime_config.mac.or(request.args.mac);
        Endpoint {
            id: reservation.id(),
            network: request.conf.name.clone(),
            pod: request.args.pod.clone(),
            addresses: reservation.addresses(),
            mac: requested_mac.unwrap_or_else(|| derived_mac(&attachment, b"pod")),
            host_mac: derived_mac(&attachment, b"host"),
            host_ifname: host_ifname(&attachment),
            mtu: request.conf.mtu.unwrap_or(desired.pod_mtu),
            sandbox: request.sandbox_path.clone(),
            created_at: self.clock.unix_secs(),
            wired: false,
            attachment,
        }
    }
}

/// Addresses asked for by the capability `ips` or by `IP=` in `CNI_ARGS`.
fn wanted_addresses(request: &AddRequest) -> Vec<IpAddr> {
    let capability = &request.conf.runtime_config.ips;
    if capability.is_empty() {
        request.args.ip.into_iter().collect()
    } else {
        capability.clone()
    }
}

/// A locally administered unicast MAC, the same for the same attachment.
fn derived_mac(attachment: &AttachmentId, end: &[u8]) -> Mac {
    let mut hash = Sha256::new();
    hash.update(attachment.container_id());
    hash.update([0]);
    hash.update(attachment.ifname());
    hash.update([0]);
    hash.update(end);
    let digest = hash.finalize();
    let mut mac = [0; 6];
    mac.copy_from_slice(&digest[..6]);
    mac[0] = (mac[0] & 0xfc) | 0x02;
    Mac(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_macs_follow_from_the_attachment_alone() {
        let one = AttachmentId::new("c1", "eth0").unwrap();
        let two = AttachmentId::new("c1", "net1").unwrap();
        assert_ne!(host_ifname(&one), host_ifname(&two));
        let mac = derived_mac(&one, b"pod");
        assert_ne!(mac, derived_mac(&one, b"host"));
        assert_eq!(mac.0[0] & 0x03, 0x02, "locally administered, unicast");
    }
}
