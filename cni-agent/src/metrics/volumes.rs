//! Volumes: what the driver did, and what a scrape found of the pool.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

type Count = Gauge<u64, AtomicU64>;

/// Upper bounds in seconds: most calls write to the disk a few times, a large volume that is filled takes longer.
const CALL_SECONDS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];
/// Close around 100 ms, which a cut shall be below.
const HELD_SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallCode {
    call: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    call: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct What {
    what: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    backend: &'static str,
    fs: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VolumeLabel {
    namespace: String,
    claim: String,
    volume: String,
}

/// What the driver counts since the agent started; a copy counts into the same.
#[derive(Clone, Debug)]
pub struct VolumeCounts {
    calls: Family<CallCode, Counter>,
    seconds: Family<Call, Histogram, fn() -> Histogram>,
    recovered: Family<What, Counter>,
    held: Histogram,
    registered: Count,
}

impl Default for VolumeCounts {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            recovered: Family::default(),
            held: Histogram::new(HELD_SECONDS),
            registered: Count::default(),
        }
    }
}

impl VolumeCounts {
    /// Counts an answered call of the driver's interface.
    pub fn answered(&self, call: &str, code: &'static str, took: Duration) {
        let call = call.to_owned();
        self.seconds
            .get_or_create(&Call { call: call.clone() })
            .observe(took.as_secs_f64());
        self.calls.get_or_create(&CallCode { call, code }).inc();
    }

    /// A start put so many things of a kind right.
    pub fn recovered(&self, what: &'static str, count: usize) {
        self.recovered
            .get_or_create(&What { what })
            .inc_by(count as u64);
    }

    /// A volume's file system was held still so long.
    pub fn held(&self, took: Duration) {
        self.held.observe(took.as_secs_f64());
    }

    /// Whether the kubelet has taken the driver.
    pub fn registered(&self, is: bool) {
        self.registered.set(u64::from(is));
    }
}

/// What the pool holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumesSnapshot {
    pub total: u64,
    pub free: u64,
    pub promised: u64,
    pub available: u64,
    /// By back end, file system (`block`: none) and state.
    pub volumes: BTreeMap<(&'static str, String, &'static str), usize>,
    /// By state.
    pub snapshots: BTreeMap<&'static str, usize>,
    /// Volumes that are not well, by reason.
    pub unhealthy: BTreeMap<&'static str, usize>,
    /// Of each volume; none unless asked for.
    pub by_volume: Vec<VolumeUse>,
}

/// How full one volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUse {
    /// Of its claim; empty where it isn't known.
    pub namespace: String,
    pub claim: String,
    pub volume: String,
    pub bytes: u64,
    /// None: not mounted, or raw.
    pub used: Option<u64>,
}

/// What was counted.
pub(super) fn counted(registry: &mut Registry, counts: &VolumeCounts) {
    let help = "Calls of the CSI driver answered, by the code of gRPC";
    registry.register("csi_calls", help, counts.calls.clone());
    registry.register_with_unit(
        "csi_call_duration",
        "Time from a call of the CSI driver to its answer",
        Unit::Seconds,
        counts.seconds.clone(),
    );
    let help = "Whether the kubelet has taken the CSI driver (1) or not yet (0)";
    registry.register("csi_registered", help, counts.registered.clone());
    let help = "What starts of the agent put right in the pool of volumes";
    registry.register("volume_recovered", help, counts.recovered.clone());
    registry.register_with_unit(
        "volume_held",
        "How long a volume's file system was held still while it was cut",
        Unit::Seconds,
        counts.held.clone(),
    );
}

/// What a scrape found.
pub(super) fn found(registry: &mut Registry, volumes: &VolumesSnapshot) {
    let pool = Family::<State, Count>::default();
    for (state, bytes) in [
        ("total", volumes.total),
        ("free", volumes.free),
        ("promised", volumes.promised),
        ("available", volumes.available),
    ] {
        pool.get_or_create(&State { state }).set(bytes);
    }
    registry.register_with_unit(
        "volume_pool",
        "Room of the pool of volumes: all of it, free, promised to what may be written anew, and left for others",
        Unit::Bytes,
        pool,
    );
    let all = Family::<Kind, Count>::default();
    for ((backend, fs, state), count) in &volumes.volumes {
        let fs = fs.clone();
        let kind = Kind { backend, fs, state };
        all.get_or_create(&kind).set(*count as u64);
    }
    registry.register("volumes", "Volumes of this node", all);
    let snapshots = Family::<State, Count>::default();
    for (state, count) in &volumes.snapshots {
        snapshots.get_or_create(&State { state }).set(*count as u64);
    }
    let help = "Snapshots of volumes of this node";
    registry.register("volume_snapshots", help, snapshots);
    let unhealthy = Family::<Reason, Count>::default();
    for (reason, count) in &volumes.unhealthy {
        unhealthy
            .get_or_create(&Reason { reason })
            .set(*count as u64);
    }
    let help = "Volumes that are not well, by reason";
    registry.register("volumes_unhealthy", help, unhealthy);
    by_volume(registry, &volumes.by_volume);
}

/// Of the first volumes: a node has fewer, mostly.
fn by_volume(registry: &mut Registry, volumes: &[VolumeUse]) {
    const MOST_NAMED: usize = 1000;
    if volumes.is_empty() {
        return;
    }
    let (capacity, used) = (
        Family::<VolumeLabel, Count>::default(),
        Family::<VolumeLabel, Count>::default(),
    );
    for of in volumes.iter().take(MOST_NAMED) {
        let label = VolumeLabel {
            namespace: of.namespace.clone(),
            claim: of.claim.clone(),
            volume: of.volume.clone(),
        };
        capacity.get_or_create(&label).set(of.bytes);
        if let Some(bytes) = of.used {
            used.get_or_create(&label).set(bytes);
        }
    }
    let help = "Size of a volume";
    registry.register_with_unit("volume_capacity", help, Unit::Bytes, capacity);
    let help = "What a volume's own file system has in use, where it is mounted";
    registry.register_with_unit("volume_used", help, Unit::Bytes, used);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Recorder, Snapshot, encode};

    #[test]
    fn every_metric_of_volumes_has_the_name_that_the_documentation_lists() {
        let recorder = Recorder::default();
        let counts = recorder.volumes();
        counts.answered("CreateVolume", "Ok", Duration::from_millis(7));
        counts.answered(
            "CreateVolume",
            "ResourceExhausted",
            Duration::from_millis(1),
        );
        counts.recovered("thawed", 2);
        counts.held(Duration::from_millis(4));
        counts.registered(true);
        let volumes = VolumesSnapshot {
            total: 100,
            free: 60,
            promised: 20,
            available: 40,
            volumes: [(("image", "ext4".to_owned(), "published"), 2)].into(),
            snapshots: [("ready", 3)].into(),
            unhealthy: [("ReadOnly", 1)].into(),
            by_volume: vec![VolumeUse {
                namespace: "shop".into(),
                claim: "data".into(),
                volume: "pvc-1".into(),
                bytes: 50,
                used: Some(7),
            }],
        };
        let snapshot = Snapshot {
            version: "1.2.3",
            volumes: Some(volumes),
            ..Snapshot::default()
        };
        let text = encode(&recorder, &snapshot).unwrap();
        let of = "{namespace=\"shop\",claim=\"data\",volume=\"pvc-1\"}";
        for line in [
            "fairlead_csi_calls_total{call=\"CreateVolume\",code=\"Ok\"} 1",
            "fairlead_csi_calls_total{call=\"CreateVolume\",code=\"ResourceExhausted\"} 1",
            "fairlead_csi_call_duration_seconds_bucket{le=\"0.01\",call=\"CreateVolume\"} 2",
            "fairlead_csi_registered 1",
            "fairlead_volume_recovered_total{what=\"thawed\"} 2",
            "fairlead_volume_held_seconds_bucket{le=\"0.005\"} 1",
            "fairlead_volume_pool_bytes{state=\"promised\"} 20",
            "fairlead_volumes{backend=\"image\",fs=\"ext4\",state=\"published\"} 2",
            "fairlead_volume_snapshots{state=\"ready\"} 3",
            "fairlead_volumes_unhealthy{reason=\"ReadOnly\"} 1",
            &format!("fairlead_volume_capacity_bytes{of} 50"),
            &format!("fairlead_volume_used_bytes{of} 7"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        let page = include_str!("../../../docs/metrics.md");
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(page.contains(name), "docs/metrics.md lacks {name}");
        }
    }
}
