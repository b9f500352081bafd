//! A pod with a device by a claim, and what everybody says of it: its container, the claim, the slices and the node.

use super::{
    super::{
        super::{
            place::{Cluster, until},
            pods,
        },
        LIMIT, SPACE,
        consumer::{self, mark, phase},
        install::FOLDER,
        node::{self, Process, process},
    },
    held::{self, Claim},
    slices,
};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{fs, os::unix::fs::MetadataExt as _};

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pod: String,
    pub(super) claim: Claim,
    /// The device's file.
    pub(super) file: String,
    life: (String, u64),
    process: Process,
}

impl Holder {
    /// Makes it, waits until it runs, and looks whether all say the same.
    ///
    /// # Errors
    /// When it doesn't run in time, or has another device than the claim.
    pub(super) fn run(cluster: &Cluster, pod: &Value) -> Result<Self> {
        cluster.apply(std::slice::from_ref(pod))?;
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        Self::running(cluster, name)
    }

    /// The same, of one that was made.
    pub(super) fn running(cluster: &Cluster, name: &str) -> Result<Self> {
        phase(cluster, name, "Running")?;
        Self::look(cluster, name)
    }

    /// How it is now.
    fn look(cluster: &Cluster, name: &str) -> Result<Self> {
        consumer::log(cluster, name, "consumer")?;
        let process = until(LIMIT, "it has its device open", || process(&mark(name)))?;
        let told = consumer::told(cluster, name)?;
        let has = files(cluster, name, "consumer")?;
        ensure!(has == [&*told], "it was told of {told}, and has {has:?}");
        let path = node::root(cluster)?.join(told.trim_start_matches('/'));
        if let Ok(about) = fs::metadata(path) {
            ensure!(about.rdev() == process.device, "it has another device open");
        }
        let claim = held::of_pod(cluster, name)?;
        let [of] = &claim.devices[..] else {
            anyhow::bail!("the claim is for one device: {claim:?}");
        };
        let slices = slices::told(cluster)?;
        if let Some(device) = slices.get(&of.device) {
            ensure!(
                device.path == told,
                "the claim has {device:?}, the pod {told}"
            );
        }
        let prepared = held::prepared(cluster)?.remove(&claim.uid);
        ensure!(
            prepared.as_deref() == Some(std::slice::from_ref(&of.device)),
            "the node has prepared {prepared:?} for {claim:?}"
        );
        Ok(Self {
            pod: name.to_owned(),
            claim,
            file: told,
            life: consumer::life(cluster, name)?,
            process,
        })
    }

    /// All is as it was: the container, its process with the device open, the claim, what is prepared.
    ///
    /// # Errors
    /// What is not.
    pub(super) fn keeps(&self, cluster: &Cluster) -> Result<()> {
        let mut now = Self::look(cluster, &self.pod)?;
        // Others may have come to it.
        now.claim.pods.clone_from(&self.claim.pods);
        ensure!(now == *self, "it was {self:?}, and is {now:?}");
        Ok(())
    }

    /// Ends its container, and waits until another one is there.
    pub(super) fn restart(&mut self, cluster: &Cluster) -> Result<()> {
        self.kill()?;
        until(LIMIT, "its container is another one", || {
            let now = consumer::life(cluster, &self.pod)?;
            Ok(self.is_another(&now).then_some(()))
        })?;
        let now = Self::running(cluster, &self.pod)?;
        ensure!(
            now.file == self.file && now.claim.uid == self.claim.uid,
            "it was {self:?}, and is {now:?}"
        );
        *self = now;
        Ok(())
    }

    /// Ends its process.
    pub(super) fn kill(&self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.process.pid)?).context("a pid")?;
        Ok(kill_process(pid, Signal::KILL)?)
    }

    /// Whether a container is a later one than that which was looked at.
    pub(super) fn is_another(&self, (id, restarts): &(String, u64)) -> bool {
        *restarts > self.life.1 && !id.is_empty() && *id != self.life.0
    }

    /// Whether its process is there.
    pub(super) fn is_there(&self) -> Result<bool> {
        Ok(process(&mark(&self.pod))?.is_some())
    }

    /// Its pod goes; then nothing of the claim is left on the node.
    pub(super) fn end(&self, cluster: &Cluster) -> Result<()> {
        consumer::gone(cluster, &self.pod)?;
        until(LIMIT, "the claim is taken back", || {
            let is_kept = held::prepared(cluster)?.contains_key(&self.claim.uid);
            let is_told = held::described(cluster)?.contains(&self.claim.uid);
            Ok((!is_kept && !is_told).then_some(()))
        })
    }
}

/// Files of our kinds that a container has.
pub(super) fn files(cluster: &Cluster, pod: &str, container: &str) -> Result<Vec<String>> {
    let line = format!("ls -d {FOLDER}/claimed* {FOLDER}/shared* 2>/dev/null || true");
    let words = [
        "exec", "-n", SPACE, pod, "-c", container, "--", "sh", "-c", &line,
    ];
    let said = cluster.ask(&words)?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// A field of a pod as the API server has it.
pub(super) fn field(cluster: &Cluster, pod: &str, path: &str) -> Result<String> {
    pods::field(cluster, SPACE, pod, path)
}

/// Waits until the scheduler has said that no claim of a pod can be met; answers its words.
pub(super) fn has_no_place(cluster: &Cluster, pod: &str) -> Result<String> {
    let why = is_unschedulable(cluster, pod)?;
    ensure!(
        why.contains("cannot allocate all claims"),
        "{pod} has no place, but because of {why}"
    );
    Ok(why)
}

/// Waits until the scheduler has said why a pod has no place; answers why.
pub(super) fn is_unschedulable(cluster: &Cluster, pod: &str) -> Result<String> {
    until(LIMIT, &format!("{pod} has no place"), || {
        let path = ".status.conditions[?(@.reason==\"Unschedulable\")].message";
        let why = field(cluster, pod, path)?;
        let node = field(cluster, pod, ".spec.nodeName")?;
        ensure!(node.is_empty(), "{pod} was given a place");
        // What follows is of other pods that might be ended for it.
        let why = why.split(". ").next().unwrap_or_default();
        Ok((!why.is_empty()).then(|| why.to_owned()))
    })
}

/// Waits until the claims that are there are these.
pub(super) fn until_claims_are(cluster: &Cluster, names: &[&str]) -> Result<()> {
    let mut last = String::new();
    let done = until(LIMIT, "there are these claims alone", || {
        let form = "jsonpath={.items[*].metadata.name}";
        last = cluster.ask(&["get", "resourceclaims", "-n", SPACE, "-o", form])?;
        let mut now: Vec<_> = last.split_whitespace().collect();
        now.sort_unstable();
        Ok((now == names).then_some(()))
    });
    done.with_context(|| format!("wanted {names:?}, got {last}"))
}

/// Waits until an Event of a pod has these words; answers it.
pub(super) fn event(cluster: &Cluster, pod: &str, words: &str) -> Result<String> {
    until(LIMIT, &format!("an Event of {pod} says: {words}"), || {
        let about = format!("involvedObject.name={pod}");
        let form = "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
        let get = ["get", "events", "-n", SPACE, "--field-selector", &about];
        let told = cluster.ask(&[&get[..], &["-o", form]].concat())?;
        let line = told.lines().find(|line| line.contains(words));
        Ok(line.map(str::to_owned))
    })
}
