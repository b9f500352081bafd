//! The rim where time comes in, so that reuse of addresses and, later, a whole simulated node can
//! run on a clock that a test moves by hand.

use rustix::time::{ClockId, clock_gettime};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

/// Tells the time of day.
pub trait Clock: Send + Sync + 'static {
    /// Unix time in seconds. May jump.
    fn unix_secs(&self) -> u64;

    /// Milliseconds since boot, time asleep included. Never jumps, and is the same for every process
    /// of the machine.
    fn boot_millis(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// A clock set before 1970 reads as 0 rather than stopping the agent.
    fn unix_secs(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs())
    }

    fn boot_millis(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        let secs = u64::try_from(now.tv_sec).unwrap_or_default();
        let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or_default();
        secs * 1_000 + millis
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn new(unix_secs: u64) -> Self {
        Self(AtomicU64::new(unix_secs))
    }

    /// Moves the clock forward.
    pub fn advance(&self, secs: u64) {
        self.0.fetch_add(secs, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn unix_secs(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// As if booted in 1970.
    fn boot_millis(&self) -> u64 {
        self.unix_secs() * 1_000
    }
}
