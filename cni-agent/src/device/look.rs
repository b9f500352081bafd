//! One look at the node for several resources, on a thread of its own: a driver that is stuck holds up who reads of its
//! device, and nobody else.

use super::{
    found::Findings,
    host::Host,
    inventory::{Item, Offer, Witness, items},
    name::ResourceName,
    plan::Finder,
};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, thread, time::Duration};
use tokio::{sync::oneshot, time::timeout};

/// A look takes milliseconds; on a machine that is very busy, a second.
const LONG: Duration = Duration::from_secs(5);

/// What a look found of one resource.
pub(super) struct Sight {
    pub(super) name: ResourceName,
    pub(super) findings: Findings,
    pub(super) items: Vec<Item>,
}

/// What a look found: where changes are seen, and of each resource.
pub(super) type Seen = (BTreeSet<PathBuf>, Vec<Sight>);

/// Who looks, one look at a time.
#[derive(Debug, Default)]
pub(super) struct Looker {
    /// A look that has not come back.
    late: Option<oneshot::Receiver<()>>,
}

impl Looker {
    /// What the node has of these resources; none: the look ended badly, or it or the one before doesn't come back.
    pub(super) async fn look(&mut self, host: Arc<Host>, offers: Vec<Arc<Offer>>) -> Option<Seen> {
        self.run(LONG, move || {
            let finders = offers.iter().flat_map(|offer| offer.rule.find.clone());
            let finders: Vec<Finder> = finders.collect();
            let folders = host.folders(&finders);
            let sights = offers.iter().map(|offer| sight(&host, offer));
            (folders, sights.collect())
        })
        .await
    }

    /// Why nothing is seen, worded for people; none: something is.
    pub(super) fn problem(&self) -> Option<String> {
        self.late.as_ref().map(|_| {
            "a look at the node's devices doesn't come back, and what changes is not seen meanwhile: a driver is stuck; see the kernel's messages (dmesg), unplug what it complains of, or start the node anew"
                .to_owned()
        })
    }

    async fn run<T: Send + 'static>(
        &mut self,
        long: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if let Some(late) = &mut self.late {
            match late.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return None,
                _ => tracing::info!("the look at the node's devices has come back"),
            }
            self.late = None;
        }
        let (tell, mut told) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let looking = thread::Builder::new()
            .name("look".to_owned())
            .spawn(move || {
                let done = work();
                // Both may have been given up.
                drop((tell.send(done), end.send(())));
            });
        if let Err(error) = looking {
            tracing::error!(%error, "the node's devices can't be looked at");
            return None;
        }
        match timeout(long, &mut told).await {
            Ok(Ok(done)) => Some(done),
            Ok(Err(_gone)) => {
                tracing::error!("the look at the node's devices ended badly");
                None
            }
            Err(_elapsed) => {
                self.late = Some(ended);
                tracing::error!(
                    seconds = long.as_secs(),
                    "a look at the node's devices doesn't come back: a driver is stuck"
                );
                None
            }
        }
    }
}

fn sight(host: &Host, offer: &Offer) -> Sight {
    let node = Witness {
        exists: &|path| host.exists(path),
        is_there: &|site| host.is_there(site),
    };
    let mut findings = host.find(&offer.rule.find);
    let found = std::mem::take(&mut findings.found);
    let (items, problems) = items(&offer.rule, found, &offer.items, &node);
    findings.problems.extend(problems);
    Sight {
        name: offer.rule.name.clone(),
        findings,
        items,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_look_that_hangs_holds_up_nobody_and_the_next_begins_when_it_has_come_back() {
        let mut looker = Looker::default();
        let patient = Duration::from_secs(60);
        assert_eq!(looker.run(patient, || 1).await, Some(1));
        assert_eq!(looker.problem(), None);
        let (go, wait) = mpsc::channel::<()>();
        let hang = move || assert!(wait.recv().is_err());
        assert_eq!(looker.run(Duration::from_millis(20), hang).await, None);
        for _ in 0..3 {
            let never = || panic!("beside one that hangs");
            assert_eq!(looker.run(patient, never).await, None::<()>);
            assert!(looker.problem().unwrap().contains("dmesg"));
        }
        drop(go);
        let again = async {
            loop {
                if let Some(done) = looker.run(patient, || 2).await {
                    return done;
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(timeout(patient, again).await, Ok(2));
        assert_eq!(looker.problem(), None);
    }

    #[tokio::test]
    async fn a_look_that_ends_badly_is_none_and_the_next_begins_at_once() {
        let mut looker = Looker::default();
        let patient = Duration::from_secs(60);
        let broken = || -> u8 { panic!("as the test has it") };
        assert_eq!(looker.run(patient, broken).await, None);
        assert_eq!(looker.run(patient, || 3).await, Some(3));
    }
}
