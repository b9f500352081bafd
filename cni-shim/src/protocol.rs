//! The words between plugin and agent, version 1. The agent has the same in `cni/protocol.rs` and
//! `cni/frame.rs`; `tests/golden/protocol-v1.json` holds both sides to it.
//!
//! A frame is `FL`, the version and the body's length, both big-endian, and the body: JSON.

use crate::{call::Call, conf::Conf, fault::Fault};
use bytes::{Buf, BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes before the body.
pub(crate) const HEADER: usize = 8;
/// Longest body, either way.
pub(crate) const MAX_BODY: usize = 1 << 20;
const MAGIC: [u8; 2] = *b"FL";
const VERSION: u16 = 1;

/// A CNI call.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request<'a> {
    op: &'static str,
    command: &'static str,
    container_id: &'a str,
    ifname: &'a str,
    netns: &'a str,
    args: &'a str,
    path: &'a str,
    config: &'a RawValue,
    /// How long the agent may take, in milliseconds.
    deadline_ms: u64,
    /// When the plugin gives up, in milliseconds since boot (`CLOCK_BOOTTIME`).
    expires_at_ms: u64,
}

/// How long the agent is given.
#[derive(Clone, Copy)]
pub(crate) struct Term {
    /// Milliseconds for the answer.
    pub(crate) deadline_ms: u64,
    /// Milliseconds since boot after which nobody waits any more: a call that is read later must
    /// not be carried out.
    pub(crate) expires_at_ms: u64,
}

impl<'a> Request<'a> {
    pub(crate) fn new(call: &'a Call, conf: &Conf<'a>, term: Term) -> Self {
        Self {
            op: "cni",
            command: call.command.name(),
            container_id: &call.container_id,
            ifname: &call.ifname,
            netns: &call.netns,
            args: &call.args,
            path: &call.path,
            config: conf.raw,
            deadline_ms: term.deadline_ms,
            expires_at_ms: term.expires_at_ms,
        }
    }

    /// The request as a frame.
    ///
    /// # Errors
    /// When it is too large, with its size.
    pub(crate) fn to_frame(&self) -> Result<BytesMut, String> {
        let body = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= MAX_BODY);
        let length = length.ok_or_else(|| {
            format!(
                "the call has {} bytes, at most {MAX_BODY} are taken",
                body.len()
            )
        })?;
        let mut frame = BytesMut::with_capacity(HEADER + body.len());
        frame.put_slice(&MAGIC);
        frame.put_u16(VERSION);
        frame.put_u32(length);
        frame.put_slice(&body);
        Ok(frame)
    }
}

/// Reads a frame's header: the body's length.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn body_length(header: [u8; HEADER]) -> Result<usize, String> {
    let mut header = &header[..];
    let mut magic = [0; 2];
    header.copy_to_slice(&mut magic);
    let (version, length) = (header.get_u16(), header.get_u32() as usize);
    if magic != MAGIC {
        return Err("it doesn't speak the agent's protocol".to_owned());
    }
    if version != VERSION {
        return Err(format!(
            "it speaks version {version} of the protocol, not {VERSION}"
        ));
    }
    if length > MAX_BODY {
        return Err(format!(
            "its answer has {length} bytes, at most {MAX_BODY} are taken"
        ));
    }
    Ok(length)
}

/// The agent's answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Response {
    Result(Box<RawValue>),
    Error(Fault),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn golden() -> Value {
        serde_json::from_str(include_str!("../tests/golden/protocol-v1.json")).unwrap()
    }

    fn call_of(body: &Value) -> Call {
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        let names = [
            ("CNI_COMMAND", "command"),
            ("CNI_CONTAINERID", "containerId"),
            ("CNI_IFNAME", "ifname"),
            ("CNI_NETNS", "netns"),
            ("CNI_ARGS", "args"),
            ("CNI_PATH", "path"),
        ];
        Call::from_env(|name| {
            names
                .iter()
                .find(|(env, _)| *env == name)
                .map(|(_, key)| text(key).into())
        })
        .unwrap()
    }

    #[test]
    fn requests_are_as_the_golden_file_has_them() {
        let mut seen = 0;
        for body in golden()["requests"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|b| b["op"] == "cni")
        {
            let text = body["config"].to_string();
            let (call, conf) = (call_of(body), Conf::parse(&text).unwrap());
            let term = Term {
                deadline_ms: body["deadlineMs"].as_u64().unwrap(),
                expires_at_ms: body["expiresAtMs"].as_u64().unwrap(),
            };
            let request = Request::new(&call, &conf, term);
            let frame = request.to_frame().unwrap();
            assert_eq!(
                &serde_json::from_slice::<Value>(&frame[HEADER..]).unwrap(),
                body
            );
            let header: [u8; HEADER] = frame[..HEADER].try_into().unwrap();
            assert_eq!(body_length(header), Ok(frame.len() - HEADER));
            seen += 1;
        }
        assert_eq!(seen, 5, "one for each command");
    }

    #[test]
    fn headers_are_as_the_golden_file_has_them() {
        for row in golden()["headers"].as_array().unwrap() {
            let hex = row["hex"].as_str().unwrap();
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let length = body_length(bytes.try_into().unwrap()).ok();
            assert_eq!(json!(length), row["length"], "{hex}");
        }
    }

    #[test]
    fn responses_of_the_golden_file_are_understood() {
        let golden = golden();
        for body in golden["responses"].as_array().unwrap() {
            match serde_json::from_str(&body.to_string()).unwrap() {
                Response::Result(result) => assert_eq!(
                    serde_json::from_str::<Value>(result.get()).unwrap(),
                    body["result"]
                ),
                Response::Error(fault) => {
                    let details = body["error"].get("details").cloned().unwrap_or(json!(""));
                    assert_eq!(json!(fault.code), body["error"]["code"]);
                    assert_eq!(json!(fault.msg), body["error"]["msg"]);
                    assert_eq!(json!(fault.details), details);
                }
            }
        }
        for body in [
            "{}",
            r#"{"result":1,"error":{}}"#,
            "[]",
            r#"{"error":{"code":1}}"#,
        ] {
            assert!(serde_json::from_str::<Response>(body).is_err(), "{body}");
        }
    }

    #[test]
    fn a_call_that_is_too_large_is_refused_with_its_size() {
        let call = Call::from_env(|name| (name == "CNI_COMMAND").then(|| "STATUS".into())).unwrap();
        let text =
            json!({"cniVersion": "1.1.0", "name": "n", "x": "y".repeat(MAX_BODY - 60)}).to_string();
        let conf = Conf::parse(&text).unwrap();
        let term = Term {
            deadline_ms: 1,
            expires_at_ms: 1,
        };
        assert!(
            Request::new(&call, &conf, term)
                .to_frame()
                .unwrap_err()
                .contains("1048")
        );
    }
}
