//! When news of endpoints came, so that the time until they are in the maps can be told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Beyond so many that wait, newer ones are not noted: those that are tell enough.
const MOST: usize = 10_000;

/// News on their way; a copy knows the same.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    unpublished: Vec<Instant>,
    /// By the revision of the cluster that has them.
    published: VecDeque<(u64, Instant)>,
}

impl Arrivals {
    /// An EndpointSlice that differs came at this time.
    pub(super) fn arrived(&self, at: Instant) {
        let mut waiting = self.lock();
        if waiting.unpublished.len() + waiting.published.len() < MOST {
            waiting.unpublished.push(at);
        }
    }

    /// All that came is in this revision.
    pub(super) fn published(&self, revision: u64) {
        let mut waiting = self.lock();
        let news = std::mem::take(&mut waiting.unpublished);
        let news = news.into_iter().map(|at| (revision, at));
        waiting.published.extend(news);
    }

    /// What came made no difference in the end.
    pub(super) fn dropped(&self) {
        self.lock().unpublished.clear();
    }

    /// When the news came that are in force with this revision, each once.
    pub fn written(&self, revision: u64) -> Vec<Instant> {
        let mut waiting = self.lock();
        let written = waiting.published.partition_point(|(of, _)| *of <= revision);
        let written = waiting.published.drain(..written);
        written.map(|(_, at)| at).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_once_when_their_revision_or_a_later_one_is_written() {
        let (arrivals, now) = (Arrivals::default(), Instant::now());
        arrivals.arrived(now);
        arrivals.dropped();
        arrivals.arrived(now);
        arrivals.arrived(now);
        assert_eq!(arrivals.written(9), [], "nobody has seen them yet");
        arrivals.published(2);
        arrivals.arrived(now);
        arrivals.published(3);
        assert_eq!(arrivals.written(1), []);
        assert_eq!(arrivals.written(2), [now, now]);
        assert_eq!(arrivals.written(4), [now]);
        assert_eq!(arrivals.written(4), []);
    }

    #[test]
    fn without_end_they_do_not_grow_without_end() {
        let (arrivals, now) = (Arrivals::default(), Instant::now());
        for revision in 0..2 * MOST as u64 {
            arrivals.arrived(now);
            arrivals.published(revision);
        }
        assert_eq!(arrivals.written(u64::MAX).len(), MOST);
    }
}
