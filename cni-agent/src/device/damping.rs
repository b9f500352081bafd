//! PURE: when what looks tell of a device becomes its state. A device that is gone is unhealthy at once, and healthy when
//! it is back; what a look of another kind says has to be said several times in a row.

/// What a look told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Well,
    /// It is not there, and why that is known.
    Gone(String),
    /// It is there and doesn't work: why.
    Ill(String),
}

/// How many looks in a row it takes; 0 is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub failures: u32,
    pub successes: u32,
}

/// A device's health, with what it takes to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damping {
    state: State,
    /// Unix time of the last change.
    since: u64,
    /// Looks in a row that contradict the state.
    against: u32,
    /// What the last look said, if it wasn't well.
    last: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Healthy,
    Gone(String),
    Ill(String),
}

impl Damping {
    /// Of a device that is found anew: healthy, until looks say otherwise.
    pub fn new(now: u64) -> Self {
        Self {
            state: State::Healthy,
            since: now,
            against: 0,
            last: None,
        }
    }

    /// Of one that is known to be ill since then.
    pub fn ill(why: String, since: u64) -> Self {
        Self {
            state: State::Ill(why),
            ..Self::new(since)
        }
    }

    /// Of one whose first look is this: an illness is believed at once, for nobody has it yet.
    pub fn first(seen: Seen, now: u64) -> Self {
        let mut damping = Self::new(now);
        let once = Limits {
            failures: 1,
            successes: 1,
        };
        damping.see(seen, once, now);
        damping
    }

    /// Takes what a look told. True: healthy became unhealthy, or the other way.
    pub fn see(&mut self, seen: Seen, limits: Limits, now: u64) -> bool {
        let was_healthy = self.is_healthy();
        let next = match (&self.state, seen) {
            (_, Seen::Gone(why)) => Some(State::Gone(why)),
            (State::Healthy, Seen::Well) => None,
            // What else was wrong before it was gone is told by looks anew.
            (State::Gone(_), Seen::Well) => Some(State::Healthy),
            (State::Gone(_), Seen::Ill(why)) => Some(State::Ill(why)),
            (State::Ill(_), Seen::Well) => {
                self.last = None;
                self.counted(limits.successes).then_some(State::Healthy)
            }
            (State::Healthy, Seen::Ill(why)) => {
                self.last = Some(why.clone());
                match self.counted(limits.failures) {
                    true => Some(State::Ill(why)),
                    false => return false,
                }
            }
            // The newest reason is the one to tell.
            (State::Ill(_), Seen::Ill(why)) => Some(State::Ill(why)),
        };
        let agrees = matches!((&self.state, &next), (State::Healthy, None));
        if let Some(next) = next {
            self.state = next;
            self.against = 0;
            self.last = None;
        } else if agrees {
            self.against = 0;
            self.last = None;
        }
        let changed = was_healthy != self.is_healthy();
        if changed {
            self.since = now;
        }
        changed
    }

    pub fn is_healthy(&self) -> bool {
        self.state == State::Healthy
    }

    /// Whether it isn't there.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone(_))
    }

    /// Unix time of the last change between healthy and unhealthy.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Why it is unhealthy.
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Healthy => None,
            State::Gone(why) | State::Ill(why) => Some(why),
        }
    }

    /// Of a healthy one, what the last look said against that.
    pub fn doubt(&self) -> Option<&str> {
        self.last.as_deref()
    }

    fn counted(&mut self, limit: u32) -> bool {
        self.against = self.against.saturating_add(1);
        self.against >= limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ill() -> Seen {
        Seen::Ill("no answer".into())
    }

    fn gone() -> Seen {
        Seen::Gone("unplugged".into())
    }

    const THRICE: Limits = Limits {
        failures: 3,
        successes: 2,
    };

    #[test]
    fn it_takes_failures_in_a_row_and_successes_in_a_row() {
        let mut damping = Damping::new(1);
        for (at, seen, healthy) in [
            (2, ill(), true),
            (3, ill(), true),
            (4, Seen::Well, true),
            (5, ill(), true),
            (6, ill(), true),
            (7, ill(), false),
            (8, Seen::Well, false),
            (9, ill(), false),
            (10, Seen::Well, false),
            (11, Seen::Well, true),
        ] {
            let before = damping.is_healthy();
            assert_eq!(damping.see(seen, THRICE, at), before != healthy, "{at}");
            assert_eq!(damping.is_healthy(), healthy, "{at}");
        }
        assert_eq!(damping.since(), 11);
    }

    #[test]
    fn what_is_gone_is_unhealthy_at_once_and_back_at_once() {
        let mut damping = Damping::new(1);
        assert!(damping.see(gone(), THRICE, 2));
        assert_eq!(
            (damping.reason(), damping.is_gone()),
            (Some("unplugged"), true)
        );
        assert!(damping.see(Seen::Well, THRICE, 3));
        assert_eq!((damping.reason(), damping.since()), (None, 3));
        // One that comes back ill was never well meanwhile.
        damping.see(gone(), THRICE, 4);
        assert!(!damping.see(ill(), THRICE, 5));
        assert_eq!((damping.reason(), damping.since()), (Some("no answer"), 4));
        assert!(!damping.see(Seen::Well, THRICE, 6));
    }

    #[test]
    fn a_doubt_is_told_before_it_counts_and_a_first_look_counts_at_once() {
        let mut damping = Damping::new(1);
        assert!(!damping.see(ill(), THRICE, 2));
        assert_eq!(
            (damping.doubt(), damping.reason()),
            (Some("no answer"), None)
        );
        assert!(!damping.see(Seen::Well, THRICE, 3));
        assert_eq!(damping.doubt(), None);
        assert!(!Damping::first(ill(), 1).is_healthy());
        assert!(Damping::first(Seen::Well, 1).is_healthy());
    }

    #[test]
    fn one_that_is_known_to_be_ill_takes_as_many_good_looks_as_any_other() {
        let mut damping = Damping::ill("stuck".into(), 1);
        assert_eq!((damping.reason(), damping.since()), (Some("stuck"), 1));
        assert!(!damping.see(Seen::Well, THRICE, 2));
        assert!(damping.see(Seen::Well, THRICE, 3));
    }

    fn seen() -> impl Strategy<Value = Seen> {
        prop_oneof![4 => Just(Seen::Well), 4 => Just(ill()), 1 => Just(gone())]
    }

    proptest! {
        #[test]
        fn the_state_is_what_the_last_looks_say(
            looks in prop::collection::vec(seen(), 0..60),
            failures in 0_u32..5,
            successes in 0_u32..5,
        ) {
            let limits = Limits { failures, successes };
            let mut damping = Damping::new(0);
            let mut past: Vec<Seen> = Vec::new();
            for (at, look) in (1_u64..).zip(looks) {
                let before = damping.clone();
                let changed = damping.see(look.clone(), limits, at);
                past.push(look.clone());
                let row = |want: &Seen| {
                    u32::try_from(past.iter().rev().take_while(|s| *s == want).count()).unwrap()
                };
                prop_assert_eq!(changed, before.is_healthy() != damping.is_healthy());
                prop_assert_eq!(damping.is_healthy(), damping.reason().is_none());
                prop_assert_eq!(damping.is_gone(), look == gone());
                match look {
                    Seen::Gone(_) => prop_assert!(!damping.is_healthy()),
                    Seen::Well if row(&Seen::Well) >= successes.max(1) => prop_assert!(damping.is_healthy()),
                    Seen::Ill(_) if row(&ill()) >= failures.max(1) => prop_assert!(!damping.is_healthy()),
                    // A single look less changes nothing.
                    Seen::Well if !before.is_gone() => {
                        prop_assert_eq!(damping.is_healthy(), before.is_healthy());
                    }
                    Seen::Ill(_) => prop_assert_eq!(damping.is_healthy(), before.is_healthy()),
                    Seen::Well => {}
                }
                prop_assert_eq!(damping.since() == at, changed);
            }
        }
    }
}
