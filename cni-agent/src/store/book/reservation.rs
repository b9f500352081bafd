//! An attachment being added: its number and addresses, from the first choice until they are durable,
//! given back, or held because the kernel may still use them.

use super::{Book, Shared};
use crate::{
    ipam::IpamError,
    model::{Addresses, AttachmentId, Endpoint},
    store::{Change, StoreError},
};
use std::{net::IpAddr, sync::Arc};

/// The number and addresses of an attachment being added. Given back when dropped, unless it was
/// committed.
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<Shared>,
    attachment: AttachmentId,
    id: u32,
    addresses: Addresses,
    cooling: Vec<IpAddr>,
    committed: bool,
}

/// A commit that failed. The reservation is given back when this is dropped, or kept by
/// [`Book::hold`].
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Uncommitted {
    pub error: StoreError,
    /// None if the store was closed meanwhile.
    reservation: Option<Box<Reservation>>,
}

impl Book {
    /// Gives an attachment its number and one address of each family, in memory. `wanted` fixes the
    /// address of its family.
    ///
    /// # Errors
    /// See `IpamError`; nothing has changed then.
    pub fn reserve(
        &self,
        attachment: &AttachmentId,
        wanted: &[IpAddr],
    ) -> Result<Reservation, IpamError> {
        let now = self.shared.clock.unix_secs();
        let mut state = self.shared.lock();
        if state.endpoints.contains_key(attachment)
            || state.reservations.contains_key(attachment)
            || state.held.contains_key(attachment)
        {
            return Err(IpamError::AlreadyHeld(attachment.clone()));
        }
        let given = state.pools.allocate(attachment, wanted, now)?;
        let id = state.take_id();
        state.reservations.insert(attachment.clone(), false);
        drop(state);
        if !given.cooling.is_empty() {
            tracing::warn!(
                %attachment, addresses = ?given.cooling,
                "handed out an address released moments ago: the podCIDR is nearly exhausted"
            );
        }
        Ok(Reservation {
            shared: self.shared.clone(),
            attachment: attachment.clone(),
            id,
            addresses: given.addresses,
            cooling: given.cooling,
            committed: false,
        })
    }

    /// Makes the endpoint durable and enters it into the book. May run beside the kernel work: if
    /// that fails, or the caller gives up waiting, `remove` takes the endpoint out again.
    ///
    /// # Errors
    /// `Refused` if the endpoint is not the reservation's; `Write`. The reservation comes back with
    /// the error: it must be kept until the kernel doesn't use its addresses any more.
    pub async fn commit_endpoint(
        &self,
        mut reservation: Reservation,
        endpoint: Endpoint,
    ) -> Result<(), Uncommitted> {
        if endpoint.attachment != reservation.attachment
            || endpoint.id != reservation.id
            || endpoint.addresses != reservation.addresses
        {
            let text = format!("endpoint {} is not what was reserved", endpoint.attachment);
            return Err(Uncommitted {
                error: StoreError::Refused(text),
                reservation: Some(Box::new(reservation)),
            });
        }
        let endpoint = Arc::new(endpoint);
        let mut changes = vec![Change::PutEndpoint(endpoint.clone())];
        {
            let mut state = self.shared.lock();
            state
                .reservations
                .insert(reservation.attachment.clone(), true);
            changes.push(Change::NextEndpointId(state.next_id));
            state.add_pending(&mut changes);
        }
        let enter = move |written: Result<(), StoreError>| {
            let attachment = reservation.attachment.clone();
            let mut state = reservation.shared.lock();
            match written {
                Ok(()) => {
                    state.reservations.remove(&attachment);
                    state.endpoints.insert(attachment, endpoint);
                    drop(state);
                    reservation.keep();
                    Ok(())
                }
                Err(error) => {
                    state.reservations.insert(attachment, false);
                    drop(state);
                    Err(Uncommitted {
                        error,
                        reservation: Some(Box::new(reservation)),
                    })
                }
            }
        };
        let closed = |error| Uncommitted {
            error,
            reservation: None,
        };
        let entered = self.store.commit_then(changes, enter).await;
        entered.map_err(closed)?
    }

    /// Keeps number and addresses of an ADD that failed from everybody else until `remove`: the
    /// kernel refused to give them up.
    pub fn hold(&self, mut failed: Uncommitted, endpoint: Endpoint) {
        if let Some(reservation) = &mut failed.reservation {
            let mut state = self.shared.lock();
            state.reservations.remove(&reservation.attachment);
            state.held.insert(reservation.attachment.clone(), endpoint);
            drop(state);
            reservation.keep();
        }
    }
}

impl Reservation {
    pub fn attachment(&self) -> &AttachmentId {
        &self.attachment
    }

    /// The endpoint number.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Gives nothing back when dropped.
    fn keep(&mut self) {
        self.committed = true;
    }

    /// Addresses that have not rested for the cool-down because nothing else was free.
    pub fn cooling(&self) -> &[IpAddr] {
        &self.cooling
    }
}

impl Drop for Reservation {
    /// The addresses go to the end of the order of reuse, not back to where they came from: what
    /// made the ADD fail may have left one of them somewhere in the kernel.
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let at = self.shared.clock.unix_secs();
        let mut state = self.shared.lock();
        state.reservations.remove(&self.attachment);
        state.give_back(self.id, self.addresses, at);
    }
}
