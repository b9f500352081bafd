//! The call as the environment tells it (CNI 1.1.0, section 2, parameters). Names are checked here
//! so that nothing later can be led astray by one: they are never used as a path.

use crate::fault::{Fault, code, shown};
use std::ffi::OsString;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Gc,
        Self::Status,
        Self::Version,
    ];

    /// As the specification spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Whether it is about one attachment, not about the network.
    fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }

    /// Whether it can do nothing without the sandbox.
    pub(crate) fn needs_sandbox(self) -> bool {
        matches!(self, Self::Add | Self::Check)
    }
}

/// What a runtime says by environment variables; empty where a command doesn't use one.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) command: Command,
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    /// Path of the sandbox's network namespace.
    pub(crate) netns: String,
    /// `CNI_NETNS_OVERRIDE`: the sandbox may be the plugin's own namespace.
    pub(crate) netns_override: bool,
    pub(crate) args: String,
    /// Passed on only: nothing is delegated, so it is never required.
    pub(crate) path: String,
}

/// Longest container id; runtimes use 64 hexadecimal digits.
const MAX_CONTAINER_ID: usize = 128;
/// Longest interface name of Linux.
const MAX_IFNAME: usize = 15;
/// Longest path of Linux, without its end mark.
const MAX_NETNS: usize = 4095;
/// Enough for any arguments and search path seen.
const MAX_TEXT: usize = 16 << 10;

impl Call {
    /// Reads and checks the variables that the command uses.
    ///
    /// # Errors
    /// 4, naming the variable.
    pub(crate) fn from_env(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, Fault> {
        let env = Env(get);
        let name = env.text("CNI_COMMAND", 16)?;
        let command = Command::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| {
                fault(format!("unknown CNI_COMMAND: {}", shown(&name)))
                    .with_details("known are ADD, DEL, CHECK, GC, STATUS and VERSION")
            })?;
        let mut call = Self {
            command,
            container_id: String::new(),
            ifname: String::new(),
            netns: String::new(),
            netns_override: false,
            args: String::new(),
            path: String::new(),
        };
        if command == Command::Version {
            return Ok(call);
        }
        call.path = env.text("CNI_PATH", MAX_TEXT)?;
        if !command.has_attachment() {
            return Ok(call);
        }
        call.container_id = env.text("CNI_CONTAINERID", MAX_CONTAINER_ID)?;
        call.netns = env.text("CNI_NETNS", MAX_NETNS)?;
        call.ifname = env.text("CNI_IFNAME", MAX_IFNAME)?;
        call.args = env.text("CNI_ARGS", MAX_TEXT)?;
        let answer = env.text("CNI_NETNS_OVERRIDE", MAX_TEXT)?;
        call.netns_override = answer == "1" || answer.eq_ignore_ascii_case("true");
        call.check()?;
        Ok(call)
    }

    fn check(&self) -> Result<(), Fault> {
        let required = [
            ("CNI_CONTAINERID", &self.container_id, true),
            ("CNI_NETNS", &self.netns, self.command.needs_sandbox()),
            ("CNI_IFNAME", &self.ifname, true),
        ];
        let missing = required
            .into_iter()
            .filter(|(_, value, needed)| *needed && value.is_empty());
        let missing: Vec<&str> = missing.map(|(name, ..)| name).collect();
        if !missing.is_empty() {
            let missing = missing.join(",");
            return Err(fault(format!("required env variables [{missing}] missing")));
        }
        if !is_name(&self.container_id) {
            return Err(fault(format!("invalid CNI_CONTAINERID {}", shown(&self.container_id)))
                .with_details(
                    "it must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'",
                ));
        }
        let separator = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if matches!(self.ifname.as_str(), "." | "..") || self.ifname.contains(separator) {
            return Err(fault(format!("invalid CNI_IFNAME {}", shown(&self.ifname)))
                .with_details("it must not be '.' or '..' nor hold '/', ':' or white space"));
        }
        if !self.netns.is_empty() && !self.netns.starts_with('/') {
            return Err(fault(format!(
                "CNI_NETNS {} is no absolute path",
                shown(&self.netns)
            )));
        }
        Ok(())
    }
}

/// Whether the text can be a container id or a network's name.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
}

fn fault(msg: String) -> Fault {
    Fault::new(code::ENVIRONMENT, msg)
}

struct Env<F>(F);

impl<F: Fn(&str) -> Option<OsString>> Env<F> {
    /// The variable, empty when it is unset.
    fn text(&self, name: &str, max: usize) -> Result<String, Fault> {
        let value = self.0(name).unwrap_or_default();
        if value.len() > max {
            let len = value.len();
            return Err(fault(format!(
                "{name} has {len} bytes, at most {max} are taken"
            )));
        }
        value
            .into_string()
            .map_err(|_| fault(format!("{name} is not UTF-8")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    const WHOLE: [(&str, &str); 5] = [
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];

    fn call(command: &str, changes: &[(&str, &str)]) -> Result<Call, Fault> {
        Call::from_env(|name| {
            let changed = changes.iter().find(|(n, _)| *n == name);
            let found = changed.or_else(|| WHOLE.iter().find(|(n, _)| *n == name));
            if name == "CNI_COMMAND" {
                Some(command.into())
            } else {
                found.map(|(_, v)| v.into())
            }
        })
    }

    fn refused(command: &str, changes: &[(&str, &str)], part: &str) {
        let fault = call(command, changes).unwrap_err();
        assert_eq!(fault.code, 4, "{changes:?}");
        assert!(fault.msg.contains(part), "{}", fault.msg);
    }

    #[test]
    fn each_command_needs_its_own_variables() {
        let none = [
            ("CNI_CONTAINERID", ""),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
            ("CNI_PATH", ""),
        ];
        for command in ["ADD", "CHECK"] {
            refused(
                command,
                &none,
                "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing",
            );
            refused(command, &[("CNI_NETNS", "")], "[CNI_NETNS] missing");
        }
        refused("DEL", &none, "[CNI_CONTAINERID,CNI_IFNAME] missing");
        assert_eq!(call("DEL", &[("CNI_NETNS", "")]).unwrap().netns, "");
        for command in ["GC", "STATUS", "VERSION"] {
            assert_eq!(call(command, &none).unwrap().command.name(), command);
        }
    }

    #[test]
    fn names_and_lengths_are_checked() {
        assert_eq!(call("ADD", &[]).unwrap().args, "IgnoreUnknown=1");
        refused("add", &[], "unknown CNI_COMMAND");
        refused(&"A".repeat(17), &[], "CNI_COMMAND has 17 bytes");
        for id in ["../x", "a/b", "-a", ".a", "a b", "ä"] {
            refused("ADD", &[("CNI_CONTAINERID", id)], "invalid CNI_CONTAINERID");
        }
        for ifname in [".", "..", "a/b", "a:b", "a b", "a\nb"] {
            refused("DEL", &[("CNI_IFNAME", ifname)], "invalid CNI_IFNAME");
        }
        refused(
            "ADD",
            &[("CNI_CONTAINERID", &"a".repeat(129))],
            "CNI_CONTAINERID has 129 bytes",
        );
        refused(
            "ADD",
            &[("CNI_IFNAME", &"e".repeat(16))],
            "CNI_IFNAME has 16 bytes",
        );
        refused(
            "ADD",
            &[("CNI_NETNS", &"/".repeat(4096))],
            "CNI_NETNS has 4096 bytes",
        );
        refused("ADD", &[("CNI_NETNS", "run/netns/x")], "no absolute path");
        refused(
            "ADD",
            &[("CNI_ARGS", &"a".repeat(16385))],
            "CNI_ARGS has 16385 bytes",
        );
        let fault = Call::from_env(|_| Some(OsString::from_vec(vec![0xff]))).unwrap_err();
        assert_eq!(
            (fault.code, fault.msg.as_str()),
            (4, "CNI_COMMAND is not UTF-8")
        );
    }

    #[test]
    fn the_override_takes_the_reference_plugins_words() {
        for (word, expected) in [
            ("1", true),
            ("TRUE", true),
            ("true", true),
            ("0", false),
            ("", false),
        ] {
            let call = call("ADD", &[("CNI_NETNS_OVERRIDE", word)]).unwrap();
            assert_eq!(call.netns_override, expected, "{word}");
        }
    }
}
