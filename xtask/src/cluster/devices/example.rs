//! The specification's example, as its reader does it: a DaemonSet, `kubectl get node -w`, a pod and its `env`.

use super::{
    super::{
        objects::BUSYBOX,
        parts,
        place::{Cluster, until},
        pods,
    },
    LIMIT,
    watch::Watch,
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

const RESOURCE: &str = "extend-k8s.io/example";
const POD: &str = "device-plugin-consumer";
/// How long the node is looked at.
const WATCHED: Duration = Duration::from_secs(60);
/// So many numbers have to be seen.
const DIFFERENT: usize = 3;

pub(super) fn run(cluster: &Cluster) -> Result<Vec<String>> {
    let folder = files(cluster)?;
    let folder = folder.to_string_lossy();
    cluster.ask(&["apply", "-f", &folder])?;
    let seen = walk(cluster);
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let words = ["delete", "-f", &folder, "--ignore-not-found", &limit];
    let gone = cluster.ask(&words).map(|_| ());
    let seen = seen?;
    gone?;
    Ok(seen)
}

/// `deploy/devices/example`, with busybox's name of this cluster, where nothing is pulled.
fn files(cluster: &Cluster) -> Result<PathBuf> {
    let folder = cluster.dir().join("example");
    fs::create_dir_all(&folder)?;
    for name in ["daemonset.yaml", "consumer.yaml"] {
        let from = workspace::root().join("deploy/devices/example").join(name);
        let text = fs::read_to_string(from)?;
        let text = text.replace("image: busybox:1.37", &format!("image: {BUSYBOX}"));
        fs::write(folder.join(name), text)?;
    }
    Ok(folder)
}

fn walk(cluster: &Cluster) -> Result<Vec<String>> {
    parts::rolled_out(cluster, "daemonset/device-plugin-example", LIMIT)?;
    let watch = Watch::begin(cluster, RESOURCE)?;
    let begin = Instant::now();
    let mut numbers = Vec::new();
    let mut different = Vec::new();
    while different.len() < DIFFERENT {
        let told = watch.next(begin + WATCHED)?;
        let (_, now) = told.with_context(|| {
            format!("within {WATCHED:?} the node's {RESOURCE} was {numbers:?} and no other")
        })?;
        let Some(now) = now.allocatable.filter(|now| *now > 0) else {
            continue;
        };
        ensure!(now <= 5, "{now} devices, and 1 to 5 are promised");
        if numbers.last() != Some(&now) {
            numbers.push(now);
        }
        if !different.contains(&now) {
            different.push(now);
        }
    }
    let watched = begin.elapsed().as_secs_f64();
    // It may have been applied before the node had any device.
    let ready = ["wait", "--for=condition=Ready", "pod", POD];
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    cluster
        .ask(&[&ready[..], &[&limit]].concat())
        .context("the consumer does not run")?;
    let environment = pods::exec(cluster, "default", POD, &["env"])?;
    let told = environment
        .lines()
        .find(|line| line.starts_with("K8S_DEVICE_PLUGIN_EXAMPLE="));
    let told = told.context("the consumer's env has no K8S_DEVICE_PLUGIN_EXAMPLE")?;
    let (_, value) = told.split_once('=').context("a value")?;
    ensure!(
        !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{told} is not hexadecimal"
    );
    // What `kubectl logs` shows is the same: the container printed its own.
    until(LIMIT, "the consumer has printed its environment", || {
        let log = cluster.ask(&["logs", POD])?;
        Ok(log.contains(told).then_some(()))
    })?;
    Ok(vec![
        format!("allocatable of {RESOURCE} over {watched:.0} s: {numbers:?}"),
        format!("env of {POD}: {told}"),
    ])
}
