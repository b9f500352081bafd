//! The text of a scrape.

use super::{NetworkSnapshot, Recorder, Snapshot, devices, volumes};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use std::{fmt, hash::Hash, sync::atomic::AtomicU64};

type Count = Gauge<u64, AtomicU64>;
/// What is more can't be written as a gauge: the whole scrape would fail.
const MOST: u64 = i64::MAX as u64;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Pool {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PodReason {
    namespace: String,
    pod: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabel {
    namespace: String,
    service: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyKind {
    kind: String,
    tier: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabel {
    kind: String,
    namespace: String,
    policy: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Path {
    path: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Map {
    map: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartLabel {
    part: String,
}

/// The OpenMetrics text of what was recorded and found. A registry of its own for each scrape: what is
/// gone (a pod, a podCIDR) leaves no series behind.
///
/// # Errors
/// None at present; a value that has no text would be one.
pub fn encode(recorder: &Recorder, snapshot: &Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("fairlead");
    let version = Info::new([("version", snapshot.version)]);
    registry.register("build", "The running release", version);
    parts(&mut registry, snapshot);
    recorded(&mut registry, recorder);
    if let Some(network) = &snapshot.network {
        held(&mut registry, network);
        carried(&mut registry, network);
        by_pod(&mut registry, network);
        services(&mut registry, network);
        policies(&mut registry, network);
    }
    volumes::counted(&mut registry, &recorder.volumes);
    if let Some(found) = &snapshot.volumes {
        volumes::found(&mut registry, found);
    }
    devices::counted(&mut registry, &recorder.devices);
    if let Some(found) = &snapshot.devices {
        devices::found(&mut registry, found);
    }
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

fn parts(registry: &mut Registry, snapshot: &Snapshot) {
    let (up, restarts) = (
        Family::<PartLabel, Count>::default(),
        Family::<PartLabel, Counter>::default(),
    );
    for (name, state) in &snapshot.parts {
        let label = PartLabel { part: name.clone() };
        up.get_or_create(&label).set(u64::from(state.running));
        restarts
            .get_or_create(&label)
            .inc_by(u64::from(state.restarts));
    }
    registry.register("part_up", "Whether the part runs (1) or is down (0)", up);
    let help = "Restarts of a part that failed, since the agent started";
    registry.register("part_restarts", help, restarts);
}

fn recorded(registry: &mut Registry, recorder: &Recorder) {
    let help = "CNI calls answered, by the code of the answer (0: success)";
    registry.register("cni_requests", help, recorder.requests.clone());
    registry.register_with_unit(
        "cni_request_duration",
        "Time from a CNI call to its answer",
        Unit::Seconds,
        recorder.seconds.clone(),
    );
    let passes = &recorder.passes;
    let help = "Passes of the reconciler; success: the kernel holds all that is desired";
    registry.register("reconcile", help, passes.total.clone());
    registry.register_with_unit(
        "reconcile_duration",
        "Time of a pass of the reconciler",
        Unit::Seconds,
        passes.seconds.clone(),
    );
    registry.register_with_unit(
        "reconcile_last_success_timestamp",
        "Unix time of the last pass that succeeded, 0 before the first",
        Unit::Seconds,
        passes.last_success.clone(),
    );
    registry.register_with_unit(
        "service_endpoints_duration",
        "Time from news of an EndpointSlice to the maps that have them",
        Unit::Seconds,
        passes.endpoints.clone(),
    );
}

fn held(registry: &mut Registry, network: &NetworkSnapshot) {
    let endpoints = Count::default();
    endpoints.set(network.endpoints as u64);
    registry.register("endpoints", "Pods' interfaces on this node", endpoints);

    let addresses = Family::<Pool, Count>::default();
    for row in &network.ipam {
        // More than a gauge holds: as many as it holds.
        let free = row.total.saturating_sub(row.used + row.cooling);
        for (state, value) in [("used", row.used), ("cooling", row.cooling), ("free", free)] {
            let pool = row.prefix.to_string();
            let label = Pool { pool, state };
            let value = u64::try_from(value).unwrap_or(MOST).min(MOST);
            addresses.get_or_create(&label).set(value);
        }
    }
    let help =
        "Addresses of each podCIDR of this node, by state: used, cooling (released of late), free";
    registry.register("ipam_addresses", help, addresses);

    let (entries, capacity) = (
        Family::<Map, Count>::default(),
        Family::<Map, Count>::default(),
    );
    for fill in &network.maps {
        let label = Map { map: fill.map };
        entries.get_or_create(&label).set(fill.entries as u64);
        capacity.get_or_create(&label).set(fill.capacity.into());
    }
    registry.register("map_entries", "Rows in the map", entries);
    registry.register("map_capacity", "Most rows that the map takes", capacity);
}

fn carried(registry: &mut Registry, network: &NetworkSnapshot) {
    let (packets, bytes) = (
        Family::<Reason, Counter>::default(),
        Family::<Reason, Counter>::default(),
    );
    for (reason, dropped, size) in &network.drops {
        let label = Reason {
            reason: (*reason).to_owned(),
        };
        packets.get_or_create(&label).inc_by(*dropped);
        bytes.get_or_create(&label).inc_by(*size);
    }
    registry.register("drop_packets", "Packets dropped, by reason", packets);
    registry.register("drop_bytes", "Bytes of packets dropped, by reason", bytes);

    let (packets, bytes) = (
        Family::<Path, Counter>::default(),
        Family::<Path, Counter>::default(),
    );
    for row in &network.paths {
        let label = Path {
            path: row.path.clone(),
        };
        packets.get_or_create(&label).inc_by(row.packets);
        bytes.get_or_create(&label).inc_by(row.bytes);
    }
    let help = "Packets carried, by the way they took";
    registry.register("path_packets", help, packets);
    let help = "Bytes of packets carried, by the way they took";
    registry.register("path_bytes", help, bytes);
}

fn by_pod(registry: &mut Registry, network: &NetworkSnapshot) {
    if network.pod_drops.is_empty() {
        return;
    }
    let (packets, bytes) = (
        Family::<PodReason, Counter>::default(),
        Family::<PodReason, Counter>::default(),
    );
    for row in &network.pod_drops {
        let label = PodReason {
            namespace: row.namespace.clone(),
            pod: row.pod.clone(),
            reason: row.reason.clone(),
        };
        // A pod with two interfaces has a row for each.
        packets.get_or_create(&label).inc_by(row.packets);
        bytes.get_or_create(&label).inc_by(row.bytes);
    }
    let help = "Packets dropped of living pods of this node, by reason";
    registry.register("endpoint_drop_packets", help, packets);
    let help = "Bytes of packets dropped of living pods of this node, by reason";
    registry.register("endpoint_drop_bytes", help, bytes);
}

fn services(registry: &mut Registry, network: &NetworkSnapshot) {
    if let Some(counts) = &network.services {
        for (name, help, value) in [
            ("services", "Services in the maps", counts.services),
            (
                "service_frontends",
                "Addresses and ports of Services in the maps",
                counts.frontends,
            ),
            (
                "service_backends",
                "Backends in the maps, of each address and port",
                counts.backends,
            ),
            (
                "service_frontends_refused",
                "Addresses and ports of Services that found no room in the maps",
                counts.refused,
            ),
        ] {
            let gauge = Count::default();
            gauge.set(value as u64);
            registry.register(name, help, gauge);
        }
    }
    if network.service_flows.is_empty() {
        return;
    }
    let flows = Family::<ServiceLabel, Count>::default();
    for row in &network.service_flows {
        let label = ServiceLabel {
            namespace: row.namespace.clone(),
            service: row.service.clone(),
        };
        flows.get_or_create(&label).set(row.flows);
    }
    let help = "Flows to the Service that the programs remember; without a name: of all others";
    registry.register("service_flows", help, flows);
}

/// Series by name of those that select a pod here, the first of them: what a cluster has more of says nothing of
/// this node.
fn policies(registry: &mut Registry, network: &NetworkSnapshot) {
    const MOST_NAMED: usize = 1000;
    let all = Family::<PolicyKind, Count>::default();
    let pods = Family::<PolicyLabel, Count>::default();
    for row in &network.policies {
        let kind = PolicyKind {
            kind: row.kind.clone(),
            tier: row.tier.clone(),
        };
        all.get_or_create(&kind).inc();
    }
    let here = network.policies.iter().filter(|row| !row.pods.is_empty());
    for row in here.take(MOST_NAMED) {
        let label = PolicyLabel {
            kind: row.kind.clone(),
            namespace: row.namespace.clone(),
            policy: row.name.clone(),
        };
        pods.get_or_create(&label).set(row.pods.len() as u64);
    }
    registry.register("policies", "Policies of the cluster", all);
    let help = "Pods of this node that the policy selects";
    registry.register("policy_pods", help, pods);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cni::protocol::Command,
        metrics::{MapFill, PodDrops, ServiceCounts, ServiceFlows},
        parts::PartState,
        query::{IpamRow, PathRow, PolicyRow},
    };
    use std::{collections::BTreeMap, time::Duration};

    fn network() -> NetworkSnapshot {
        NetworkSnapshot {
            endpoints: 3,
            ipam: vec![IpamRow {
                prefix: "100.11.0.0/24".parse().unwrap(),
                total: 254,
                used: 3,
                cooling: 1,
            }],
            drops: vec![("source_address", 7, 700)],
            paths: vec![PathRow {
                path: "to_pod".to_owned(),
                packets: 9,
                bytes: 90,
            }],
            maps: vec![MapFill {
                map: "endpoints",
                entries: 3,
                capacity: 4096,
            }],
            pod_drops: Vec::new(),
            services: Some(ServiceCounts {
                services: 3,
                frontends: 4,
                backends: 9,
                refused: 1,
            }),
            service_flows: Vec::new(),
            policies: Vec::new(),
        }
    }

    #[test]
    fn a_pool_with_more_addresses_than_a_gauge_holds_does_not_take_the_scrape_away() {
        let mut network = network();
        network.ipam[0].prefix = "fd00:11::/64".parse().unwrap();
        network.ipam[0].total = (1 << 64) - 2;
        let snapshot = Snapshot {
            version: "1.2.3",
            parts: BTreeMap::new(),
            network: Some(network),
            volumes: None,
            devices: None,
        };
        let text = encode(&Recorder::default(), &snapshot).unwrap();
        let free = format!("{{pool=\"fd00:11::/64\",state=\"free\"}} {}", i64::MAX);
        assert!(text.contains(&free), "{text}");
    }

    #[test]
    fn every_metric_has_the_name_that_the_documentation_lists() {
        let recorder = Recorder::default();
        recorder.answered(Command::Add, 0, Duration::from_millis(3));
        recorder.answered(Command::Add, 11, Duration::from_millis(3));
        recorder
            .passes()
            .passed(true, Duration::from_millis(2), 1_700_000_000);
        let state = PartState {
            running: true,
            restarts: 2,
            last_failure: None,
        };
        let mut network = network();
        network.pod_drops = vec![PodDrops {
            namespace: "shop".to_owned(),
            pod: "cart".to_owned(),
            reason: "loopback".to_owned(),
            packets: 1,
            bytes: 60,
        }];
        network.service_flows = vec![ServiceFlows {
            namespace: "shop".to_owned(),
            service: "web".to_owned(),
            flows: 12,
        }];
        let policy = |name: &str, pods: &[&str]| PolicyRow {
            tier: "NetworkPolicy".into(),
            priority: None,
            kind: "NetworkPolicy".into(),
            namespace: "shop".into(),
            name: name.into(),
            ingress: Some(1),
            egress: None,
            pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
            problems: Vec::new(),
        };
        network.policies = vec![policy("web", &["shop/a", "shop/b"]), policy("far", &[])];
        recorder
            .passes()
            .endpoints_written(Duration::from_millis(25));
        let snapshot = Snapshot {
            version: "1.2.3",
            parts: BTreeMap::from([("network".to_owned(), state)]),
            network: Some(network),
            volumes: None,
            devices: None,
        };
        let text = encode(&recorder, &snapshot).unwrap();
        for line in [
            "fairlead_build_info{version=\"1.2.3\"} 1",
            "fairlead_part_up{part=\"network\"} 1",
            "fairlead_part_restarts_total{part=\"network\"} 2",
            "fairlead_cni_requests_total{command=\"ADD\",code=\"0\"} 1",
            "fairlead_cni_requests_total{command=\"ADD\",code=\"11\"} 1",
            "fairlead_cni_request_duration_seconds_bucket{le=\"0.005\",command=\"ADD\"} 2",
            "fairlead_reconcile_total{result=\"success\"} 1",
            "fairlead_reconcile_duration_seconds_count 1",
            "fairlead_reconcile_last_success_timestamp_seconds 1700000000",
            "fairlead_endpoints 3",
            "fairlead_ipam_addresses{pool=\"100.11.0.0/24\",state=\"used\"} 3",
            "fairlead_ipam_addresses{pool=\"100.11.0.0/24\",state=\"free\"} 250",
            "fairlead_drop_packets_total{reason=\"source_address\"} 7",
            "fairlead_drop_bytes_total{reason=\"source_address\"} 700",
            "fairlead_path_packets_total{path=\"to_pod\"} 9",
            "fairlead_path_bytes_total{path=\"to_pod\"} 90",
            "fairlead_map_entries{map=\"endpoints\"} 3",
            "fairlead_map_capacity{map=\"endpoints\"} 4096",
            "fairlead_services 3",
            "fairlead_service_frontends 4",
            "fairlead_service_backends 9",
            "fairlead_service_frontends_refused 1",
            "fairlead_service_flows{namespace=\"shop\",service=\"web\"} 12",
            "fairlead_policies{kind=\"NetworkPolicy\",tier=\"NetworkPolicy\"} 2",
            "fairlead_policy_pods{kind=\"NetworkPolicy\",namespace=\"shop\",policy=\"web\"} 2",
            "fairlead_service_endpoints_duration_seconds_bucket{le=\"0.02\"} 0",
            "fairlead_service_endpoints_duration_seconds_bucket{le=\"0.03\"} 1",
            "fairlead_endpoint_drop_packets_total{namespace=\"shop\",pod=\"cart\",reason=\"loopback\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let documented = include_str!("../../../docs/metrics.md");
        for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(
                documented.contains(name),
                "{name} is not in docs/metrics.md"
            );
        }
    }

    #[test]
    fn a_node_without_its_network_part_still_tells_of_itself() {
        let text = encode(&Recorder::default(), &Snapshot::default()).unwrap();
        assert!(text.contains("fairlead_reconcile_last_success_timestamp_seconds 0"));
        assert!(!text.contains("fairlead_endpoints"), "{text}");
    }

    #[test]
    fn no_pod_and_no_service_is_named_unless_asked_for() {
        let snapshot = Snapshot {
            network: Some(network()),
            ..Snapshot::default()
        };
        let text = encode(&Recorder::default(), &snapshot).unwrap();
        assert!(
            !text.contains("pod=\"") && !text.contains("service=\""),
            "{text}"
        );
    }
}
