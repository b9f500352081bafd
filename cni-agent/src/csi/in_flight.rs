//! One operation for a volume at a time: whoever asks meanwhile is told to ask again (ABORTED).

use super::fault::Fault;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// What is worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<HashSet<String>>>);

/// Its end is the operation's.
#[derive(Debug)]
pub(super) struct Working {
    of: InFlight,
    keys: Vec<String>,
}

impl InFlight {
    /// What is worked on now.
    pub(super) fn keys(&self) -> HashSet<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Begins to work on these, or on none of them.
    pub(super) fn begin(&self, keys: &[&str]) -> Result<Working, Fault> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.iter().find(|key| busy.contains(**key)) {
            return Err(Fault::Busy(format!(
                "something else is being done with {key}; ask again"
            )));
        }
        let mut taken = Vec::new();
        for key in keys {
            if busy.insert((*key).to_owned()) {
                taken.push((*key).to_owned());
            }
        }
        Ok(Working {
            of: self.clone(),
            keys: taken,
        })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut busy = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            busy.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worked_on_is_nobody_elses_until_it_is_done() {
        let busy = InFlight::default();
        let one = busy.begin(&["a"]).unwrap();
        assert!(matches!(busy.begin(&["b", "a"]), Err(Fault::Busy(_))));
        drop(busy.begin(&["b"]).unwrap());
        drop(one);
        drop(busy.begin(&["a", "b", "a"]).unwrap());
        drop(busy.begin(&["a"]).unwrap());
    }
}
