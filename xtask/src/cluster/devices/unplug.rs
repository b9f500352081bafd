//! A device that goes while a pod has it, and comes back.

use super::{
    super::place::{Cluster, until},
    LIMIT, NODE, SPACE,
    consumer::{self, stays},
    install::{COUNT, NULL, names},
    kubelet::Kubelet,
    node::{self, Configured},
    watch::{Numbers, Watch},
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

/// From the device's end until the kubelet knows it.
const SOON: Duration = Duration::from_secs(1);
/// What is free is tried this often.
const TIMES: usize = 5;

pub(super) fn run(cluster: &Cluster) -> Result<Vec<String>> {
    // A kubelet writes its Node only so often, ten seconds by default, whatever became of its devices.
    let often = json!({ "nodeStatusUpdateFrequency": "500ms" });
    let often = Configured::begin(cluster, &often)?;
    let kubelet = Kubelet::of(cluster, NODE)?;
    let all = kubelet.has(NULL, COUNT)?;
    let pod = stays("unplugged", &[(NULL, 1)]);
    pod.run(cluster)?;
    let file = consumer::told(cluster, "unplugged")?;
    let life = consumer::life(cluster, "unplugged")?;
    let other = names("null").find(|name| *name != file);
    let other = other.context("another device")?;
    let watch = Watch::begin(cluster, NULL)?;
    let whole = Numbers::new(COUNT as u64, COUNT as u64);
    watch.until(whole)?;

    let (mut gone, mut back) = (Vec::new(), Vec::new());
    let mut nodes = Vec::new();
    let mut written = |wanted, begin: Instant| -> Result<()> {
        watch.until(wanted)?;
        let took = begin.elapsed();
        ensure!(took <= SOON, "the Node has {wanted:?} after {took:?}");
        nodes.push(took);
        Ok(())
    };
    for time in 0..TIMES {
        // The pod's own one every other time.
        let path = if time % 2 == 0 { &file } else { &other };
        let begin = Instant::now();
        node::unplug(cluster, path)?;
        let left = soon(&kubelet, COUNT - 1, begin, &mut gone)?;
        ensure!(left.is_subset(&all), "{left:?} are not of {all:?}");
        // Its capacity stays: it is unhealthy, not forgotten.
        written(Numbers::new(COUNT as u64 - 1, COUNT as u64), begin)?;
        let begin = Instant::now();
        node::plug(cluster, path)?;
        let again = soon(&kubelet, COUNT, begin, &mut back)?;
        ensure!(again == all, "{again:?} are not {all:?}");
        written(whole, begin)?;
    }
    ensure!(
        consumer::life(cluster, "unplugged")? == life,
        "the pod's container is another one"
    );
    let event = event(cluster)?;
    consumer::gone(cluster, "unplugged")?;
    often.end(cluster)?;
    let longest = |times: &[Duration]| {
        let longest = times.iter().max().copied().unwrap_or_default();
        longest.as_millis()
    };
    Ok(vec![
        format!(
            "{TIMES} times gone, known to the kubelet within {} ms; back within {} ms",
            longest(&gone),
            longest(&back)
        ),
        format!(
            "the Node object has it within {} ms, with a kubelet that writes it twice a second; its capacity stays {COUNT}; the pod runs on",
            longest(&nodes)
        ),
        format!("the node's Event: {event}"),
    ])
}

/// What is told of the device that the pod has.
fn event(cluster: &Cluster) -> Result<String> {
    until(LIMIT, "an Event of the node names the pod", || {
        let form = "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
        let about = format!("reason=DeviceUnhealthy,involvedObject.name={NODE}");
        let words = ["get", "events", "--field-selector", &about, "-o", form];
        let told = cluster.ask(&words)?;
        let named = format!("({SPACE}/unplugged has it)");
        let line = told.lines().find(|line| line.contains(&named));
        Ok(line.map(str::to_owned))
    })
}

/// Asks the kubelet until it has so many; how long that took since `begin` is kept.
fn soon(
    kubelet: &Kubelet,
    count: usize,
    begin: Instant,
    times: &mut Vec<Duration>,
) -> Result<BTreeSet<String>> {
    loop {
        let now = kubelet.allocatable(NULL)?;
        if now.len() == count {
            times.push(begin.elapsed());
            return Ok(now);
        }
        let late = begin.elapsed() > SOON;
        ensure!(!late, "{} devices after {SOON:?}, not {count}", now.len());
        // A kubelet answers a hundred times a second.
        thread::sleep(Duration::from_millis(15));
    }
}
