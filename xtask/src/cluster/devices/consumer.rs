//! Pods that ask for devices, and what they find.

use super::{
    super::{
        objects::BUSYBOX,
        place::{Cluster, until},
        pods,
    },
    LIMIT, NODE, SPACE,
    install::TOLD,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Stays, with its first device open as file 3. `{mark}` is an argument by which its process is found.
const STAY: &str = "echo told $DEVICE; exec 3<>$DEVICE; exec sleep 1000000 MARK";

/// A pod to be made.
pub(super) struct Consumer<'a> {
    pub(super) name: &'a str,
    /// Resources and how many of each.
    pub(super) asks: &'a [(&'a str, usize)],
    /// What its shell runs; `DEVICE` is the first that it is told of.
    pub(super) script: String,
}

/// One that stays, with its device open.
pub(super) fn stays<'a>(name: &'a str, asks: &'a [(&'a str, usize)]) -> Consumer<'a> {
    Consumer {
        name,
        asks,
        script: STAY.replace("MARK", &mark(name)),
    }
}

/// The argument that tells the process of a pod that stays; sleep adds it to its time.
pub(super) fn mark(name: &str) -> String {
    // Different for each name, and unlike what others sleep.
    let sum = name
        .bytes()
        .fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 1_000_003);
    format!("{sum}.004217")
}

impl Consumer<'_> {
    pub(super) fn object(&self) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": self.name, "namespace": SPACE, "labels": { "app": self.name } },
            "spec": self.spec() })
    }

    pub(super) fn spec(&self) -> Value {
        json!({
            "nodeSelector": { "kubernetes.io/hostname": NODE },
            "terminationGracePeriodSeconds": 0,
            "containers": [self.container("consumer")],
        })
    }

    pub(super) fn container(&self, name: &str) -> Value {
        let limits: serde_json::Map<String, Value> = self
            .asks
            .iter()
            .map(|(resource, count)| ((*resource).to_owned(), json!(count.to_string())))
            .collect();
        let script = format!("DEVICE=${{{TOLD}%%,*}}; {}", self.script);
        json!({
            "name": name,
            "image": BUSYBOX,
            "command": ["sh", "-c", script],
            "resources": { "limits": limits },
        })
    }

    /// Makes it and waits until it runs.
    ///
    /// # Errors
    /// When it doesn't in time; with its events.
    pub(super) fn run(&self, cluster: &Cluster) -> Result<()> {
        cluster.apply(&[self.object()])?;
        phase(cluster, self.name, "Running").map(|_| ())
    }
}

/// The pod as the API server has it.
pub(super) fn get(cluster: &Cluster, name: &str) -> Result<Value> {
    let text = cluster.ask(&["get", "pod", name, "-n", SPACE, "-o", "json"])?;
    serde_json::from_str(&text).with_context(|| format!("reading pod {name}"))
}

/// Waits until a pod is in a phase.
///
/// # Errors
/// When it isn't in time; with its events.
pub(super) fn phase(cluster: &Cluster, name: &str, phase: &str) -> Result<Value> {
    let mut last = Value::Null;
    let found = until(LIMIT, &format!("pod {name} is {phase}"), || {
        let pod = get(cluster, name)?;
        last = pod["status"].clone();
        Ok((pod["status"]["phase"] == phase).then_some(pod))
    });
    found.with_context(|| {
        let about = format!("involvedObject.name={name}");
        let words = ["get", "events", "-n", SPACE, "--field-selector", &about];
        let events = cluster.ask(&words).unwrap_or_default();
        format!("it is {last}; {events}")
    })
}

/// Deletes a pod, and waits until it is gone.
pub(super) fn gone(cluster: &Cluster, name: &str) -> Result<()> {
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let words = ["delete", "pod", name, "-n", SPACE, "--ignore-not-found"];
    cluster.ask(&[&words[..], &[&limit]].concat()).map(|_| ())
}

/// Deletes all pods, and what makes pods.
pub(super) fn none(cluster: &Cluster) -> Result<()> {
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let words = ["delete", "deployment,pod", "--all", "-n", SPACE, &limit];
    cluster.ask(&words).map(|_| ())
}

/// What a pod was told of its devices, as its environment has it.
pub(super) fn told(cluster: &Cluster, name: &str) -> Result<String> {
    let line = format!("echo ${TOLD}");
    let said = pods::exec(cluster, SPACE, name, &["sh", "-c", &line])?;
    let said = said.trim().to_owned();
    ensure!(!said.is_empty(), "{name} was told of no device");
    Ok(said)
}

/// What a container printed last that begins with `told`.
pub(super) fn log(cluster: &Cluster, name: &str, container: &str) -> Result<String> {
    until(LIMIT, &format!("{name} has said its device"), || {
        let log = cluster.ask(&["logs", name, "-c", container, "-n", SPACE]);
        let log = log.unwrap_or_default();
        let line = log
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("told "));
        Ok(line.map(|line| line.trim().to_owned()))
    })
}

/// As podresources names a pod's container.
pub(super) fn who(name: &str) -> String {
    format!("{SPACE}/{name}/consumer")
}

/// Of a pod's first container: its id, and how often it was started anew.
pub(super) fn life(cluster: &Cluster, name: &str) -> Result<(String, u64)> {
    let pod = get(cluster, name)?;
    let status = &pod["status"]["containerStatuses"][0];
    let id = status["containerID"].as_str().unwrap_or_default();
    let restarts = status["restartCount"].as_u64().context("a count")?;
    Ok((id.to_owned(), restarts))
}
