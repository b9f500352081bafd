//! Claims that are being prepared. A pod that is deleted meanwhile has its claim taken back before it is prepared, and
//! nobody would take it back again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// By their uids. Two calls for one claim share a flight.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Arc<Mutex<BTreeMap<String, Arc<AtomicBool>>>>);

/// One claim on its way; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Flights,
    uid: String,
    is_taken_back: Arc<AtomicBool>,
}

impl Flights {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins that prepares a claim.
    pub(super) fn begin(&self, uid: &str) -> Flight {
        let mut all = self.all();
        let known = all.get(uid).filter(|of| !of.load(Ordering::Acquire));
        let is_taken_back = known.cloned().unwrap_or_default();
        all.insert(uid.to_owned(), is_taken_back.clone());
        Flight {
            flights: self.clone(),
            uid: uid.to_owned(),
            is_taken_back,
        }
    }

    /// What is on its way for a claim is not to be prepared any more; what begins after this is.
    pub(super) fn take_back(&self, uid: &str) {
        if let Some(flight) = self.all().remove(uid) {
            flight.store(true, Ordering::Release);
        }
    }
}

impl Flight {
    /// Whether its claim was taken back since it began.
    pub(super) fn is_taken_back(&self) -> bool {
        self.is_taken_back.load(Ordering::Acquire)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut all = self.flights.all();
        let is_own = |known: &Arc<AtomicBool>| Arc::ptr_eq(known, &self.is_taken_back);
        // The map's own, and this.
        if Arc::strong_count(&self.is_taken_back) == 2 && all.get(&self.uid).is_some_and(is_own) {
            all.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_when_its_claim_is_taken_back_is_and_what_begins_later_is_not() {
        let flights = Flights::default();
        let (first, second) = (flights.begin("a"), flights.begin("a"));
        let other = flights.begin("b");
        flights.take_back("a");
        assert!(first.is_taken_back() && second.is_taken_back());
        assert!(!other.is_taken_back());
        let later = flights.begin("a");
        assert!(!later.is_taken_back());
        drop(first);
        flights.take_back("a");
        assert!(later.is_taken_back());
        flights.take_back("nobody's");
    }

    #[test]
    fn nothing_is_kept_of_what_is_over() {
        let flights = Flights::default();
        let (first, second) = (flights.begin("a"), flights.begin("a"));
        drop(first);
        flights.take_back("a");
        assert!(second.is_taken_back());
        drop((second, flights.begin("a"), flights.begin("b")));
        assert!(flights.all().is_empty());
    }
}
