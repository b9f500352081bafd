//! PURE: which tasks run when. What is planned is begun once; what is done is not begun again before news of it came;
//! what failed is tried again with growing pauses; one task for an object at a time.

use super::plan::{Key, Task};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Tasks that run at a time.
const MOST: usize = 16;
/// News of what was done come within this time, or it is looked at again.
const SETTLED: Duration = Duration::from_secs(30);
/// Pauses after failures in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Pauses before a node takes a claim again that it gave back: the others try meanwhile.
const FIRST_TURN: Duration = Duration::from_secs(10);
/// The pause after what can't succeed before somebody changes something.
const LONG_PAUSE: Duration = Duration::from_secs(300);

/// How a task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// News of it will come.
    Done,
    /// It may do later.
    Failed,
    /// It won't as it is.
    Hopeless,
    /// Another node may do it.
    GaveBack,
}

#[derive(Debug)]
enum State {
    /// Not before this time.
    Waiting(Instant),
    Running,
    Done(Instant),
}

#[derive(Debug)]
struct Entry {
    task: Task,
    state: State,
    failures: u32,
}

/// A claim that this node gave back.
#[derive(Debug)]
struct GivenBack {
    /// What was asked for.
    wish: String,
    times: u32,
    /// It is not taken again before.
    until: Instant,
}

/// All tasks that are planned or run.
#[derive(Debug, Default)]
pub(super) struct Work {
    entries: BTreeMap<Key, Entry>,
    given_back: BTreeMap<String, GivenBack>,
}

impl Work {
    /// Takes the plan, and says what is to be begun now.
    pub(super) fn plan(&mut self, tasks: Vec<Task>, now: Instant) -> Vec<Task> {
        let tasks: BTreeMap<Key, Task> = tasks.into_iter().map(|task| (task.key(), task)).collect();
        self.entries
            .retain(|key, entry| matches!(entry.state, State::Running) || tasks.contains_key(key));
        self.given_back
            .retain(|_, given| now < given.until + LONG_PAUSE);
        for (key, task) in tasks {
            let turn = self.turn(&task, now);
            let Some(entry) = self.entries.get_mut(&key) else {
                let state = State::Waiting(turn);
                let failures = 0;
                self.entries.insert(
                    key,
                    Entry {
                        task,
                        state,
                        failures,
                    },
                );
                continue;
            };
            match entry.state {
                State::Running => {}
                State::Waiting(_) if entry.task.cause() == task.cause() => entry.task = task,
                State::Done(at) if entry.task.version() == task.version() => {
                    if now >= at + SETTLED {
                        entry.state = State::Waiting(now);
                    }
                }
                State::Waiting(_) | State::Done(_) => {
                    entry.state = State::Waiting(turn);
                    (entry.task, entry.failures) = (task, 0);
                }
            }
        }
        let running = |entry: &&mut Entry| matches!(entry.state, State::Running);
        let busy = self.entries.values_mut().filter(running).count();
        let mut begun = Vec::new();
        for entry in self.entries.values_mut() {
            if busy + begun.len() == MOST {
                break;
            }
            if matches!(entry.state, State::Waiting(until) if until <= now) {
                entry.state = State::Running;
                begun.push(entry.task.clone());
            }
        }
        begun
    }

    /// When a task is begun that is new.
    fn turn(&self, task: &Task, now: Instant) -> Instant {
        let turn = now + task.delay();
        match self.given_back.get(&task.key().1) {
            Some(given) if task.is_taking() && Some(&given.wish) == task.wish().as_ref() => {
                turn.max(given.until)
            }
            _ => turn,
        }
    }

    /// Notes that another node is to do it.
    fn gave_back(&mut self, task: &Task, now: Instant) {
        let (uid, wish) = (task.key().1, task.wish().unwrap_or_default());
        let before = self.given_back.get(&uid);
        let times = before
            .filter(|given| given.wish == wish)
            .map_or(0, |given| given.times);
        let pause = FIRST_TURN.saturating_mul(1 << times.min(16));
        let given = GivenBack {
            wish,
            times: times + 1,
            until: now + pause.min(LONG_PAUSE),
        };
        // News of it may have come already.
        for entry in self.entries.values_mut() {
            if let State::Waiting(until) = entry.state
                && entry.task.is_taking()
                && entry.task.key().1 == uid
            {
                entry.state = State::Waiting(until.max(given.until));
            }
        }
        self.given_back.insert(uid, given);
    }

    /// Notes how a task has ended.
    pub(super) fn ended(&mut self, key: &Key, outcome: Outcome, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let pause = match outcome {
            Outcome::Done => {
                entry.failures = 0;
                entry.state = State::Done(now);
                return;
            }
            Outcome::GaveBack => {
                entry.failures = 0;
                entry.state = State::Done(now);
                let task = entry.task.clone();
                return self.gave_back(&task, now);
            }
            Outcome::Failed => FIRST_PAUSE
                .saturating_mul(1 << entry.failures.min(16))
                .min(LAST_PAUSE),
            Outcome::Hopeless => LONG_PAUSE,
        };
        entry.failures += 1;
        entry.state = State::Waiting(now + pause);
    }

    /// When the plan is to be looked at again, if nothing else happens; none while as many run as may.
    pub(super) fn next(&self) -> Option<Instant> {
        let running = |entry: &&Entry| matches!(entry.state, State::Running);
        if self.entries.values().filter(running).count() == MOST {
            return None;
        }
        let times = self.entries.values().filter_map(|entry| match entry.state {
            State::Running => None,
            State::Waiting(until) => Some(until),
            State::Done(at) => Some(at + SETTLED),
        });
        times.min()
    }

    /// How many failed the last time, or were told to wait.
    #[cfg(test)]
    fn failing(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.failures > 0)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::cluster::plan::tests::{provision, provision_soon, take, take_version};

    #[test]
    fn what_is_done_is_not_begun_again_before_news_of_it_came() {
        let (mut work, now) = (Work::default(), Instant::now());
        let task = provision("a", "1");
        assert_eq!(
            work.plan(vec![task.clone()], now),
            std::slice::from_ref(&task)
        );
        assert!(work.plan(vec![task.clone()], now).is_empty(), "it runs");
        work.ended(&task.key(), Outcome::Done, now);
        let just_before = now + SETTLED - Duration::from_millis(1);
        assert!(work.plan(vec![task.clone()], just_before).is_empty());
        assert_eq!(work.next(), Some(now + SETTLED));
        assert_eq!(work.plan(vec![task.clone()], now + SETTLED).len(), 1);
        work.ended(&task.key(), Outcome::Done, now + SETTLED);
        let newer = provision("a", "2");
        assert_eq!(work.plan(vec![newer.clone()], now + SETTLED), [newer]);
    }

    #[test]
    fn what_failed_is_tried_again_with_growing_pauses_and_at_once_when_more_is_known() {
        let (mut work, mut now) = (Work::default(), Instant::now());
        let task = provision("a", "1");
        for secs in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(work.plan(vec![task.clone()], now).len(), 1);
            work.ended(&task.key(), Outcome::Failed, now);
            let pause = Duration::from_secs(secs);
            // The task's own writes make the object newer: no reason to hurry.
            let newer = provision("a", "2");
            assert!(work.plan(vec![newer], now + pause / 2).is_empty());
            assert_eq!(work.next(), Some(now + pause));
            now += pause;
        }
        assert_eq!(work.plan(vec![task.clone()], now).len(), 1);
        work.ended(&task.key(), Outcome::Hopeless, now);
        assert_eq!((work.next(), work.failing()), (Some(now + LONG_PAUSE), 1));
        let asked_anew = crate::csi::cluster::plan::tests::larger("a", "3");
        assert_eq!(work.plan(vec![asked_anew], now).len(), 1);
    }

    #[test]
    fn only_so_many_run_at_a_time_and_all_get_their_turn() {
        let (mut work, now) = (Work::default(), Instant::now());
        let tasks: Vec<Task> = (0..40)
            .map(|n| provision(&format!("{n:02}"), "1"))
            .collect();
        let mut seen = 0;
        while seen < tasks.len() {
            let begun = work.plan(tasks.clone(), now);
            assert!(!begun.is_empty() && begun.len() <= MOST);
            assert_eq!(work.next().is_none(), begun.len() == MOST);
            seen += begun.len();
            for task in begun {
                work.ended(&task.key(), Outcome::Done, now);
            }
        }
        assert!(work.plan(Vec::new(), now).is_empty());
        assert_eq!(work.next(), None, "what is not planned is forgotten");
    }

    #[test]
    fn nodes_don_t_all_want_the_same_claim_at_once() {
        let (mut work, now) = (Work::default(), Instant::now());
        let task = take("a", "n1");
        assert!(task.delay() > Duration::ZERO && task.delay() != take("a", "n2").delay());
        assert!(work.plan(vec![task.clone()], now).is_empty());
        assert_eq!(work.plan(vec![task.clone()], now + task.delay()).len(), 1);
        // In another order each time that it is to be had.
        assert_ne!(task.delay(), take_version("a", "n1", "2").delay());
        // Another was faster: it is not planned any more.
        let mut work = Work::default();
        work.plan(vec![task.clone()], now);
        assert!(work.plan(Vec::new(), now + task.delay()).is_empty());
    }

    #[test]
    fn a_claim_that_was_given_back_is_left_to_other_nodes_for_a_while() {
        let (mut work, now) = (Work::default(), Instant::now());
        let mut given = now;
        for pause in [FIRST_TURN, FIRST_TURN * 2, FIRST_TURN * 4] {
            let taken = provision_soon("a", "1");
            assert_eq!(work.plan(vec![taken.clone()], given).len(), 1);
            // News of it come before the task has ended, or afterwards.
            let free = take("a", "n1");
            if pause == FIRST_TURN {
                assert!(work.plan(vec![free.clone()], given).is_empty());
            }
            work.ended(&taken.key(), Outcome::GaveBack, given);
            let just_before = given + pause - Duration::from_millis(1);
            assert!(work.plan(vec![free.clone()], just_before).is_empty());
            given = work.next().unwrap();
            assert!(given >= just_before + Duration::from_millis(1));
            assert_eq!(work.plan(vec![free.clone()], given).len(), 1);
            work.ended(&free.key(), Outcome::Done, given);
        }
        // Less is asked for: that may do.
        let taken = provision_soon("a", "1");
        work.plan(vec![taken.clone()], given);
        work.ended(&taken.key(), Outcome::GaveBack, given);
        let other = crate::csi::cluster::plan::tests::take_more("a", "n1");
        work.plan(vec![other.clone()], given);
        assert_eq!(work.next(), Some(given + other.delay()));
    }
}
