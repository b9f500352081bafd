//! One operation for a volume at a time: whoever asks meanwhile is told to ask again (ABORTED). Several may read from one
//! source together, and nobody changes it meanwhile.

use super::fault::Fault;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

/// How something is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Alone,
    /// So many read from it.
    Read(usize),
}

/// What is worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<HashMap<String, Use>>>);

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
            .keys()
            .cloned()
            .collect()
    }

    /// Begins to work on these, or on none of them.
    pub(super) fn begin(&self, keys: &[&str]) -> Result<Working, Fault> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.iter().find(|key| busy.contains_key(**key)) {
            return Err(is_busy(key));
        }
        let mut taken = Vec::new();
        for key in keys {
            if busy.insert((*key).to_owned(), Use::Alone).is_none() {
                taken.push((*key).to_owned());
            }
        }
        Ok(Working {
            of: self.clone(),
            keys: taken,
        })
    }

    /// Begins to read from something, beside others that read from it.
    pub(super) fn read(&self, key: &str) -> Result<Working, Fault> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let readers = match busy.get(key) {
            Some(Use::Alone) => return Err(is_busy(key)),
            Some(Use::Read(readers)) => *readers,
            None => 0,
        };
        busy.insert(key.to_owned(), Use::Read(readers + 1));
        Ok(Working {
            of: self.clone(),
            keys: vec![key.to_owned()],
        })
    }
}

fn is_busy(key: &str) -> Fault {
    Fault::Busy(format!(
        "something else is being done with {key}; ask again"
    ))
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut busy = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            match busy.get_mut(key) {
                Some(Use::Read(readers)) if *readers > 1 => *readers -= 1,
                _ => {
                    busy.remove(key);
                }
            }
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

    #[test]
    fn several_read_from_a_source_and_nobody_changes_it_meanwhile() {
        let busy = InFlight::default();
        let (one, other) = (busy.read("a").unwrap(), busy.read("a").unwrap());
        assert!(matches!(busy.begin(&["a"]), Err(Fault::Busy(_))));
        drop(one);
        assert!(matches!(busy.begin(&["a"]), Err(Fault::Busy(_))));
        drop(other);
        let alone = busy.begin(&["a"]).unwrap();
        assert!(matches!(busy.read("a"), Err(Fault::Busy(_))));
        drop(alone);
        drop(busy.read("a").unwrap());
    }
}
