//! Versions of the CNI specification, and the command VERSION.

use crate::{
    call::Command,
    fault::{Fault, code},
};
use serde::{Deserialize, Serialize};

/// What the plugin answers in, oldest first.
pub(crate) const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The specification that the plugin is written by.
pub(crate) const CURRENT: &str = "1.1.0";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    cni_version: &'static str,
    supported_versions: [&'static str; 5],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    cni_version: String,
}

/// The supported version of that name.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    SUPPORTED.into_iter().find(|version| *version == name)
}

/// Answers VERSION with the version on standard input where it is one of ours, as the
/// specification wants; otherwise with the current one, as the reference plugins do.
pub(crate) fn answer(input: &str) -> String {
    let asked = serde_json::from_str::<Asked>(input).ok();
    let cni_version = asked
        .and_then(|asked| find(&asked.cni_version))
        .unwrap_or(CURRENT);
    let answer = Answer {
        cni_version,
        supported_versions: SUPPORTED,
    };
    serde_json::to_string(&answer)
        .map(|json| json + "\n")
        .unwrap_or_default()
}

/// Whether the configuration's version has the command.
///
/// # Errors
/// 1 when the command came with a later version.
pub(crate) fn allows(version: &str, command: Command) -> Result<(), Fault> {
    let since = match command {
        Command::Gc | Command::Status => "1.1.0",
        Command::Check => "0.4.0",
        Command::Add | Command::Del | Command::Version => return Ok(()),
    };
    let place = |name| SUPPORTED.iter().position(|v| *v == name);
    if place(version) >= place(since) {
        return Ok(());
    }
    let msg = format!("config version {version} does not allow {}", command.name());
    Err(
        Fault::new(code::INCOMPATIBLE_VERSION, msg).with_details(format!(
            "{} came with CNI {since}: raise cniVersion",
            command.name()
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_answered_whatever_the_input() {
        for (input, expected) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
            (r#"{"cniVersion":1}"#, "1.1.0"),
            ("not json", "1.1.0"),
            ("", "1.1.0"),
        ] {
            let value: serde_json::Value = serde_json::from_str(&answer(input)).unwrap();
            assert_eq!(value["cniVersion"], expected, "{input}");
            assert_eq!(value["supportedVersions"], serde_json::json!(SUPPORTED));
        }
    }

    #[test]
    fn commands_need_the_version_that_brought_them() {
        let allowed = |command| SUPPORTED.map(|version| allows(version, command).is_ok());
        assert_eq!(allowed(Command::Add), [true; 5]);
        assert_eq!(allowed(Command::Del), [true; 5]);
        assert_eq!(allowed(Command::Check), [false, false, true, true, true]);
        assert_eq!(allowed(Command::Gc), [false, false, false, false, true]);
        assert_eq!(allowed(Command::Status), [false, false, false, false, true]);
        assert_eq!(allows("0.3.1", Command::Check).unwrap_err().code, 1);
    }
}
