//! What is told of single packets.

use super::End;
use serde::{Deserialize, Serialize};

/// What was told since an earlier answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsAnswer {
    /// To be asked with next.
    pub next: u64,
    /// Events that were not told since the maps were made, because there were too many at once.
    pub lost: u64,
    /// Events that were told and have been dropped from memory before this question.
    pub missed: u64,
    pub flows: Vec<FlowRow>,
}

/// A packet that was dropped, or that begins something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRow {
    /// RFC 3339, UTC, to the millisecond.
    pub at: String,
    pub verdict: FlowVerdict,
    /// Why it was dropped, or would be; as `fairlead drops` names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whose rules were asked: `egress` of who sends, `ingress` of who receives.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub direction: String,
    /// None: it is no IP packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<FlowEnds>,
    /// Of the whole frame, in bytes.
    pub length: u32,
    /// The pod or the uplink whose program saw it.
    pub seen_by: String,
    /// The policies that decide, where they do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

/// Who sends what to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowEnds {
    pub from: End,
    pub from_port: u16,
    pub to: End,
    pub to_port: u16,
    /// `TCP`, `ICMP`, or IP's number.
    pub protocol: String,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowVerdict {
    Dropped,
    /// A connection begins.
    Allowed,
    /// Policies don't allow it, and only watch.
    Audited,
}

impl FlowVerdict {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Allowed => "allowed",
            Self::Audited => "audited",
        }
    }
}
