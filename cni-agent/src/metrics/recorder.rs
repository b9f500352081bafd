//! Counters and histograms of what this process did.

use super::{DeviceCounts, VolumeCounts};
use crate::cni::protocol::Command;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use std::{sync::atomic::AtomicU64, time::Duration};

/// Upper bounds in seconds: an ADD takes milliseconds, a node in distress seconds.
const CALL_SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];
const PASS_SECONDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Close around 50 ms, which most changes of endpoints shall be below.
const ENDPOINTS_SECONDS: [f64; 11] = [
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct CommandCode {
    command: &'static str,
    code: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct CommandLabel {
    command: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ResultLabel {
    result: &'static str,
}

/// Counts since the agent started; a copy counts into the same.
#[derive(Clone, Debug)]
pub struct Recorder {
    pub(super) requests: Family<CommandCode, Counter>,
    pub(super) seconds: Family<CommandLabel, Histogram, fn() -> Histogram>,
    pub(super) passes: Passes,
    pub(super) volumes: VolumeCounts,
    pub(super) devices: DeviceCounts,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            passes: Passes::default(),
            volumes: VolumeCounts::default(),
            devices: DeviceCounts::default(),
        }
    }
}

impl Recorder {
    /// Counts an answered CNI call; `code` is 0 for a success and else the CNI error's.
    pub fn answered(&self, command: Command, code: u32, took: Duration) {
        let command = name(command);
        self.requests
            .get_or_create(&CommandCode { command, code })
            .inc();
        self.seconds
            .get_or_create(&CommandLabel { command })
            .observe(took.as_secs_f64());
    }

    /// Where the CSI driver counts.
    pub fn volumes(&self) -> VolumeCounts {
        self.volumes.clone()
    }

    /// Where the devices' part counts.
    pub fn devices(&self) -> DeviceCounts {
        self.devices.clone()
    }

    /// Where the reconciler counts its passes.
    pub fn passes(&self) -> Passes {
        self.passes.clone()
    }
}

const fn name(command: Command) -> &'static str {
    match command {
        Command::Add => "ADD",
        Command::Del => "DEL",
        Command::Check => "CHECK",
        Command::Gc => "GC",
        Command::Status => "STATUS",
    }
}

/// Passes of the reconciler.
#[derive(Clone, Debug)]
pub struct Passes {
    pub(super) total: Family<ResultLabel, Counter>,
    pub(super) seconds: Histogram,
    /// Unix time.
    pub(super) last_success: Gauge<u64, AtomicU64>,
    pub(super) endpoints: Histogram,
}

impl Default for Passes {
    fn default() -> Self {
        Self {
            total: Family::default(),
            seconds: Histogram::new(PASS_SECONDS),
            last_success: Gauge::default(),
            endpoints: Histogram::new(ENDPOINTS_SECONDS),
        }
    }
}

impl Passes {
    /// News of an EndpointSlice are in the maps this long after they came.
    pub fn endpoints_written(&self, took: Duration) {
        self.endpoints.observe(took.as_secs_f64());
    }

    /// Counts a pass that ended at `now`, Unix time in seconds. `whole`: the kernel holds all that is
    /// desired.
    pub fn passed(&self, whole: bool, took: Duration, now: u64) {
        let result = if whole { "success" } else { "failure" };
        self.total.get_or_create(&ResultLabel { result }).inc();
        self.seconds.observe(took.as_secs_f64());
        if whole {
            self.last_success.set(now);
        }
    }
}
