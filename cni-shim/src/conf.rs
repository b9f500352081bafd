//! What the plugin itself reads of the network configuration; the agent gets all of it unchanged.

use crate::{
    call::is_name,
    fault::{Fault, code, shown},
    json, version,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::time::Duration;

/// The checked keys, and the whole text.
#[derive(Debug)]
pub(crate) struct Conf<'a> {
    pub(crate) raw: &'a RawValue,
    /// `cniVersion`: one of [`version::SUPPORTED`].
    pub(crate) version: &'static str,
    pub(crate) name: String,
    /// Absolute path of the agent's socket.
    pub(crate) socket: String,
    /// Absolute path of the folder for deletions.
    pub(crate) spool: String,
    /// Longest wait for the agent, from the first connect to the last byte of the answer.
    pub(crate) timeout: Duration,
}

const SOCKET: &str = "/run/fairlead/agent.sock";
const SPOOL: &str = "/var/lib/fairlead/spool";
const TIMEOUT_SECS: u64 = 30;
/// Longest path that a Unix socket's address takes.
const MAX_SOCKET: usize = 107;
const MAX_SPOOL: usize = 3800;
const MAX_NAME: usize = 255;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    cni_version: Option<Value>,
    name: Option<Value>,
    socket: Option<Value>,
    spool: Option<Value>,
    timeout_seconds: Option<Value>,
}

impl<'a> Conf<'a> {
    /// Parses and checks.
    ///
    /// # Errors
    /// 6 for what isn't unambiguous JSON, 1 for a version that isn't ours, 7 for a bad value.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Fault> {
        json::check_object(text).map_err(|e| decode(&e))?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| decode(&e))?;
        let keys: Keys = serde_json::from_str(text).map_err(|e| decode(&e))?;
        let version = version(keys.cni_version)?;
        let checked = || {
            Ok(Self {
                raw,
                version,
                name: name(keys.name)?,
                socket: absolute("socket", keys.socket, SOCKET, MAX_SOCKET)?,
                spool: absolute("spool", keys.spool, SPOOL, MAX_SPOOL)?,
                timeout: timeout(keys.timeout_seconds)?,
            })
        };
        checked().map_err(|fault: Fault| fault.for_version(version))
    }
}

fn decode(error: &serde_json::Error) -> Fault {
    Fault::new(code::DECODE, "the network configuration can't be decoded")
        .with_details(error.to_string())
}

fn invalid(msg: String) -> Fault {
    Fault::new(code::CONFIG, msg)
}

fn version(value: Option<Value>) -> Result<&'static str, Fault> {
    let text = match value {
        // What the specification says of a configuration without the key; also not ours.
        None | Some(Value::Null) => "0.1.0".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "0.1.0".to_owned(),
        Some(Value::String(text)) => text,
        Some(_) => return Err(Fault::new(code::DECODE, "cniVersion is not a string")),
    };
    version::find(&text).ok_or_else(|| {
        let well_formed = text.split('.').all(|part| part.parse::<u32>().is_ok());
        let details = format!(
            "config is {}, plugin supports {}",
            shown(&text),
            version::SUPPORTED.join(", ")
        );
        if well_formed {
            Fault::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
                .with_details(details)
        } else {
            Fault::new(code::DECODE, "cniVersion can't be decoded").with_details(details)
        }
    })
}

fn name(value: Option<Value>) -> Result<String, Fault> {
    match value {
        Some(Value::String(name)) if name.len() <= MAX_NAME && is_name(&name) => Ok(name),
        None | Some(Value::Null) => Err(invalid("missing network name".to_owned())
            .with_details("the runtime must set `name` to the network's name")),
        Some(Value::String(name)) => Err(invalid(format!("invalid network name {}", shown(&name)))
            .with_details(
                "`name` must begin with a letter or digit and hold at most 255 letters, digits, '_', '.' and '-'",
            )),
        Some(_) => Err(invalid("`name` is not a string".to_owned())),
    }
}

fn absolute(key: &str, value: Option<Value>, default: &str, max: usize) -> Result<String, Fault> {
    match value {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(path))
            if path.starts_with('/') && path.len() <= max && !path.contains('\0') =>
        {
            Ok(path)
        }
        Some(Value::String(path)) => Err(invalid(format!("invalid `{key}` {}", shown(&path)))
            .with_details(format!(
                "it must be an absolute path of at most {max} bytes, like {default}"
            ))),
        Some(_) => Err(invalid(format!("`{key}` is not a string"))),
    }
}

fn timeout(value: Option<Value>) -> Result<Duration, Fault> {
    let secs = match value {
        None | Some(Value::Null) => Some(TIMEOUT_SECS),
        Some(value) => value.as_u64(),
    };
    let secs = secs.filter(|secs| (1..=300).contains(secs));
    secs.map(Duration::from_secs)
        .ok_or_else(|| invalid("`timeoutSeconds` must be a whole number from 1 to 300".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, code: u32, part: &str) {
        let fault = Conf::parse(text).unwrap_err();
        assert_eq!(fault.code, code, "{text}: {}", fault.msg);
        let said = format!("{} {}", fault.msg, fault.details);
        assert!(said.contains(part), "{text}: {said}");
    }

    #[test]
    fn defaults_and_given_values() {
        let conf = Conf::parse(r#"{"cniVersion":"1.0.0","name":"n","x":[1]}"#).unwrap();
        assert_eq!((conf.version, conf.name.as_str()), ("1.0.0", "n"));
        assert_eq!((conf.socket.as_str(), conf.spool.as_str()), (SOCKET, SPOOL));
        assert_eq!(conf.timeout, Duration::from_secs(30));
        let text =
            r#"{"cniVersion":"0.3.0","name":"n","socket":"/a","spool":"/b","timeoutSeconds":1}"#;
        let conf = Conf::parse(text).unwrap();
        assert_eq!((conf.socket.as_str(), conf.spool.as_str()), ("/a", "/b"));
        assert_eq!(conf.timeout, Duration::from_secs(1));
        assert_eq!(conf.raw.get(), text);
    }

    #[test]
    fn what_cannot_be_decoded() {
        for text in ["", "[]", "null", "{", r#"{"a":1}}"#] {
            refused(text, 6, "decode");
        }
        refused(r#"{"name":"n","name":"m"}"#, 6, "given twice");
        refused(r#"{"cniVersion":1,"name":"n"}"#, 6, "cniVersion");
        refused(r#"{"cniVersion":"one","name":"n"}"#, 6, "cniVersion");
    }

    #[test]
    fn versions_that_are_not_ours() {
        for version in [
            r#""0.1.0""#,
            r#""0.2.0""#,
            r#""1.2.0""#,
            r#""9.9.9""#,
            r#""""#,
            "null",
        ] {
            refused(
                &format!(r#"{{"cniVersion":{version},"name":"n"}}"#),
                1,
                "1.1.0",
            );
        }
        refused(r#"{"name":"n"}"#, 1, "0.1.0");
    }

    #[test]
    fn bad_values_name_their_key() {
        let refused = |rest: &str, part: &str| {
            refused(&format!(r#"{{"cniVersion":"1.1.0",{rest}}}"#), 7, part);
        };
        refused(r#""x":1"#, "missing network name");
        refused(r#""name":"""#, "invalid network name");
        refused(r#""name":"../n""#, "invalid network name");
        refused(r#""name":7"#, "`name` is not a string");
        refused(r#""name":"n","socket":"agent.sock""#, "`socket`");
        refused(r#""name":"n","socket":"/a\u0000b""#, "`socket`");
        refused(
            &format!(r#""name":"n","socket":"/{}""#, "a".repeat(107)),
            "`socket`",
        );
        refused(r#""name":"n","spool":"""#, "`spool`");
        refused(r#""name":"n","spool":5"#, "`spool`");
        for value in ["0", "301", "-1", "1.5", "\"30\""] {
            refused(
                &format!(r#""name":"n","timeoutSeconds":{value}"#),
                "timeoutSeconds",
            );
        }
    }

    #[test]
    fn a_fault_after_the_version_is_known_claims_that_version() {
        let fault = Conf::parse(r#"{"cniVersion":"0.4.0"}"#).unwrap_err();
        assert!(fault.to_json().contains(r#""cniVersion":"0.4.0""#));
    }
}
