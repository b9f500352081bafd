//! What `fairlead status` and its like ask the agent, and what they get: plain values, written by
//! the agent and read by the command line, as JSON in the shim protocol.

use crate::{
    model::{Addresses, Endpoint, Mac, PodRef},
    network::desired::Uplink,
    parts::PartState,
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

mod device;
mod flow;
mod policy;
mod service;
mod trace;
mod volume;

pub use crate::cni::protocol::Query;
pub use device::{DeviceAnswer, DeviceLook, DeviceRow, DeviceStep, HolderRow, ResourceRow};
pub use flow::{FlowEnds, FlowRow, FlowVerdict, FlowsAnswer};
pub use policy::{
    Backend, CutConnection, End, PlannedChange, PolicyAnswer, PolicyChange, PolicyPlan,
    PolicyQuestion, PolicyRow, ProgramsSay,
};
pub use service::{
    Answerer, By, EndpointOfService, FrontendRow, HealthCheckRow, ServiceAnswer, ServiceDetail,
    ServiceRow,
};
pub use trace::{Outcome, Said, TraceAnswer, TraceQuestion, WalkRow, WalkStep};
pub use volume::{
    CheckAnswer, Difference, PoolUsage, PublishedRow, SnapshotRow, UsageRow, VolumeRow, VolumeState,
};

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub node: String,
    /// Whether ADD would succeed now.
    pub ready: bool,
    /// What keeps it from being ready or from being whole, each with its remedy.
    pub problems: Vec<String>,
    pub parts: BTreeMap<String, PartState>,
    pub pod_cidrs: Vec<IpNetwork>,
    pub pod_mtu: u32,
    pub uplinks: Vec<UplinkStatus>,
    pub endpoints: usize,
    pub nodes: usize,
    /// Seconds since the agent started.
    pub uptime_secs: u64,
    /// What the start found and did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption: Option<Adoption>,
    /// Packets by the way they took, since the maps were made.
    pub paths: Vec<PathRow>,
}

/// An uplink and how XDP is attached to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkStatus {
    pub name: String,
    pub ifindex: u32,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
    pub xdp: String,
}

impl UplinkStatus {
    /// The device with the mode that XDP has on it.
    pub fn new(uplink: &Uplink, xdp: String) -> Self {
        let Uplink {
            name,
            ifindex,
            mtu,
            addresses,
        } = uplink.clone();
        Self {
            name,
            ifindex,
            mtu,
            addresses,
            xdp,
        }
    }
}

/// What a start found: living pods are adopted without touching their traffic, the rest is freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    pub adopted: usize,
    /// Endpoints whose sandbox is gone, or that were never finished.
    pub freed: Vec<String>,
    /// Of the adopted, those that the store had lost and the kernel still had.
    #[serde(default)]
    pub recovered: usize,
    /// Links of ours that no endpoint owned.
    pub orphan_links: usize,
    /// Deletions that were asked for while the agent was down.
    pub replayed_deletions: usize,
}

/// Packets of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRow {
    pub path: String,
    pub packets: u64,
    pub bytes: u64,
}

/// A local endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    /// Number in maps and events.
    pub id: u32,
    pub container_id: String,
    /// Name of the interface in the sandbox.
    pub ifname: String,
    /// Name of the CNI network.
    pub network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    pub addresses: Addresses,
    pub mac: Mac,
    /// Name of the host's end.
    pub host_ifname: String,
    pub host_mac: Mac,
    pub mtu: u32,
    /// Path of the sandbox's network namespace as the runtime gave it.
    pub sandbox: String,
    /// Unix time in seconds.
    pub created_at: u64,
}

impl From<Endpoint> for EndpointRow {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id,
            container_id: endpoint.attachment.container_id().to_owned(),
            ifname: endpoint.attachment.ifname().to_owned(),
            network: endpoint.network,
            pod: endpoint.pod,
            addresses: endpoint.addresses,
            mac: endpoint.mac,
            host_ifname: endpoint.host_ifname,
            host_mac: endpoint.host_mac,
            mtu: endpoint.mtu,
            sandbox: endpoint.sandbox,
            created_at: endpoint.created_at,
        }
    }
}

/// A node and the way there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    pub name: String,
    pub local: bool,
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNetwork>,
    /// Uplink by which it is reached; absent for this node and for one without a way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
}

/// Use of one podCIDR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamRow {
    pub prefix: IpNetwork,
    /// Addresses that can be given to pods.
    pub total: u128,
    pub used: u128,
    /// Released of late: given out again only when nothing else is free.
    pub cooling: u128,
}

/// Packets dropped on one interface for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropRow {
    pub reason: String,
    pub ifindex: u32,
    pub interface: String,
    /// The pod behind the interface, or the sandbox where no pod is known; empty for an uplink.
    pub endpoint: String,
    pub packets: u64,
    pub bytes: u64,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// Now, as `--log-level` takes it.
    pub filter: String,
    /// Until this question; the same if it changed nothing.
    pub before: String,
}

/// A pinned object and the command that shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinRow {
    pub name: String,
    /// `map` or `link`.
    pub kind: String,
    pub path: String,
    pub command: String,
}
