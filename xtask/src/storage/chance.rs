//! Chance that can be had again: from a seed, which every trial prints.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Random numbers of a seed (splitmix64).
pub(super) struct Chance {
    state: u64,
}

impl Chance {
    /// From the seed in the environment (`FAIRLEAD_SEED`), or one of this moment; says which.
    pub(super) fn new(trial: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = number("FAIRLEAD_SEED", u64::from(now.subsec_nanos()));
        println!("{trial}: FAIRLEAD_SEED={seed} has it again");
        Self { state: seed }
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// A moment of a duration.
    pub(super) fn moment(&mut self, of: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(of.as_micros()).unwrap()))
    }
}

/// A number of the environment.
pub(super) fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => usual,
    }
}
