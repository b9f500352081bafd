//! Pools and endpoints in memory, the store behind them. Addresses are given at once under a short
//! lock; the durable write happens while the kernel is being set up. Memory follows the disk: an
//! endpoint is in the book exactly if it is durable, even when its caller went away meanwhile.

mod reservation;

pub use reservation::{Reservation, Uncommitted};

use super::{Change, Store, StoreError};
use crate::{
    clock::Clock,
    ipam::{IpamError, PoolUsage, Pools, Released},
    model::{Addresses, AttachmentId, Endpoint},
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a released address rests if others are free: longer than the kernel and usual peers
/// remember a closed TCP connection (two minutes in TIME_WAIT).
pub const COOL_DOWN: Duration = Duration::from_secs(120);

/// The node's endpoints and addresses. All methods may be called at the same time; calls for one
/// attachment are expected one after the other.
#[derive(Debug)]
pub struct Book {
    shared: Arc<Shared>,
    store: Store,
}

struct Shared {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    pools: Pools,
    endpoints: BTreeMap<AttachmentId, Arc<Endpoint>>,
    /// Attachments being added, and whether their commit is on its way to the disk.
    reservations: HashMap<AttachmentId, bool>,
    /// Numbers of endpoints and reservations.
    ids: HashSet<u32>,
    next_id: u32,
    next_sequence: u64,
    /// Of ADDs that failed, what the kernel may still use: nobody else gets it until `remove`.
    held: BTreeMap<AttachmentId, Endpoint>,
    /// Finished ADDs that the disk doesn't know of yet; written along with the next commit, or by
    /// `flush`.
    wired: Vec<(AttachmentId, u32)>,
    /// Rows of addresses no longer remembered as released; dropped along with the next commit. If
    /// that fails they are found again at the next start.
    forgotten: Vec<IpAddr>,
}

impl Book {
    /// Reads back what the store holds. No address is given before `set_prefixes`.
    ///
    /// # Errors
    /// None at present; the caller treats this like the opening of the store.
    pub fn open(store: Store, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Ok(Self::with_cool_down(store, clock, COOL_DOWN))
    }

    /// Returns when the store has ended, which it only does by a fault: nothing can be kept then.
    pub async fn closed(&self) {
        self.store.closed().await;
    }

    /// As `open`, with another cool-down than `COOL_DOWN`.
    pub fn with_cool_down(mut store: Store, clock: Arc<dyn Clock>, cool_down: Duration) -> Self {
        let loaded = std::mem::take(&mut store.loaded);
        let mut pools = Pools::new(cool_down);
        let used = loaded.endpoints.values();
        pools.restore(
            used.flat_map(|e| e.addresses.iter().map(|a| (a, e.attachment.clone()))),
            loaded.released.clone(),
        );
        let last = loaded.released.values().map(|r| r.sequence).max();
        let state = State {
            pools,
            ids: loaded.endpoints.values().map(|e| e.id).collect(),
            endpoints: loaded.endpoints,
            reservations: HashMap::new(),
            next_id: loaded.next_endpoint_id.max(1),
            next_sequence: last.map_or(1, |last| last + 1),
            held: BTreeMap::new(),
            wired: Vec::new(),
            forgotten: Vec::new(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                clock,
            }),
            store,
        }
    }

    /// Makes sure that the state is this node's, and notes so in a new one.
    ///
    /// # Errors
    /// `OtherNode` if it was written by another node, for example on a cloned disk.
    pub async fn bind_node(&self, name: &str) -> Result<(), StoreError> {
        self.store.commit(vec![Change::Node(name.to_owned())]).await
    }

    /// Sets the prefixes that addresses are given from, IPv4, IPv6 or both; none stops giving.
    /// Addresses outside of them stay valid until released.
    ///
    /// # Errors
    /// For prefixes with host bits and for two of a family; nothing has changed then.
    pub fn set_prefixes(&self, prefixes: &[IpNetwork]) -> Result<(), IpamError> {
        let mut state = self.shared.lock();
        let forgotten = state.pools.set_prefixes(prefixes)?;
        state.forgotten.extend(forgotten);
        Ok(())
    }

    /// Enters an endpoint that the store lost and the kernel still has, durably. To be called before
    /// the first `set_prefixes`.
    ///
    /// # Errors
    /// `Refused` if another endpoint has its number or one of its addresses; `Write`.
    pub async fn adopt(&self, endpoint: Endpoint) -> Result<(), StoreError> {
        let endpoint = Arc::new(endpoint);
        let shared = self.shared.clone();
        let changes = vec![Change::PutEndpoint(endpoint.clone())];
        let enter = move |written: Result<(), StoreError>| {
            written?;
            let mut state = shared.lock();
            state.ids.insert(endpoint.id);
            let owner = endpoint.attachment.clone();
            let used = endpoint.addresses.iter().map(|a| (a, owner.clone()));
            state.pools.restore(used, []);
            state.endpoints.insert(owner.clone(), endpoint);
            Ok(())
        };
        self.store.commit_then(changes, enter).await?
    }

    /// Notes that the endpoint's ADD was finished and returns it so. Durable with the next commit.
    pub fn mark_wired(&self, attachment: &AttachmentId) -> Option<Endpoint> {
        let mut state = self.shared.lock();
        let endpoint = Arc::make_mut(state.endpoints.get_mut(attachment)?);
        if !std::mem::replace(&mut endpoint.wired, true) {
            let (endpoint, id) = (endpoint.clone(), endpoint.id);
            state.wired.push((attachment.clone(), id));
            return Some(endpoint);
        }
        Some(endpoint.clone())
    }

    /// Writes what waits for the next commit; does nothing when nothing does.
    ///
    /// # Errors
    /// `Write`: it is found again at the next start.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        self.shared.lock().add_pending(&mut changes);
        if changes.is_empty() {
            return Ok(());
        }
        self.store.commit(changes).await
    }

    /// Whether the disk takes what it is given; after a failure it is tried again.
    ///
    /// # Errors
    /// `Write`, or what keeps the file from being opened again.
    pub async fn writable(&self) -> Result<(), StoreError> {
        match self.store.failure() {
            None => Ok(()),
            Some(_) => self.store.commit(Vec::new()).await,
        }
    }

    /// Removes the endpoint; its addresses are the last in the order of reuse. Durable on return.
    /// `None` if there was none. A commit of the same attachment that is still on its way is waited
    /// for and removed.
    ///
    /// # Errors
    /// `Write`: the endpoint is still there.
    pub async fn remove(&self, attachment: &AttachmentId) -> Result<Option<Endpoint>, StoreError> {
        let pending = self.shared.lock().reservations.get(attachment) == Some(&true);
        if pending {
            // Commits are answered in order: after this one, the pending one is in the book or not.
            self.store.commit(Vec::new()).await?;
        }
        let mut changes = Vec::new();
        let (endpoint, released) = {
            let mut state = self.shared.lock();
            let now = self.shared.clock.unix_secs();
            let Some(endpoint) = state.endpoints.get(attachment).cloned() else {
                if let Some(held) = state.held.remove(attachment) {
                    state.give_back(held.id, held.addresses, now);
                }
                return Ok(None);
            };
            let mut released = Vec::new();
            for address in endpoint.addresses.iter() {
                let sequence = state.sequence();
                released.push((address, Released { sequence, at: now }));
            }
            let remembered = released.iter().filter(|(a, _)| state.pools.remembers(*a));
            changes.push(Change::RemoveEndpoint {
                attachment: attachment.clone(),
                id: endpoint.id,
                released: remembered.copied().collect(),
            });
            state.add_pending(&mut changes);
            (endpoint, released)
        };
        let shared = self.shared.clone();
        let leave = move |written: Result<(), StoreError>| {
            written?;
            let mut state = shared.lock();
            let known = state.endpoints.get(&endpoint.attachment);
            if known.is_none_or(|known| known.id != endpoint.id) {
                return Ok(None); // Removed by another call at the same time.
            }
            state.endpoints.remove(&endpoint.attachment);
            state.ids.remove(&endpoint.id);
            for (address, released) in released {
                let forgotten = state.pools.release(address, released);
                state.forgotten.extend(forgotten);
            }
            drop(state);
            Ok(Some(Arc::unwrap_or_clone(endpoint)))
        };
        self.store.commit_then(changes, leave).await?
    }

    /// The endpoint of the attachment, if it is durable.
    pub fn get(&self, attachment: &AttachmentId) -> Option<Endpoint> {
        self.shared
            .lock()
            .endpoints
            .get(attachment)
            .map(|e| e.as_ref().clone())
    }

    /// What a failed ADD of the attachment has left in the kernel.
    pub fn held(&self, attachment: &AttachmentId) -> Option<Endpoint> {
        self.shared.lock().held.get(attachment).cloned()
    }

    /// The attachments of failed ADDs that have left something in the kernel.
    pub fn all_held(&self) -> Vec<AttachmentId> {
        self.shared.lock().held.keys().cloned().collect()
    }

    /// Whether no endpoint was ever entered: a new node, or one whose state was lost.
    pub fn is_new(&self) -> bool {
        let state = self.shared.lock();
        state.endpoints.is_empty() && state.next_id == 1 && state.next_sequence == 1
    }

    /// Every endpoint, by attachment.
    pub fn list(&self) -> Vec<Endpoint> {
        self.shared
            .lock()
            .endpoints
            .values()
            .map(|e| e.as_ref().clone())
            .collect()
    }

    /// How full each prefix is, IPv4 first. Addresses being added count as used.
    pub fn usage(&self) -> Vec<PoolUsage> {
        let now = self.shared.clock.unix_secs();
        self.shared.lock().pools.usage(now)
    }
}

impl Shared {
    /// A panic elsewhere while the lock was held must not take the node's addresses with it; every
    /// change below the lock is complete before anything can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next number that nobody has. Numbers start at 1 and begin again after the last.
    fn take_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(1);
            if self.ids.insert(id) {
                return id;
            }
        }
    }

    fn sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Of what was never durable.
    fn give_back(&mut self, id: u32, addresses: Addresses, at: u64) {
        self.ids.remove(&id);
        for address in addresses.iter() {
            let sequence = self.sequence();
            let forgotten = self.pools.release(address, Released { sequence, at });
            self.forgotten.extend(forgotten);
        }
    }

    fn add_pending(&mut self, changes: &mut Vec<Change>) {
        let wired = std::mem::take(&mut self.wired).into_iter();
        changes.extend(wired.map(|(attachment, id)| Change::MarkWired { attachment, id }));
        if !self.forgotten.is_empty() {
            // First, so that an address released again by this very commit keeps its new row.
            changes.insert(0, Change::Forget(std::mem::take(&mut self.forgotten)));
        }
    }
}
