//! The addresses of one prefix. Memory grows with the addresses in use or released, never with the
//! size of the prefix: a /64 costs no more than a /24.

use super::{IpamError, PoolUsage, Released};
use crate::model::AttachmentId;
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Released addresses remembered per prefix. One that was released before so many others counts as
/// never used again, which bounds memory and store for large prefixes.
pub const MAX_RELEASED: usize = 65_536;

/// An address that may be taken; nothing has changed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub address: IpAddr,
    /// It was released less than the cool-down ago.
    pub cooling: bool,
    /// It is the next of those never used, so the search goes on behind it.
    next_unused: bool,
}

/// The pool of one prefix. Invariant: each usable address is in exactly one of three states: used,
/// released, or neither, which means never used or long forgotten.
#[derive(Clone, Debug)]
pub struct Pool {
    prefix: IpNetwork,
    first: u128,
    last: u128,
    /// Where the search for an unused address begins.
    cursor: u128,
    used: HashMap<u128, AttachmentId>,
    released: HashMap<u128, Released>,
    /// The released addresses by sequence: the first was released longest ago.
    order: BTreeSet<(u64, u128)>,
}

impl Pool {
    /// An empty pool.
    ///
    /// # Errors
    /// `HostBits` if the prefix is not the address of a network.
    pub fn new(prefix: IpNetwork) -> Result<Self, IpamError> {
        if prefix.network() != prefix.ip() {
            return Err(IpamError::HostBits(prefix));
        }
        let (first, last) = usable(prefix);
        Ok(Self {
            prefix,
            first,
            last,
            cursor: first,
            used: HashMap::new(),
            released: HashMap::new(),
            order: BTreeSet::new(),
        })
    }

    pub fn prefix(&self) -> IpNetwork {
        self.prefix
    }

    /// Picks the address for the next pod, or checks that `wanted` can be given. A wanted address
    /// may be cooling: who asks for it by number wants just that one back.
    ///
    /// # Errors
    /// `Outside`, `Unusable` or `InUse` for a wanted address, `Exhausted` when nothing is free.
    pub fn choose(
        &self,
        wanted: Option<IpAddr>,
        now: u64,
        cool_down_secs: u64,
    ) -> Result<Choice, IpamError> {
        let choice = |number, next_unused| Choice {
            address: self.address(number),
            cooling: self
                .released
                .get(&number)
                .is_some_and(|r| cooling(r, now, cool_down_secs)),
            next_unused,
        };
        if let Some(address) = wanted {
            return Ok(choice(self.check(address)?, false));
        }
        if let Some(number) = self.next_unused() {
            return Ok(choice(number, true));
        }
        match self.order.first() {
            Some(&(_, number)) => Ok(choice(number, false)),
            None => Err(IpamError::Exhausted {
                prefix: self.prefix,
                used: self.used.len() as u128,
                total: self.total(),
            }),
        }
    }

    /// Makes a choice of this pool's present state real.
    pub fn take(&mut self, choice: Choice, owner: &AttachmentId) {
        let number = number(choice.address);
        self.unrelease(number);
        self.used.insert(number, owner.clone());
        if choice.next_unused {
            self.cursor = if number == self.last {
                self.first
            } else {
                number + 1
            };
        }
    }

    /// Gives an address back; one that is not in use stays as it is. Returns the addresses that
    /// are no longer remembered as released because there are too many.
    pub fn release(&mut self, address: IpAddr, released: Released) -> Vec<IpAddr> {
        if self.used.remove(&number(address)).is_none() {
            return Vec::new();
        }
        self.restore_released(address, released)
    }

    /// Enters an address that a pod already has, at start or after a change of prefix. The caller
    /// has checked that it is inside.
    pub fn restore_used(&mut self, address: IpAddr, owner: AttachmentId) {
        self.unrelease(number(address));
        self.used.insert(number(address), owner);
    }

    /// Enters an address released earlier, at start or after a change of prefix. Returns what is
    /// forgotten for it, as `release` does.
    pub fn restore_released(&mut self, address: IpAddr, released: Released) -> Vec<IpAddr> {
        let number = number(address);
        if self.used.contains_key(&number) || !self.usable(number) {
            return Vec::new();
        }
        self.unrelease(number);
        self.released.insert(number, released);
        self.order.insert((released.sequence, number));
        let mut forgotten = Vec::new();
        while self.order.len() > MAX_RELEASED {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.released.remove(&oldest);
            forgotten.push(self.address(oldest));
        }
        forgotten
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.prefix.contains(address)
    }

    /// Who has the address.
    pub fn owner(&self, address: IpAddr) -> Option<&AttachmentId> {
        self.used
            .get(&number(address))
            .filter(|_| self.contains(address))
    }

    pub fn usage(&self, now: u64, cool_down_secs: u64) -> PoolUsage {
        let resting = self
            .released
            .values()
            .filter(|r| cooling(r, now, cool_down_secs))
            .count();
        PoolUsage {
            prefix: self.prefix,
            total: self.total(),
            used: self.used.len() as u128,
            cooling: resting as u128,
        }
    }

    /// Every address in use and every address released, to build another pool from.
    pub fn into_parts(
        self,
    ) -> (
        impl Iterator<Item = (IpAddr, AttachmentId)>,
        impl Iterator<Item = (IpAddr, Released)>,
    ) {
        let v4 = self.prefix.is_ipv4();
        (
            self.used
                .into_iter()
                .map(move |(number, owner)| (address(v4, number), owner)),
            self.released
                .into_iter()
                .map(move |(number, at)| (address(v4, number), at)),
        )
    }

    fn total(&self) -> u128 {
        (self.last - self.first)
            .saturating_add(1)
            .min(u64::MAX.into())
    }

    fn usable(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    fn address(&self, number: u128) -> IpAddr {
        address(self.prefix.is_ipv4(), number)
    }

    fn check(&self, address: IpAddr) -> Result<u128, IpamError> {
        if !self.contains(address) {
            return Err(IpamError::Outside {
                address,
                prefixes: vec![self.prefix],
            });
        }
        let number = number(address);
        if !self.usable(number) {
            return Err(IpamError::Unusable {
                address,
                prefix: self.prefix,
            });
        }
        match self.used.get(&number) {
            Some(by) => Err(IpamError::InUse {
                address,
                by: by.clone(),
            }),
            None => Ok(number),
        }
    }

    /// The first address from the cursor on, then from the beginning, that is neither used nor
    /// released. From the beginning again because forgotten addresses lie there, all of which were
    /// released before any that is still remembered.
    fn next_unused(&self) -> Option<u128> {
        let taken = (self.used.len() + self.released.len()) as u128;
        if taken > self.last - self.first {
            return None;
        }
        let free = |n: &u128| !self.used.contains_key(n) && !self.released.contains_key(n);
        (self.cursor..=self.last)
            .find(free)
            .or_else(|| (self.first..self.cursor).find(free))
    }

    fn unrelease(&mut self, number: u128) {
        if let Some(released) = self.released.remove(&number) {
            self.order.remove(&(released.sequence, number));
        }
    }
}

/// A clock that went backwards leaves an address cooling, the careful side.
fn cooling(released: &Released, now: u64, cool_down_secs: u64) -> bool {
    now.saturating_sub(released.at) < cool_down_secs
}

/// The first and last address a pod can have. Prefixes of one or two addresses have no room for
/// the special ones and are used whole (RFC 3021, RFC 6164).
fn usable(prefix: IpNetwork) -> (u128, u128) {
    match prefix {
        IpNetwork::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            let (first, last) = if net.prefix() >= 31 {
                (first, last)
            } else {
                (first + 1, last - 1)
            };
            (first.into(), last.into())
        }
        IpNetwork::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            // The lowest address is the subnet-router anycast address (RFC 4291, 2.6.1).
            (
                if net.prefix() >= 127 {
                    first
                } else {
                    first + 1
                },
                last,
            )
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(v4: bool, number: u128) -> IpAddr {
    // Numbers of an IPv4 pool stay within its prefix, hence within 32 bits.
    match u32::try_from(number) {
        Ok(number) if v4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}
