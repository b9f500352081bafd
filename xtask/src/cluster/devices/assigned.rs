//! Kubernetes' own scenarios of device plugins (test/e2e_node: device_plugin_test.go, device_plugin_failures_test.go,
//! device_plugin_failures_pod_status_test.go), by their names, with our resources in place of its sample's.

use super::{super::place::Cluster, beside, consumer, failures, lives};
use anyhow::{Result, ensure};
use std::time::Instant;

type Scenario = (&'static str, fn(&Cluster) -> Result<String>);

/// Those of `testdeviceplugin` that make a plugin answer badly are no question to ours, and left out.
const SCENARIOS: [Scenario; 17] = [
    (
        "Can schedule a pod that requires a device",
        beside::requires,
    ),
    (
        "can make a CDI device accessible in a container",
        beside::by_cdi,
    ),
    (
        "Can schedule a pod with a restartable init container",
        beside::restartable_init,
    ),
    ("several resources in one pod", beside::several),
    (
        "Keeps device plugin assignments across pod restarts (no kubelet restart, no device plugin restart)",
        lives::pod,
    ),
    (
        "Keeps device plugin assignments across kubelet restarts (no pod restart, no device plugin restart)",
        lives::kubelet,
    ),
    (
        "Keeps device plugin assignments across pod and kubelet restarts (no device plugin restart)",
        lives::pod_and_kubelet,
    ),
    (
        "Keeps device plugin assignments after the device plugin has restarted (no kubelet restart, pod restart)",
        lives::plugin,
    ),
    (
        "Keeps device plugin assignments after kubelet restart and device plugin restart (no pod restart)",
        lives::kubelet_and_plugin,
    ),
    (
        "[OrphanedPods] Ensures pods consuming devices deleted while kubelet is down are cleaned up correctly",
        lives::orphaned,
    ),
    (
        "will set allocatable to zero when a single device became unhealthy and then back to 1 if it got healthy again",
        failures::single,
    ),
    (
        "will set allocatable to zero when a single device became unhealthy, but capacity will stay at 1",
        failures::single_in_use,
    ),
    (
        "will lower allocatable to a number of unhealthy devices and then back if they became healthy again",
        failures::several,
    ),
    (
        "will report a Healthy and then Unhealthy single device in the pod status",
        failures::told_in_status,
    ),
    (
        "when device plugin is stopped after provisioning devices, node allocatable will be set to zero",
        failures::stopped,
    ),
    (
        "will not attempt to admit the succeeded pod after the kubelet restart and device plugin removed",
        lives::succeeded,
    ),
    (
        "across node reboots: pods come back with devices, and none is had twice",
        lives::reboot,
    ),
];

/// All of them, or those with these words in their name.
pub(super) fn run(cluster: &Cluster, words: Option<&str>) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    let mut failed = Vec::new();
    let wanted = SCENARIOS
        .iter()
        .filter(|(name, _)| words.is_none_or(|words| name.contains(words)));
    for (name, scenario) in wanted {
        let start = Instant::now();
        let done = scenario(cluster);
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(said) => seen.push(format!("{name} ({seconds:.1} s): {said}")),
            Err(error) => failed.push(format!("{name} ({seconds:.1} s): {error:#}")),
        }
        // The next one finds every device free.
        consumer::none(cluster)?;
    }
    ensure!(
        failed.is_empty(),
        "{} of {} scenarios do not hold:\n        {}\nthese do:\n        {}",
        failed.len(),
        failed.len() + seen.len(),
        failed.join("\n        "),
        seen.join("\n        ")
    );
    ensure!(!seen.is_empty(), "no scenario has such a name");
    seen.insert(0, format!("{} scenarios", seen.len()));
    Ok(seen)
}
