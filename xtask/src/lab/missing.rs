//! What a machine lacks to run a lab with agents, each thing with what to do about it.

use crate::workspace::in_path;
use anyhow::{Result, ensure};
use std::{fmt, fs, path::Path, process::Command};

/// The oldest kernel: TCX links came with 6.6.
const OLDEST_KERNEL: (u32, u32) = (6, 6);

/// Linux capabilities that a lab needs, with their numbers (`linux/capability.h`).
const CAPABILITIES: [(&str, u32); 6] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
    ("CAP_KILL", 5),
];

/// One missing thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) remedy: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    → {}", self.what, self.remedy)
    }
}

/// Looks at rights and kernel, which nothing that can be installed makes up for.
///
/// # Errors
/// When something is missing: all of it, with what to do.
pub(crate) fn ensure_able() -> Result<()> {
    let list = unable();
    let lines: Vec<_> = list.iter().map(|one| format!("  - {one}")).collect();
    ensure!(
        list.is_empty(),
        "this machine cannot run nodes of network namespaces:\n{}",
        lines.join("\n")
    );
    Ok(())
}

/// Looks at rights, kernel and commands. Empty means that a lab will run.
pub(crate) fn missing() -> Vec<Missing> {
    let mut list = unable();
    for (program, package) in [
        ("ip", "apt-get install iproute2"),
        ("unshare", "apt-get install util-linux"),
        (
            "bpftool",
            "apt-get install bpftool, or linux-tools-$(uname -r) on Ubuntu",
        ),
    ] {
        if !in_path(program) {
            list.push(Missing {
                what: format!("the command {program} is not there"),
                remedy: package,
            });
        }
    }
    let root = rustix::process::geteuid().is_root();
    if root && in_path("ip") && in_path("unshare") {
        for (kind, args) in [
            ("veth", "link add try0 type veth peer name try1"),
            ("bridge", "link add try0 type bridge"),
        ] {
            if !in_new_namespace(&format!("ip {args}")) {
                list.push(Missing {
                    what: format!("no {kind} interface can be made in a new network namespace"),
                    remedy: "load or build in the kernel's module of that name (modprobe veth, bridge)",
                });
            }
        }
    }
    list
}

fn unable() -> Vec<Missing> {
    let mut list = Vec::new();
    let mut need = |there: bool, what: String, remedy: &'static str| {
        if !there {
            list.push(Missing { what, remedy });
        }
    };
    let root = rustix::process::geteuid().is_root();
    need(
        root,
        "you are not root".to_owned(),
        "run it as root: sudo -E env \"PATH=$PATH\" cargo xtask …",
    );
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for name in lacking_capabilities(&status) {
        need(
            // Without root all of them lack, and one sentence says it.
            !root,
            format!("root lacks {name} here"),
            "leave the container, or give it the capability (docker run --privileged)",
        );
    }

    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    need(
        version(&release).is_some_and(|version| version >= OLDEST_KERNEL),
        format!("the kernel is {}, TCX links need 6.6", release.trim()),
        "boot a newer kernel: Debian 12 has one in bookworm-backports (linux-image-amd64)",
    );
    need(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "the kernel has no BTF (/sys/kernel/btf/vmlinux)".to_owned(),
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build them",
    );
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    need(
        filesystems
            .lines()
            .any(|line| line.trim_start_matches("nodev").trim() == "bpf"),
        "the kernel has no bpffs".to_owned(),
        "boot a kernel with CONFIG_BPF_SYSCALL=y",
    );
    need(
        fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|on| on.trim() != "0"),
        "the eBPF JIT compiler is off or missing".to_owned(),
        "sysctl -w net.core.bpf_jit_enable=1",
    );
    need(
        Path::new("/proc/sys/net/ipv6").exists(),
        "the kernel has no IPv6".to_owned(),
        "boot without ipv6.disable=1",
    );
    list
}

/// Capabilities of ours that the text of `/proc/self/status` shows as not effective.
fn lacking_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .into_iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| name)
        .collect()
}

/// Major and minor of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn in_new_namespace(command: &str) -> bool {
    Command::new("unshare")
        .args(["--net", "sh", "-c", command])
        .output()
        .is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_of_all_distributions_are_understood() {
        for (release, expected) in [
            ("6.18.44-fc-v782\n", Some((6, 18))),
            ("6.6.0", Some((6, 6))),
            ("5.15.0-91-generic", Some((5, 15))),
            ("6.10-rc3", Some((6, 10))),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release:?}");
        }
    }

    #[test]
    fn a_lacking_capability_is_named() {
        assert_eq!(lacking_capabilities("CapEff:\t000001ffffffffff\n"), [""; 0]);
        assert_eq!(
            lacking_capabilities("CapEff:\t0000017fffffffff\n"),
            ["CAP_BPF"]
        );
        assert_eq!(lacking_capabilities("").len(), CAPABILITIES.len());
    }
}
