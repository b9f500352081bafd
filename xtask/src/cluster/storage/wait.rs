//! What steps wait for, and what they look at.

use super::{
    super::{
        place::{Cluster, until},
        pods,
    },
    LIMIT, SPACE,
    objects::AT,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The object as the API server has it.
pub(super) fn get(cluster: &Cluster, kind: &str, name: &str) -> Result<Value> {
    let text = cluster.ask(&["get", kind, name, "-n", SPACE, "-o", "json"])?;
    serde_json::from_str(&text).with_context(|| format!("reading {kind} {name}"))
}

/// Waits until an object's field is so.
///
/// # Errors
/// When it isn't in time; with the object's events.
pub(super) fn field(
    cluster: &Cluster,
    kind: &str,
    name: &str,
    pointer: &str,
    is: &str,
) -> Result<Value> {
    let mut last = Value::Null;
    let found = until(
        LIMIT,
        &format!("{pointer} of {kind} {name} is {is}"),
        || {
            let object = get(cluster, kind, name)?;
            let field = object.pointer(pointer);
            let now = field.map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            last = field.cloned().unwrap_or_default();
            Ok((now.as_deref() == Some(is)).then_some(object))
        },
    );
    found.with_context(|| {
        let about = format!("involvedObject.name={name}");
        let words = ["get", "events", "-n", SPACE, "--field-selector", &about];
        let events = cluster.ask(&words).unwrap_or_default();
        format!("it is {last}; {events}")
    })
}

/// Waits until a claim has its volume, and answers the PersistentVolume.
pub(super) fn bound(cluster: &Cluster, claim: &str) -> Result<Value> {
    let claim = field(cluster, "pvc", claim, "/status/phase", "Bound")?;
    let volume = text(&claim, "/spec/volumeName")?;
    get(cluster, "pv", &volume)
}

/// Waits until a pod runs, and answers its node.
pub(super) fn runs(cluster: &Cluster, pod: &str) -> Result<String> {
    let pod = field(cluster, "pod", pod, "/status/phase", "Running")?;
    text(&pod, "/spec/nodeName")
}

/// Waits until an object is gone.
pub(super) fn gone(cluster: &Cluster, kind: &str, name: &str) -> Result<()> {
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let words = ["delete", kind, name, "-n", SPACE, "--ignore-not-found"];
    cluster.ask(&[&words[..], &[&limit]].concat()).map(|_| ())
}

pub(super) fn text(object: &Value, pointer: &str) -> Result<String> {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.map(ToOwned::to_owned)
        .with_context(|| format!("there is no {pointer} in {object}"))
}

/// Runs a line of a shell in a pod.
pub(super) fn sh(cluster: &Cluster, pod: &str, line: &str) -> Result<String> {
    let said = pods::exec(cluster, SPACE, pod, &["sh", "-c", line])?;
    Ok(said.trim().to_owned())
}

/// How many bytes a pod's file system has, as its pod sees it.
pub(super) fn bytes(cluster: &Cluster, pod: &str) -> Result<u64> {
    let line = format!("df -k {AT} | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2");
    let kilobytes: u64 = sh(cluster, pod, &line)?.parse().context("a size of df")?;
    Ok(kilobytes * 1024)
}

/// Whether a file system is about as large as its volume: it has a journal and tables of its own.
pub(super) fn fits(seen: u64, promised: u64) -> Result<()> {
    ensure!(
        seen <= promised && seen >= promised / 100 * 80,
        "the pod sees {seen} bytes of the {promised} that were promised"
    );
    Ok(())
}
