//! Devices that go and come back: no new claim gets them, and pods that have one are told.

use super::{
    super::{
        super::place::{Cluster, until},
        LIMIT, consumer,
        install::names,
        node,
    },
    held,
    holder::{Holder, event, field, has_no_place},
    objects::{CLASS, From, one, pod, template, with_file},
    slices,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// From the device's end until the API server has its taint.
const SOON: Duration = Duration::from_secs(5);

fn file(number: usize) -> Result<String> {
    names("claimed").nth(number).context("so many devices")
}

/// Waits until the slices say of a file's device that it is well, or that it isn't; answers how long that took.
fn is(cluster: &Cluster, file: &str, healthy: bool) -> Result<Duration> {
    let begin = Instant::now();
    until(
        SOON,
        &format!("the slices say of {file}: {healthy}"),
        || {
            let told = slices::told(cluster)?;
            let of = told.values().find(|of| of.path == file);
            Ok(of.filter(|of| of.is_healthy == healthy).map(|_| ()))
        },
    )?;
    Ok(begin.elapsed())
}

/// A device that is away is given to no new pod, and to the one that waits for it when it is back.
pub(super) fn not_scheduled(cluster: &Cluster) -> Result<String> {
    let file = file(3)?;
    node::unplug(cluster, &file)?;
    let gone = is(cluster, &file, false)?;
    cluster.apply(&[template("fourth", &[with_file("device", &file)])])?;
    cluster.apply(&[pod("claim-waits", From::Template("fourth"))])?;
    let why = has_no_place(cluster, "claim-waits")?;
    // Whoever asks for any has another one.
    cluster.apply(&[template("any", &[one("device", CLASS)])])?;
    let other = Holder::run(cluster, &pod("claim-other", From::Template("any")))?;
    ensure!(other.file != file, "a new pod has it");
    node::plug(cluster, &file)?;
    let back = is(cluster, &file, true)?;
    let waits = Holder::running(cluster, "claim-waits")?;
    held::is_prepared(cluster, &[&other.claim, &waits.claim])?;
    Ok(format!(
        "tainted within {} ms: a pod that asks for it waits ({why}), another one has {}; without taint {} ms after it is back, \
         and the pod has it",
        gone.as_millis(),
        other.file,
        back.as_millis()
    ))
}

/// Who tolerates the taint is given it, and starts when it is back.
pub(super) fn tolerated(cluster: &Cluster) -> Result<String> {
    let file = file(2)?;
    node::unplug(cluster, &file)?;
    is(cluster, &file, false)?;
    let mut request = with_file("device", &file);
    request["exactly"]["tolerations"] = json!([{ "operator": "Exists" }]);
    cluster.apply(&[template("tolerant", &[request])])?;
    cluster.apply(&[pod("claim-tolerant", From::Template("tolerant"))])?;
    let why = event(cluster, "claim-tolerant", "NodePrepareResources failed")?;
    held::is_prepared(cluster, &[])?;
    node::plug(cluster, &file)?;
    let holder = Holder::running(cluster, "claim-tolerant")?;
    ensure!(holder.file == file, "it has {}", holder.file);
    let why = why.find("device ").map_or(&*why, |at| &why[at..]);
    Ok(format!(
        "\"{}\"; it starts when the device is back",
        why.trim()
    ))
}

/// The status of a pod says how its device is.
pub(super) fn told_in_status(cluster: &Cluster) -> Result<String> {
    let file = file(1)?;
    cluster.apply(&[template("second", &[with_file("device", &file)])])?;
    let holder = Holder::run(cluster, &pod("claim-health", From::Template("second")))?;
    let says = |health: &str| {
        let begin = Instant::now();
        let mut last = String::new();
        let told = until(LIMIT, &format!("the pod's status says {health}"), || {
            let path = ".status.containerStatuses[0].allocatedResourcesStatus";
            last = field(cluster, "claim-health", path)?;
            let all: Value = serde_json::from_str(&last).unwrap_or_default();
            let of = all[0].clone();
            Ok((of["resources"][0]["health"] == health).then_some(of))
        });
        let told = told.with_context(|| format!("it says {last}"))?;
        Ok::<_, anyhow::Error>((told, begin.elapsed()))
    };
    let (well, _) = says("Healthy")?;
    node::unplug(cluster, &file)?;
    let (sick, after) = says("Unhealthy")?;
    let message = sick["resources"][0]["message"].as_str().unwrap_or_default();
    ensure!(!message.is_empty(), "it says nothing of why: {sick}");
    holder.keeps(cluster)?;
    node::plug(cluster, &file)?;
    let (_, back) = says("Healthy")?;
    holder.keeps(cluster)?;
    let life = consumer::life(cluster, "claim-health")?;
    ensure!(life.1 == 0, "its container was started anew");
    Ok(format!(
        "{}: Healthy, Unhealthy after {} ms (\"{message}\"), Healthy {} ms after it is back; the pod runs on",
        well["name"],
        after.as_millis(),
        back.as_millis()
    ))
}
