//! Who waits for the answer to a call. A runtime whose ADD was not answered in time deletes the
//! attachment, perhaps by a deletion that the plugin writes down: an ADD that is carried out after
//! that would bring back what nobody deletes again.

use super::CniError;
use crate::clock::Clock;
use std::fmt;

/// The one that waits for a call's answer, and until when.
pub struct Caller {
    expires_at_ms: Option<u64>,
    has_hung_up: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("expires_at_ms", &self.expires_at_ms)
            .finish_non_exhaustive()
    }
}

impl Caller {
    /// Waits until `expires_at_ms` (milliseconds since boot) at the latest, and not once
    /// `has_hung_up` says so.
    pub fn new(
        expires_at_ms: Option<u64>,
        has_hung_up: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            expires_at_ms,
            has_hung_up: Box::new(has_hung_up),
        }
    }

    /// Waits as long as it takes.
    pub fn patient() -> Self {
        Self::new(None, || false)
    }

    /// Whether somebody still waits.
    ///
    /// # Errors
    /// 11 when nobody does; the log of the agent shows it, the plugin is gone.
    pub fn still_waits(&self, clock: &dyn Clock) -> Result<(), CniError> {
        let late = self
            .expires_at_ms
            .is_some_and(|end| clock.boot_millis() >= end);
        if late || (self.has_hung_up)() {
            return Err(CniError::try_again(
                "not carried out: the caller had given up before the agent came to it",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_caller_waits_until_its_end_or_until_it_hangs_up() {
        let clock = ManualClock::new(10);
        let caller = Caller::new(Some(11_000), || false);
        caller.still_waits(&clock).unwrap();
        clock.advance(1);
        assert_eq!(caller.still_waits(&clock).unwrap_err().code, 11);
        assert!(Caller::new(None, || true).still_waits(&clock).is_err());
        Caller::patient().still_waits(&clock).unwrap();
    }
}
