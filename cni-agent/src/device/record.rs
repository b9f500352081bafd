//! The inventory's copy on the disk, which only a later start of the agent needs: nobody is told later because the disk is
//! slow. It is written after what it holds was told, the last state alone when changes come faster than the disk.
//!
//! An agent that ends as it should has written all. What one that is killed had told and not yet written is found again by
//! the first look of the next: who was there by the same rules, for those that were there longer are written. That a
//! device had come in those last milliseconds is what it can't know.

use super::{
    inventory::{Item, Offer},
    kept::{Keep, Kept},
    name::ResourceName,
};
use std::{io, sync::Arc};
use tokio::{sync::watch, task::JoinHandle};

/// What is to be on the disk.
pub(super) struct Record {
    kept: watch::Sender<Kept>,
    writing: JoinHandle<()>,
}

impl Record {
    /// Within a runtime.
    pub(super) fn open(keep: Keep, kept: Kept) -> Self {
        Self::with(kept, move |kept| keep.write(kept))
    }

    pub(super) fn with(
        kept: Kept,
        write: impl Fn(&Kept) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let kept = watch::Sender::new(kept);
        let mut noted = kept.subscribe();
        // In which start of the machine this is.
        noted.mark_changed();
        let writing = tokio::spawn(run(noted, Arc::new(write)));
        Self { kept, writing }
    }

    /// What is known of a resource.
    pub(super) fn known(&self, name: &ResourceName) -> Option<Vec<Item>> {
        self.kept.borrow().resources.get(name).cloned()
    }

    /// Has it hold these, which were told. Waits for nothing.
    pub(super) fn note<'a>(&self, told: impl Iterator<Item = &'a Offer>) {
        self.kept.send_if_modified(|kept| {
            let mut is_news = false;
            for Offer { rule, items, .. } in told {
                if kept.resources.get(&rule.name) != Some(items) {
                    kept.resources.insert(rule.name.clone(), items.clone());
                    is_news = true;
                }
            }
            is_news
        });
    }

    /// Has it hold no others than these.
    pub(super) fn retain(&self, is_wanted: impl Fn(&ResourceName) -> bool) {
        self.kept.send_if_modified(|kept| {
            let before = kept.resources.len();
            kept.resources.retain(|name, _| is_wanted(name));
            kept.resources.len() != before
        });
    }

    /// Waits until all is written.
    pub(super) async fn end(self) {
        drop(self.kept);
        if let Err(error) = self.writing.await {
            tracing::error!(%error, "writing the inventory of devices ended badly");
        }
    }
}

/// Writes until nobody notes anything any more.
async fn run(
    mut kept: watch::Receiver<Kept>,
    write: Arc<impl Fn(&Kept) -> io::Result<()> + Send + Sync + 'static>,
) {
    // What was noted last is seen still, after its end.
    while kept.changed().await.is_ok() {
        let (now, write) = (kept.borrow_and_update().clone(), write.clone());
        match tokio::task::spawn_blocking(move || write(&now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                %error,
                "the inventory of devices can't be kept: after a restart all are found anew; see to the state folder's disk"
            ),
            Err(error) => tracing::error!(%error, "writing the inventory ended badly"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::{item, rule};
    use std::sync::{Mutex, mpsc};

    fn offer(count: usize) -> Offer {
        let items = (0..count).map(|n| item(&format!("d{n}"))).collect();
        Offer::new(Arc::new(rule("a.io/x")), items)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slow_disk_holds_nobody_up_and_gets_the_last_of_a_burst() {
        let (go, wait) = mpsc::channel();
        let (begun, begins) = mpsc::channel();
        let wait = Mutex::new(wait);
        let record = Record::with(Kept::default(), move |kept| {
            let devices: usize = kept.resources.values().map(Vec::len).sum();
            begun.send(devices).unwrap();
            wait.lock().unwrap().recv().unwrap();
            Ok(())
        });
        assert_eq!(begins.recv().unwrap(), 0);
        // The disk is busy from here on.
        for count in 1..=100 {
            record.note([&offer(count)].into_iter());
        }
        record.note([&offer(100)].into_iter());
        assert_eq!(record.known(&rule("a.io/x").name).unwrap().len(), 100);
        go.send(()).unwrap();
        assert_eq!(begins.recv().unwrap(), 100);
        record.retain(|_| false);
        go.send(()).unwrap();
        go.send(()).unwrap();
        record.end().await;
        // The last is written before it has ended, and the same is not written twice.
        assert_eq!(begins.iter().collect::<Vec<_>>(), [0]);
    }
}
