//! A CNI plugin executed as a container runtime does it: environment, configuration on standard
//! input, result or error on standard output.
//!
//! A call runs in the network namespace of the calling thread, so callers move to the node
//! first ([`super::NetNs::run`]); the bench then times the bare call.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    ffi::OsString,
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What a plugin is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

impl Action {
    /// The value of `CNI_COMMAND`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

/// The attachment that a call is about.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) container_id: &'a str,
    pub(crate) netns: &'a Path,
    pub(crate) ifname: &'a str,
    /// `CNI_ARGS`, `K8S_POD_NAME=…;…`.
    pub(crate) args: String,
}

/// The error object that a plugin printed.
#[derive(Clone, Debug)]
pub(crate) struct CniError {
    pub(crate) code: u64,
    /// The whole object.
    pub(crate) object: Value,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key| {
            self.object
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        write!(
            f,
            "CNI error {}: {} {}",
            self.code,
            text("msg"),
            text("details")
        )
    }
}

impl std::error::Error for CniError {}

/// A plugin's binary with its network configuration.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    /// Folder of the plugins, `CNI_PATH`; the binary is named by the configuration's `type`.
    pub(crate) path: PathBuf,
    /// The network configuration, a single plugin's.
    pub(crate) config: Value,
}

impl Plugin {
    /// Executes the plugin; `prev_result` is what the ADD answered, for CHECK and DEL. The result
    /// is `Null` where the action has none.
    ///
    /// # Errors
    /// A [`CniError`] when the plugin answered one; others when it did not keep to the protocol.
    pub(crate) fn call(
        &self,
        action: Action,
        call: &Call<'_>,
        prev_result: Option<&Value>,
    ) -> Result<Value> {
        let mut config = self.config.clone();
        if let (Some(result), Some(config)) = (prev_result, config.as_object_mut()) {
            config.insert("prevResult".to_owned(), result.clone());
        }
        let kind = config
            .get("type")
            .and_then(Value::as_str)
            .context("configuration has no type")?;
        let binary = self.path.join(kind);
        let mut child = Command::new(&binary)
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/sbin:/sbin")),
            )
            .env("CNI_COMMAND", action.as_str())
            .env("CNI_CONTAINERID", call.container_id)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", call.ifname)
            .env("CNI_ARGS", &call.args)
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut stdin = child.stdin.take().context("no pipe to the plugin")?;
        let written = stdin.write_all(&serde_json::to_vec(&config)?);
        drop(stdin);
        let output = child.wait_with_output()?;
        let name = format!("{kind} {}", action.as_str());
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            written.with_context(|| format!("{name} did not read its configuration"))?;
            return match text.trim() {
                "" => Ok(Value::Null),
                text => serde_json::from_str(text).with_context(|| format!("{name}: {text}")),
            };
        }
        let object: Value = serde_json::from_str(text.trim()).unwrap_or_default();
        match object.get("code").and_then(Value::as_u64) {
            Some(code) => Err(CniError { code, object }).context(name),
            None => bail!(
                "{name} ended with {} and no CNI error: {text} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
}
