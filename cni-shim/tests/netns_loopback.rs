//! The plugin called `loopback`, in a network namespace of the test's own. Run as root:
//! `cargo test -p cni-shim --test netns_loopback -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A sandbox, pinned in a folder as runtimes do, and the plugin under its other name.
struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self(tempfile::tempdir().unwrap());
        File::create(sandbox.netns()).unwrap();
        let netns = format!("--net={}", sandbox.netns().display());
        sandbox.run(Command::new("unshare").args([&netns, "true"]));
        symlink(env!("CARGO_BIN_EXE_fairlead-cni"), sandbox.plugin()).unwrap();
        sandbox
    }

    fn netns(&self) -> PathBuf {
        self.0.path().join("netns")
    }

    fn plugin(&self) -> PathBuf {
        self.0.path().join("loopback")
    }

    fn run(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn addresses(&self) -> String {
        let netns = format!("--net={}", self.netns().display());
        self.run(Command::new("nsenter").args([&netns, "ip", "-o", "addr", "show", "lo"]))
    }

    fn call(&self, command: &str, conf: &Value, netns: &Path) -> Output {
        let mut child = Command::new(self.plugin())
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_IFNAME", "lo")
            .env("CNI_NETNS", netns)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let text = conf.to_string();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.netns()).status();
        drop(unmounted);
    }
}

#[test]
#[ignore = "needs root"]
fn lo_is_set_up_in_the_sandbox_without_an_agent() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.addresses(), "");
    // As containerd says it.
    let conf = json!({ "cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback" });
    for _ in 0..2 {
        let output = sandbox.call("ADD", &conf, &sandbox.netns());
        assert!(output.status.success(), "{output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["cniVersion"], "0.3.1");
        assert_eq!(result["interfaces"][0]["name"], "lo");
        assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
        assert_eq!(result["ips"][1]["address"], "::1/128");
        let addresses = sandbox.addresses();
        assert!(addresses.contains("127.0.0.1/8"), "{addresses}");
    }
    let output = sandbox.call("DEL", &conf, &sandbox.netns());
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(
        sandbox
            .call("DEL", &conf, Path::new("/nowhere"))
            .status
            .success()
    );
}

#[test]
#[ignore = "needs root"]
fn what_came_before_in_the_chain_is_passed_on_and_no_sandbox_is_an_error() {
    let sandbox = Sandbox::new();
    let before = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "100.11.1.2/32" }] });
    let conf =
        json!({ "cniVersion": "1.0.0", "name": "x", "type": "loopback", "prevResult": before });
    let output = sandbox.call("ADD", &conf, &sandbox.netns());
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result, before);
    let refused = sandbox.call("ADD", &conf, Path::new("/nowhere"));
    let fault: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert!(!refused.status.success() && fault["code"] == 4, "{fault}");
}
