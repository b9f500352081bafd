//! The words between agent, plugin and command line: one request, one response. The plugin has the
//! same in its `protocol.rs`; `cni-shim/tests/golden/protocol-v1.json` holds both sides to it.

use super::CniError;
use crate::query::{PolicyChange, PolicyQuestion, TraceQuestion};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is asked. The sandbox's descriptor, if any, travels beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Request {
    /// A container runtime's call.
    Cni(CniCall),
    /// A question of the command line.
    Query { query: Query },
}

/// A container runtime's call, as the plugin got it. Only names were checked there, and the
/// configuration's `cniVersion` and `name`; nothing of it is trusted here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniCall {
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for GC and STATUS.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_IFNAME`; empty for GC and STATUS.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_NETNS`: only shown. What is used is the descriptor.
    #[serde(default)]
    pub netns: String,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub args: String,
    /// `CNI_PATH`.
    #[serde(default)]
    pub path: String,
    /// Standard input.
    pub config: Value,
    /// How long the plugin waits, in milliseconds.
    pub deadline_ms: u64,
    /// When the plugin gives up, in milliseconds since boot (`CLOCK_BOOTTIME`, which plugin and agent
    /// read alike unless one of them has a time namespace of its own). A plugin that doesn't say is
    /// known to have given up only when it closes the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

/// `CNI_COMMAND`; VERSION is answered by the plugin itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

/// A question to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Query {
    Status,
    /// What keeps the agent from doing its work at all, so that only another start helps.
    Dead,
    /// What keeps the node from serving pods.
    Unready,
    Endpoints,
    Nodes,
    Ipam,
    Drops,
    Maps,
    /// Every Service.
    Services,
    /// One Service; without a namespace the only one of that name.
    Service {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        name: String,
    },
    /// Every policy.
    Policies,
    /// Why one end may connect to another.
    Policy(PolicyQuestion),
    /// What was told of single packets since an earlier answer; none: from now on.
    Flows {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
    },
    /// Packets that are followed through the programs.
    Trace(TraceQuestion),
    /// What a change of policies would change.
    PolicyPlan(Box<PolicyChange>),
    /// Every volume of the pool.
    Volumes,
    /// Every snapshot.
    Snapshots,
    /// How the pool's room is used.
    VolumeUsage,
    /// Whether pool, store, mounts and pods' folders agree.
    VolumeCheck,
    /// Every device of the node.
    Devices,
    /// What is logged; another filter if one is given.
    LogLevel {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        set: Option<String>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// For ADD the result of the version asked for; null for the other CNI commands.
    Result(Value),
    Error(CniError),
}

impl From<Result<Value, CniError>> for Response {
    fn from(result: Result<Value, CniError>) -> Self {
        match result {
            Ok(value) => Self::Result(value),
            Err(error) => Self::Error(error),
        }
    }
}

impl Response {
    /// The answer as a result.
    ///
    /// # Errors
    /// The agent's.
    pub fn into_result(self) -> Result<Value, CniError> {
        match self {
            Self::Result(value) => Ok(value),
            Self::Error(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn golden(key: &str) -> Vec<Value> {
        let text = include_str!("../../../cni-shim/tests/golden/protocol-v1.json");
        let golden: Value = serde_json::from_str(text).unwrap();
        golden[key].as_array().unwrap().clone()
    }

    #[test]
    fn requests_of_the_golden_file_are_read_and_written_alike() {
        let mut seen = Vec::new();
        for body in golden("requests") {
            let request: Request = serde_json::from_value(body.clone()).unwrap();
            assert_eq!(serde_json::to_value(&request).unwrap(), body);
            seen.push(request);
        }
        let calls = seen.iter().filter(|r| matches!(r, Request::Cni(_))).count();
        assert_eq!(
            (calls, seen.len() - calls),
            (5, 11),
            "one for each command and question"
        );
    }

    #[test]
    fn responses_of_the_golden_file_are_read_and_written_alike() {
        for body in golden("responses") {
            let response: Response = serde_json::from_value(body.clone()).unwrap();
            assert_eq!(serde_json::to_value(&response).unwrap(), body);
            assert_eq!(Response::from(response.clone().into_result()), response);
        }
    }

    #[test]
    fn a_call_without_an_end_is_read() {
        let body = json!({"op": "cni", "command": "ADD", "config": {}, "deadlineMs": 1});
        let Request::Cni(call) = serde_json::from_value(body).unwrap() else {
            panic!("not a call");
        };
        assert_eq!(call.expires_at_ms, None);
    }

    #[test]
    fn unknown_words_are_refused() {
        for body in [
            json!({"op": "cni", "command": "VERSION", "config": {}, "deadlineMs": 1}),
            json!({"op": "cni", "command": "ADD", "deadlineMs": 1}),
            json!({"op": "query", "query": "secrets"}),
            json!({"op": "reboot"}),
            json!([]),
        ] {
            assert!(
                serde_json::from_value::<Request>(body.clone()).is_err(),
                "{body}"
            );
        }
    }
}
