//! Kubernetes' own scenarios of device plugins (test/e2e_node: device_plugin_test.go, device_plugin_failures_test.go,
//! device_plugin_failures_pod_status_test.go), by their names, with our resources in place of its sample's.

use super::{
    super::place::Cluster,
    beside, consumer, failures, lives,
    scenarios::{self, Scenario},
};
use anyhow::Result;

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
    scenarios::run(cluster, &SCENARIOS, words, consumer::none)
}
