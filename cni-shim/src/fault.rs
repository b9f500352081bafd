//! The error object of CNI (specification 1.1.0, section 5): code, message, details.

use crate::version;
use serde::{Deserialize, Serialize};

/// The codes that the plugin itself answers with.
pub(crate) mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN: u32 = 11;
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// Ours: the agent's answer can't be understood.
    pub(crate) const PROTOCOL: u32 = 110;
}

/// Why a call fails; printed as JSON on standard output.
#[derive(Debug, Deserialize)]
pub(crate) struct Fault {
    pub(crate) code: u32,
    pub(crate) msg: String,
    #[serde(default)]
    pub(crate) details: String,
    /// What the object says it is of; the configuration's version once that is known.
    #[serde(skip, default = "current")]
    version: &'static str,
}

fn current() -> &'static str {
    version::CURRENT
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Fault {
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
            version: version::CURRENT,
        }
    }

    /// Adds what to do about it, or where it was seen.
    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Sets the version that the object claims.
    pub(crate) fn for_version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// The object as the runtime reads it, one line.
    pub(crate) fn to_json(&self) -> String {
        let Self {
            code,
            msg,
            details,
            version,
        } = self;
        let printed = Printed {
            cni_version: version,
            code: *code,
            msg,
            details,
        };
        // Strings and a number: serializing can't fail, yet a runtime must get an object always.
        let json = serde_json::to_string(&printed).unwrap_or_else(|_| {
            format!(r#"{{"cniVersion":"{version}","code":{code},"msg":"internal error"}}"#)
        });
        json + "\n"
    }
}

/// Text of others in a message: shortened, control characters visible.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(64).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_stays_json_whatever_the_texts_hold() {
        let fault = Fault::new(7, format!("bad {}", shown("a\"}\n\u{1b}[31m")))
            .with_details("x\\\"y\u{0}")
            .for_version("0.4.0");
        let value: serde_json::Value = serde_json::from_str(&fault.to_json()).unwrap();
        assert_eq!(value["cniVersion"], "0.4.0");
        assert_eq!(value["code"], 7);
        assert_eq!(value["details"], "x\\\"y\u{0}");
        assert!(!value["msg"].as_str().unwrap().contains('\u{1b}'));
    }

    #[test]
    fn foreign_text_is_cut() {
        assert_eq!(shown(&"ä".repeat(100)).chars().count(), 64 + 3);
        assert_eq!(shown("eth0"), "\"eth0\"");
    }
}
