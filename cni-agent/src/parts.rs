//! Supervision: each part of the agent runs in a task of its own. A part that panics or fails is
//! started again after a pause, and never stops another.

use crate::config::PartName;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::sleep,
};

/// Pause before the first restart of a part; doubled at each failure in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A part that ran this long starts again with the first pause.
const STEADY: Duration = Duration::from_secs(60);

/// Tells a part that the agent ends.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// The switch and what it switches.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns when the agent ends.
    pub async fn requested(&mut self) {
        // A dropped sender means that the agent is gone: the same.
        let _gone = self.0.wait_for(|stop| *stop).await.is_err();
    }

    fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

/// How a part is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartState {
    pub running: bool,
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// The state of all parts, for `fairlead status`.
#[derive(Clone, Default)]
pub struct PartStates(Arc<Mutex<BTreeMap<&'static str, PartState>>>);

impl PartStates {
    /// A copy of the states by the parts' names.
    pub async fn snapshot(&self) -> BTreeMap<String, PartState> {
        self.0
            .lock()
            .await
            .iter()
            .map(|(name, state)| ((*name).to_owned(), state.clone()))
            .collect()
    }

    async fn change(&self, name: PartName, change: impl FnOnce(&mut PartState)) {
        let mut states = self.0.lock().await;
        let state = states.entry(name.as_str()).or_insert(PartState {
            running: false,
            restarts: 0,
            last_failure: None,
        });
        change(state);
    }
}

type Run = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A part and how to start it (again).
pub struct Part {
    pub name: PartName,
    pub start: Box<dyn Fn(Shutdown) -> Run + Send + Sync>,
}

/// Runs the parts until `shutdown`, then waits for each to end.
pub async fn supervise(parts: Vec<Part>, states: PartStates, shutdown: Shutdown) {
    let mut tasks = JoinSet::new();
    for part in parts {
        tasks.spawn(keep_running(part, states.clone(), shutdown.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn keep_running(part: Part, states: PartStates, mut shutdown: Shutdown) {
    let mut pause = FIRST_PAUSE;
    loop {
        states.change(part.name, |state| state.running = true).await;
        let started = tokio::time::Instant::now();
        let outcome = tokio::spawn((part.start)(shutdown.clone())).await;
        states
            .change(part.name, |state| state.running = false)
            .await;
        if shutdown.is_requested() {
            return;
        }
        let failure = match outcome {
            Ok(Ok(())) => "ended without being asked to".to_owned(),
            Ok(Err(failure)) => failure,
            Err(error) => format!("panicked: {error}"),
        };
        if started.elapsed() >= STEADY {
            pause = FIRST_PAUSE;
        }
        tracing::error!(part = part.name.as_str(), %failure, again_in = ?pause, "part failed");
        states
            .change(part.name, |state| {
                state.restarts += 1;
                state.last_failure = Some(failure);
            })
            .await;
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.requested() => return,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn part(run: impl Fn(Shutdown) -> Run + Send + Sync + 'static) -> Part {
        Part {
            name: PartName::Network,
            start: Box::new(run),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_starts_again_and_another_goes_on() {
        let (stop, shutdown) = Shutdown::new();
        let starts = Arc::new(AtomicU32::new(0));
        let steady = Arc::new(AtomicU32::new(0));
        let (counted, steady_counted) = (starts.clone(), steady.clone());
        let stop = Arc::new(stop);
        let panicking = part(move |_| {
            let (starts, stop) = (counted.clone(), stop.clone());
            Box::pin(async move {
                if starts.fetch_add(1, Ordering::SeqCst) == 2 {
                    stop.send_replace(true);
                    return Ok(());
                }
                panic!("broken");
            })
        });
        let other = part(move |mut shutdown| {
            let steady = steady_counted.clone();
            Box::pin(async move {
                steady.fetch_add(1, Ordering::SeqCst);
                shutdown.requested().await;
                Ok(())
            })
        });
        let states = PartStates::default();
        supervise(vec![panicking, other], states.clone(), shutdown).await;
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        assert_eq!(
            steady.load(Ordering::SeqCst),
            1,
            "the other part was disturbed"
        );
        let state = states.snapshot().await.remove("network").unwrap();
        assert_eq!(state.restarts, 2);
        assert!(state.last_failure.unwrap().contains("panicked"));
    }
}
