//! A node's resource as the API server tells it, at each change: nobody has to ask again.

use super::{super::place::Cluster, LIMIT, NODE};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// What a node has of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Numbers {
    pub(super) allocatable: Option<u64>,
    pub(super) capacity: Option<u64>,
}

impl Numbers {
    pub(super) fn new(allocatable: u64, capacity: u64) -> Self {
        Self {
            allocatable: Some(allocatable),
            capacity: Some(capacity),
        }
    }
}

/// `kubectl get node -w`.
pub(super) struct Watch {
    kubectl: Child,
    told: Receiver<(Instant, Numbers)>,
}

impl Watch {
    /// Watches the node; the first that is told is how it is.
    pub(super) fn begin(cluster: &Cluster, resource: &str) -> Result<Self> {
        let key = resource.replace('.', "\\.");
        let form =
            format!("jsonpath={{.status.allocatable.{key}}}/{{.status.capacity.{key}}}{{\"\\n\"}}");
        let mut kubectl = cluster.kubectl()?;
        kubectl.args(["get", "node", NODE, "--watch", "-o", &form]);
        kubectl.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut kubectl = kubectl.spawn().context("starting kubectl")?;
        let lines = kubectl.stdout.take().context("kubectl's output")?;
        let (tell, told) = channel();
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                for line in BufReader::new(lines).lines().map_while(Result::ok) {
                    let (allocatable, capacity) = line.split_once('/').unwrap_or_default();
                    let numbers = Numbers {
                        allocatable: allocatable.parse().ok(),
                        capacity: capacity.parse().ok(),
                    };
                    if tell.send((Instant::now(), numbers)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { kubectl, told })
    }

    /// The next that is told before `end`; none: nothing was.
    ///
    /// # Errors
    /// When kubectl ends.
    pub(super) fn next(&self, end: Instant) -> Result<Option<(Instant, Numbers)>> {
        let left = end.saturating_duration_since(Instant::now());
        match self.told.recv_timeout(left) {
            Ok(told) => Ok(Some(told)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("kubectl watches no more"),
        }
    }

    /// Waits until that is told; answers how long it took from now.
    ///
    /// # Errors
    /// When it isn't in time; with what was told last.
    pub(super) fn until(&self, wanted: Numbers) -> Result<Duration> {
        let begin = Instant::now();
        let mut last = None;
        while let Some((at, now)) = self.next(begin + LIMIT)? {
            if now == wanted {
                return Ok(at.saturating_duration_since(begin));
            }
            last = Some(now);
        }
        bail!("the node doesn't have {wanted:?} within {LIMIT:?}, but {last:?}")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let ended = self.kubectl.kill().and_then(|()| self.kubectl.wait());
        if let Err(error) = ended {
            eprintln!("clean-up: kubectl: {error}");
        }
    }
}

/// What the node has now.
pub(super) fn now(cluster: &Cluster, resource: &str) -> Result<Numbers> {
    let watch = Watch::begin(cluster, resource)?;
    let told = watch.next(Instant::now() + LIMIT)?;
    Ok(told.context("the API server doesn't answer")?.1)
}
