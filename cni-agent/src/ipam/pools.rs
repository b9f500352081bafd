//! The pools of a node: one prefix of each family at most, and one address of each per pod.

use super::{Choice, IpamError, Pool, PoolUsage, Released};
use crate::model::{Addresses, AttachmentId};
use ipnetwork::IpNetwork;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// What one pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub addresses: Addresses,
    /// Those among them that had not rested for the cool-down, because nothing else was free.
    pub cooling: Vec<IpAddr>,
}

/// Every address the node's pods have, and what can still be given.
#[derive(Clone, Debug)]
pub struct Pools {
    v4: Option<Pool>,
    v6: Option<Pool>,
    /// Addresses of living pods that lie outside of the present prefixes: valid until released.
    strays: BTreeMap<IpAddr, AttachmentId>,
    /// Released addresses of a family that has no prefix at present, so that a Node object that
    /// comes late or goes away for a moment does not bring early reuse.
    dormant: BTreeMap<IpAddr, Released>,
    cool_down_secs: u64,
}

impl Pools {
    /// No prefixes yet.
    pub fn new(cool_down: Duration) -> Self {
        Self {
            v4: None,
            v6: None,
            strays: BTreeMap::new(),
            dormant: BTreeMap::new(),
            cool_down_secs: cool_down.as_secs(),
        }
    }

    /// Enters what the store remembers, before the first prefixes are set.
    pub fn restore(
        &mut self,
        used: impl IntoIterator<Item = (IpAddr, AttachmentId)>,
        released: impl IntoIterator<Item = (IpAddr, Released)>,
    ) {
        self.strays.extend(used);
        self.dormant.extend(released);
    }

    /// Gives the node other prefixes. Addresses of living pods stay theirs wherever they lie.
    /// Returns the released addresses that are forgotten: those of a replaced prefix.
    ///
    /// # Errors
    /// `HostBits`, `TwoPrefixesOfAFamily`; nothing has changed then.
    pub fn set_prefixes(&mut self, prefixes: &[IpNetwork]) -> Result<Vec<IpAddr>, IpamError> {
        let (mut v4, mut v6): (Option<Pool>, Option<Pool>) = (None, None);
        for &prefix in prefixes {
            let slot = if prefix.is_ipv4() { &mut v4 } else { &mut v6 };
            if let Some(first) = slot.replace(Pool::new(prefix)?) {
                let first = first.prefix();
                return Err(IpamError::TwoPrefixesOfAFamily {
                    first,
                    second: prefix,
                });
            }
        }
        if self.prefixes().eq(v4.iter().chain(&v6).map(Pool::prefix)) {
            return Ok(Vec::new());
        }
        let mut used = std::mem::take(&mut self.strays);
        let mut released = std::mem::take(&mut self.dormant);
        for pool in [self.v4.take(), self.v6.take()].into_iter().flatten() {
            let (of_pods, given_back) = pool.into_parts();
            used.extend(of_pods);
            released.extend(given_back);
        }
        (self.v4, self.v6) = (v4, v6);
        for (address, owner) in used {
            match self.pool_of(address).filter(|pool| pool.contains(address)) {
                Some(pool) => pool.restore_used(address, owner),
                None => drop(self.strays.insert(address, owner)),
            }
        }
        let mut by_sequence: Vec<_> = released.into_iter().collect();
        by_sequence.sort_unstable_by_key(|(_, released)| released.sequence);
        let mut forgotten = Vec::new();
        for (address, released) in by_sequence {
            match self.pool_of(address) {
                None => drop(self.dormant.insert(address, released)),
                Some(pool) if pool.contains(address) => {
                    forgotten.extend(pool.restore_released(address, released));
                }
                Some(_) => forgotten.push(address),
            }
        }
        Ok(forgotten)
    }

    /// The present prefixes, IPv4 first.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.v4.iter().chain(&self.v6).map(Pool::prefix)
    }

    /// Gives one address of each family that the node has, all or none; `wanted` fixes the address
    /// of its family.
    ///
    /// # Errors
    /// See `IpamError`; nothing has changed then.
    pub fn allocate(
        &mut self,
        owner: &AttachmentId,
        wanted: &[IpAddr],
        now: u64,
    ) -> Result<Allocation, IpamError> {
        if self.v4.is_none() && self.v6.is_none() {
            return Err(IpamError::NoPrefix);
        }
        let (mut want4, mut want6) = (None, None);
        for &address in wanted {
            let (want, pool) = if address.is_ipv4() {
                (&mut want4, &self.v4)
            } else {
                (&mut want6, &self.v6)
            };
            if let Some(first) = want.replace(address).filter(|first| *first != address) {
                return Err(IpamError::TwoOfAFamily {
                    first,
                    second: address,
                });
            }
            if !pool.as_ref().is_some_and(|pool| pool.contains(address)) {
                let prefixes = self.prefixes().collect();
                return Err(IpamError::Outside { address, prefixes });
            }
        }
        let choose = |pool: &Option<Pool>, want| -> Result<Option<Choice>, IpamError> {
            pool.as_ref()
                .map(|pool| pool.choose(want, now, self.cool_down_secs))
                .transpose()
        };
        // Both are chosen before either is taken: a full pool leaves the other one untouched.
        let choices = [choose(&self.v4, want4)?, choose(&self.v6, want6)?];
        let mut allocation = Allocation {
            addresses: Addresses::default(),
            cooling: Vec::new(),
        };
        for choice in choices.into_iter().flatten() {
            if let Some(pool) = self.pool_of(choice.address) {
                pool.take(choice, owner);
            }
            match choice.address {
                IpAddr::V4(address) => allocation.addresses.v4 = Some(address),
                IpAddr::V6(address) => allocation.addresses.v6 = Some(address),
            }
            if choice.cooling {
                allocation.cooling.push(choice.address);
            }
        }
        Ok(allocation)
    }

    /// Gives an address back; idempotent. Returns the released addresses forgotten for it.
    pub fn release(&mut self, address: IpAddr, released: Released) -> Vec<IpAddr> {
        let stray = self.strays.remove(&address).is_some();
        match self.pool_of(address) {
            // A stray of a family with a prefix will never be given again: nothing to remember.
            Some(pool) => pool.release(address, released),
            None => {
                if stray {
                    self.dormant.insert(address, released);
                }
                Vec::new()
            }
        }
    }

    /// Whether a release of this address is worth remembering, that is, may it be given again.
    pub fn remembers(&self, address: IpAddr) -> bool {
        match if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        } {
            Some(pool) => pool.contains(address),
            None => true,
        }
    }

    /// Who has the address.
    pub fn owner(&self, address: IpAddr) -> Option<&AttachmentId> {
        let pool = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        pool.as_ref()
            .and_then(|pool| pool.owner(address))
            .or_else(|| self.strays.get(&address))
    }

    /// One line for each prefix, IPv4 first.
    pub fn usage(&self, now: u64) -> Vec<PoolUsage> {
        self.v4
            .iter()
            .chain(&self.v6)
            .map(|pool| pool.usage(now, self.cool_down_secs))
            .collect()
    }

    fn pool_of(&mut self, address: IpAddr) -> Option<&mut Pool> {
        if address.is_ipv4() {
            self.v4.as_mut()
        } else {
            self.v6.as_mut()
        }
    }
}
