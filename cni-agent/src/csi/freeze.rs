//! Holds a volume's own file system still while its file is cut: what pods have written is in the cut, and its journal is
//! clean. Never for long: a watcher lets it go on after a deadline, and a start lets go on what a killed agent held.

use super::kernel;
use std::{
    fs::File,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// A cut takes milliseconds; what takes longer must not hold the pod.
const LONGEST: Duration = Duration::from_secs(5);

/// A file system that is held. Its end lets it go on.
pub(super) struct Held {
    within: Arc<File>,
    done: Arc<(Mutex<bool>, Condvar)>,
    watcher: Option<thread::JoinHandle<bool>>,
    /// Somebody else holds it: theirs to let go.
    others: bool,
}

impl Held {
    /// Holds the file system that a folder is in.
    pub(super) fn of(within: File) -> io::Result<Self> {
        // Most of what is pending is written before anybody has to wait.
        rustix::fs::syncfs(&within)?;
        let within = Arc::new(within);
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        // Before it is held: what can't be watched is not held.
        let watcher = {
            let (within, done) = (within.clone(), done.clone());
            thread::Builder::new().name("thaw".into()).spawn(move || {
                let (is_done, news) = &*done;
                let guard = is_done.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = news.wait_timeout_while(guard, LONGEST, |is_done| !*is_done);
                let late = waited.is_ok_and(|(_, waited)| waited.timed_out());
                late && kernel::thaw(&*within).unwrap_or(false)
            })?
        };
        let others = !kernel::freeze(&*within)?;
        Ok(Self {
            within,
            done,
            watcher: Some(watcher),
            others,
        })
    }

    /// Lets it go on. `false`: it had to go on before, so that what was cut meanwhile is not of one moment.
    pub(super) fn release(mut self) -> io::Result<bool> {
        self.let_go()
    }

    fn let_go(&mut self) -> io::Result<bool> {
        let Some(watcher) = self.watcher.take() else {
            return Ok(true);
        };
        let thawed = match self.others {
            true => Ok(true),
            false => kernel::thaw(&*self.within),
        };
        let (is_done, news) = &*self.done;
        *is_done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        news.notify_all();
        let was_late = watcher.join().unwrap_or(true);
        Ok(thawed? && !was_late)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            tracing::error!(%error, "a volume's file system can't be let go on; its deadline does it");
        }
    }
}
