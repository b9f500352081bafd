//! What has to be undone when a lab ends, in whatever way it ends.
//!
//! Everything the lab makes outside its own process (namespaces, mounts, processes, folders)
//! goes through [`Undo::make`]. Making and remembering are one step under one lock, so that the
//! signal thread never meets a thing that exists and is not remembered.

use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Names one remembered step, to undo it early with [`Undo::undo`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepId(u64);

/// The steps that are still to be undone, the latest first.
#[derive(Default)]
pub(crate) struct Undo(Mutex<Steps>);

#[derive(Default)]
struct Steps {
    next: u64,
    closed: bool,
    steps: BTreeMap<u64, Step>,
}

struct Step {
    what: String,
    undo: Box<dyn FnOnce() -> Result<()> + Send>,
}

impl Undo {
    /// Runs `make`, which answers with what it made and how that is undone.
    ///
    /// # Errors
    /// Those of `make`, which has to leave nothing behind then; and always once the clean-up has
    /// begun.
    pub(crate) fn make<T, U>(
        &self,
        what: &str,
        make: impl FnOnce() -> Result<(T, U)>,
    ) -> Result<(T, StepId)>
    where
        U: FnOnce() -> Result<()> + Send + 'static,
    {
        let mut steps = self.lock();
        if steps.closed {
            bail!("{what}: the lab is being taken down");
        }
        let (made, undo) = make().with_context(|| format!("making {what}"))?;
        let id = steps.next;
        steps.next += 1;
        steps.steps.insert(
            id,
            Step {
                what: what.to_owned(),
                undo: Box::new(undo),
            },
        );
        Ok((made, StepId(id)))
    }

    /// Undoes one step now. A step that is already undone counts as success.
    ///
    /// # Errors
    /// Those of the step.
    pub(crate) fn undo(&self, id: StepId) -> Result<()> {
        let mut steps = self.lock();
        match steps.steps.remove(&id.0) {
            Some(step) => (step.undo)().with_context(|| format!("removing {}", step.what)),
            None => Ok(()),
        }
    }

    /// Undoes everything, the latest first, and takes no new steps from now on. Goes on after
    /// errors and returns them.
    pub(crate) fn undo_all(&self) -> Vec<anyhow::Error> {
        let mut steps = self.lock();
        steps.closed = true;
        let mut errors = Vec::new();
        while let Some((_, step)) = steps.steps.pop_last() {
            if let Err(error) = (step.undo)() {
                errors.push(error.context(format!("removing {}", step.what)));
            }
        }
        errors
    }

    /// A panic inside a step must not keep the rest from being undone.
    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn steps_are_undone_in_reverse_and_each_once() {
        let undo = Undo::default();
        let (sender, receiver) = mpsc::channel();
        let mut ids = Vec::new();
        for number in 0..4 {
            let sender = sender.clone();
            let step = move || sender.send(number).map_err(Into::into);
            ids.push(undo.make("a step", || Ok(((), step))).unwrap().1);
        }
        undo.undo(ids[2]).unwrap();
        undo.undo(ids[2]).unwrap();
        assert!(undo.undo_all().is_empty());
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [2, 3, 1, 0]);
    }

    #[test]
    fn a_failing_step_does_not_stop_the_others() {
        let undo = Undo::default();
        let reached = Arc::new(Mutex::new(false));
        let seen = Arc::clone(&reached);
        let first = move || {
            *seen.lock().unwrap() = true;
            Ok(())
        };
        undo.make("first", || Ok(((), first))).unwrap();
        undo.make("second", || Ok(((), || bail!("stuck")))).unwrap();
        assert_eq!(undo.undo_all().len(), 1);
        assert!(*reached.lock().unwrap());
    }

    #[test]
    fn nothing_is_made_once_the_clean_up_has_begun() {
        let undo = Undo::default();
        undo.undo_all();
        let made = undo.make("late", || Ok(((), || Ok(()))));
        assert!(made.is_err());
    }
}
