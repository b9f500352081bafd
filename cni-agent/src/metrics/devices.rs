//! Devices: what the part did, and what a scrape found.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

type Count = Gauge<u64, AtomicU64>;

/// Upper bounds in seconds: an answer is made from memory.
const CALL_SECONDS: [f64; 10] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0, 10.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    resource: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    resource: String,
    state: &'static str,
}

/// What the part counts since the agent started; a copy counts into the same.
#[derive(Clone, Debug)]
pub struct DeviceCounts {
    allocations: Family<Outcome, Counter>,
    seconds: Histogram,
    registrations: Family<Of, Counter>,
    registered: Family<Of, Count>,
    mended: Family<Of, Counter>,
}

impl Default for DeviceCounts {
    fn default() -> Self {
        Self {
            allocations: Family::default(),
            seconds: Histogram::new(CALL_SECONDS),
            registrations: Family::default(),
            registered: Family::default(),
            mended: Family::default(),
        }
    }
}

fn of(resource: &str) -> Of {
    Of {
        resource: resource.to_owned(),
    }
}

impl DeviceCounts {
    /// A container was given devices, or was not.
    pub fn allocated(&self, resource: &str, whole: bool, took: Duration) {
        let result = if whole { "success" } else { "failure" };
        let resource = resource.to_owned();
        self.allocations
            .get_or_create(&Outcome { resource, result })
            .inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// The kubelet was asked to take a resource.
    pub fn asked(&self, resource: &str) {
        self.registrations.get_or_create(&of(resource)).inc();
    }

    /// Whether it has it.
    pub fn registered(&self, resource: &str, is: bool) {
        self.registered
            .get_or_create(&of(resource))
            .set(u64::from(is));
    }

    /// It had it and knew nothing of the devices: it was told anew.
    pub fn mended(&self, resource: &str) {
        self.mended.get_or_create(&of(resource)).inc();
    }

    /// A resource is served no more.
    pub fn forget(&self, resource: &str) {
        self.registered.remove(&of(resource));
    }
}

/// What the node has of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicesSnapshot {
    /// By resource: healthy, unhealthy, held by containers.
    pub resources: BTreeMap<String, DeviceNumbers>,
    /// Faults in the configuration.
    pub problems: usize,
}

/// Devices of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceNumbers {
    pub healthy: usize,
    pub unhealthy: usize,
    /// None: the kubelet didn't say.
    pub allocated: Option<usize>,
}

/// What was counted.
pub(super) fn counted(registry: &mut Registry, counts: &DeviceCounts) {
    let help = "Containers that were given devices (success), or could not be (failure)";
    registry.register("device_allocations", help, counts.allocations.clone());
    registry.register_with_unit(
        "device_allocation_duration",
        "Time from the kubelet's call of Allocate to its answer",
        Unit::Seconds,
        counts.seconds.clone(),
    );
    let help = "Times that the kubelet was asked to take a resource";
    registry.register("device_registrations", help, counts.registrations.clone());
    let help = "Whether the kubelet has the resource (1) or not (0)";
    registry.register("device_registered", help, counts.registered.clone());
    let help = "Times that the kubelet had a resource and knew nothing of its devices";
    registry.register("device_mended", help, counts.mended.clone());
}

/// What a scrape found.
pub(super) fn found(registry: &mut Registry, devices: &DevicesSnapshot) {
    let states = Family::<State, Count>::default();
    let allocated = Family::<Of, Count>::default();
    for (resource, numbers) in &devices.resources {
        for (state, count) in [
            ("healthy", numbers.healthy),
            ("unhealthy", numbers.unhealthy),
        ] {
            let resource = resource.clone();
            states
                .get_or_create(&State { resource, state })
                .set(count as u64);
        }
        if let Some(held) = numbers.allocated {
            allocated.get_or_create(&of(resource)).set(held as u64);
        }
    }
    registry.register("devices", "Devices of this node, by health", states);
    let help = "Devices that containers hold, as the kubelet says";
    registry.register("devices_allocated", help, allocated);
    let problems = Count::default();
    problems.set(devices.problems as u64);
    let help = "Faults in the configuration of devices: while there is one, what was in force before goes on";
    registry.register("device_configuration_problems", help, problems);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Recorder, Snapshot, encode};

    #[test]
    fn every_metric_of_devices_has_the_name_that_the_documentation_lists() {
        let recorder = Recorder::default();
        let counts = recorder.devices();
        counts.allocated("a.io/x", true, Duration::from_micros(300));
        counts.allocated("a.io/x", false, Duration::from_micros(300));
        counts.asked("a.io/x");
        counts.registered("a.io/x", true);
        counts.registered("a.io/gone", true);
        counts.forget("a.io/gone");
        counts.mended("a.io/x");
        let numbers = DeviceNumbers {
            healthy: 3,
            unhealthy: 1,
            allocated: Some(2),
        };
        let devices = DevicesSnapshot {
            resources: [("a.io/x".to_owned(), numbers)].into(),
            problems: 1,
        };
        let snapshot = Snapshot {
            version: "1.2.3",
            devices: Some(devices),
            ..Snapshot::default()
        };
        let text = encode(&recorder, &snapshot).unwrap();
        for line in [
            "fairlead_device_allocations_total{resource=\"a.io/x\",result=\"success\"} 1",
            "fairlead_device_allocations_total{resource=\"a.io/x\",result=\"failure\"} 1",
            "fairlead_device_allocation_duration_seconds_bucket{le=\"0.0005\"} 2",
            "fairlead_device_registrations_total{resource=\"a.io/x\"} 1",
            "fairlead_device_registered{resource=\"a.io/x\"} 1",
            "fairlead_device_mended_total{resource=\"a.io/x\"} 1",
            "fairlead_devices{resource=\"a.io/x\",state=\"healthy\"} 3",
            "fairlead_devices{resource=\"a.io/x\",state=\"unhealthy\"} 1",
            "fairlead_devices_allocated{resource=\"a.io/x\"} 2",
            "fairlead_device_configuration_problems 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("a.io/gone"), "{text}");
        let page = include_str!("../../../docs/metrics.md");
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(page.contains(name), "docs/metrics.md lacks {name}");
        }
    }
}
