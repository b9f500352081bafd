//! What is told of packets that are followed.

use super::FlowEnds;
use serde::{Deserialize, Serialize};

/// Whose packets are followed, or what of them is new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TraceQuestion {
    /// Follow them from now on, for as long as somebody asks for more.
    Begin {
        /// A pod as namespace/name, an address, or a Service as service/namespace/name.
        from: String,
        /// The same; none: whomever `from` talks to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// What was told since the answer before.
    More { trace: u64 },
    /// No more.
    End { trace: u64 },
}

/// Packets that were followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer {
    /// To be asked with next.
    pub trace: u64,
    /// Ways that were not told since it began, because there were too many at once.
    pub lost: u64,
    pub walks: Vec<WalkRow>,
}

/// A packet's way through one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalkRow {
    /// RFC 3339, UTC, to the millisecond.
    pub at: String,
    /// As `bpftool prog` has it.
    pub program: String,
    /// The pod or the uplink that it is attached to.
    pub seen_by: String,
    /// As the packet came; none: what was copied of it doesn't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<FlowEnds>,
    /// TCP's: S, F, R, P and a dot for ACK.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// Of the whole frame, in bytes.
    pub length: u32,
    pub steps: Vec<WalkStep>,
    /// There were more steps than can be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    pub outcome: Outcome,
}

/// Something that a program did or found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum WalkStep {
    /// A Service's frontend got a backend for it.
    Balanced {
        /// Now; else its flow has had it.
        new: bool,
    },
    /// It has these ends from here on.
    Rewritten(FlowEnds),
    /// Policies were asked.
    Judged {
        /// Whose.
        pod: String,
        /// `egress` or `ingress`.
        direction: String,
        said: Said,
        /// Which decide, where a connection begins.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<String>,
    },
    /// Its other direction came by the host's stack, which has to see this one, too.
    ByStack,
    /// It goes this way, as `fairlead status` names it.
    Path { path: String },
    /// It is dropped, or refused by the host's stack, for a reason as `fairlead drops` names it.
    Dropped { reason: String },
}

/// What policies said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// None asks anything of the pod in this direction.
    NotAsked,
    /// It is of a connection that is allowed.
    Known,
    /// It begins one that is allowed.
    Begins,
    /// It is not allowed, and policies only watch.
    Audited,
    Denied,
    /// It is no answer to anything.
    NotKnown,
}

/// What became of a packet at the end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// On by the host's stack.
    Stack,
    Dropped,
    /// To an interface, past the host's stack.
    Redirected,
}
