//! Programs of the distribution that labs and tests run. Root gets them by apt; everybody else, and
//! every other distribution, gets the list.

use crate::workspace::{self, find, in_path, is_static};
use anyhow::{Result, bail};
use std::{fmt::Write as _, path::Path, process::Command};

/// A program, Debian's package of it, and what runs it.
struct Program {
    name: &'static str,
    package: &'static str,
    purpose: &'static str,
}

#[rustfmt::skip] // one program, one line
const LAB: [Program; 5] = [
    Program { name: "ip", package: "iproute2", purpose: "demo, bench, test: nodes and pods" },
    Program { name: "bpftool", package: "bpftool", purpose: "demo, test: shows the maps" },
    Program { name: "nft", package: "nftables", purpose: "demo, test: shows the masquerading" },
    Program { name: "ping", package: "iputils-ping", purpose: "demo, test: ICMP, PMTU" },
    Program { name: "nsenter", package: "util-linux", purpose: "demo, test: looks into a node" },
];

#[rustfmt::skip] // one program, one line
const TEST: [Program; 8] = [
    Program { name: "containerd", package: "containerd", purpose: "test: a real runtime" },
    Program { name: "ctr", package: "containerd", purpose: "test: its client" },
    Program { name: "runc", package: "runc", purpose: "test: its containers" },
    Program { name: "mkfs.ext4", package: "e2fsprogs", purpose: "test: file systems of volumes" },
    Program { name: "mkfs.xfs", package: "xfsprogs", purpose: "the same" },
    Program { name: "btrfs", package: "btrfs-progs", purpose: "the same" },
    Program { name: "umount", package: "mount", purpose: "the same" },
    Program { name: "busybox", package: "busybox-static", purpose: "test: what runs in them" },
];

#[rustfmt::skip] // one program, one line
const CLUSTER: [Program; 9] = [
    Program { name: "openssl", package: "openssl", purpose: "cluster: certificates" },
    Program { name: "mount", package: "mount", purpose: "cluster: a node's own folders" },
    Program { name: "bash", package: "bash", purpose: "cluster: what end-to-end tests run in pods" },
    Program { name: "curl", package: "curl", purpose: "the same" },
    Program { name: "nc", package: "netcat-openbsd", purpose: "the same" },
    Program { name: "wget", package: "wget", purpose: "the same" },
    Program { name: "dig", package: "bind9-dnsutils", purpose: "the same" },
    Program { name: "iperf3", package: "iperf3", purpose: "cluster: what a limit lets pass" },
    Program { name: "setsid", package: "util-linux", purpose: "cluster: outlives the command" },
];

#[rustfmt::skip] // one program, one line
const FILE_SYSTEMS: [Program; 5] = [
    Program { name: "mkfs.ext4", package: "e2fsprogs", purpose: "image: makes a volume's file system" },
    Program { name: "e2fsck", package: "e2fsprogs", purpose: "image: checks it" },
    Program { name: "resize2fs", package: "e2fsprogs", purpose: "image: grows it" },
    Program { name: "mkfs.xfs", package: "xfsprogs", purpose: "image: makes another kind" },
    Program { name: "xfs_growfs", package: "xfsprogs", purpose: "image: grows that" },
];

#[rustfmt::skip] // one program, one line
const PROXY: [Program; 3] = [
    Program { name: "openssl", package: "openssl", purpose: "bench: certificates of the API server" },
    Program { name: "setpriv", package: "util-linux", purpose: "the same: its user" },
    Program { name: "iptables", package: "iptables", purpose: "bench: what Services are compared with" },
];

#[rustfmt::skip] // one program, one line
const GUEST: [Program; 2] = [
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "vm: the guest's machine" },
    Program { name: "busybox", package: "busybox-static", purpose: "vm: what runs first in it" },
];

#[rustfmt::skip] // one program, one line
const STORAGE: [Program; 5] = [
    Program { name: "fio", package: "fio", purpose: "bench: reads and writes" },
    Program { name: "mkfs.ext4", package: "e2fsprogs", purpose: "bench: file systems of volumes" },
    Program { name: "mkfs.xfs", package: "xfsprogs", purpose: "the same" },
    Program { name: "mkfs.btrfs", package: "btrfs-progs", purpose: "the same" },
    Program { name: "losetup", package: "mount", purpose: "bench: disks of files" },
];

pub(super) fn lab(_: &Path) -> Result<Option<String>> {
    Ok(present(&LAB))
}

pub(super) fn add_lab(_: &Path) -> Result<()> {
    add(&LAB)
}

pub(super) fn test(_: &Path) -> Result<Option<String>> {
    Ok(present(&TEST))
}

pub(super) fn add_test(_: &Path) -> Result<()> {
    add(&TEST)
}

pub(super) fn cluster(_: &Path) -> Result<Option<String>> {
    Ok(present(&CLUSTER))
}

pub(super) fn add_cluster(_: &Path) -> Result<()> {
    add(&CLUSTER)
}

pub(super) fn file_systems(_: &Path) -> Result<Option<String>> {
    Ok(present(&FILE_SYSTEMS))
}

pub(super) fn add_file_systems(_: &Path) -> Result<()> {
    add(&FILE_SYSTEMS)
}

pub(super) fn proxy(_: &Path) -> Result<Option<String>> {
    Ok(present(&PROXY))
}

pub(super) fn add_proxy(_: &Path) -> Result<()> {
    add(&PROXY)
}

pub(super) fn guest(_: &Path) -> Result<Option<String>> {
    Ok(present(&GUEST))
}

pub(super) fn add_guest(_: &Path) -> Result<()> {
    add(&GUEST)
}

pub(super) fn storage(_: &Path) -> Result<Option<String>> {
    Ok(present(&STORAGE))
}

pub(super) fn add_storage(_: &Path) -> Result<()> {
    add(&STORAGE)
}

fn present(programs: &[Program]) -> Option<String> {
    if programs.iter().all(usable) {
        Some(
            programs
                .iter()
                .map(|program| program.name)
                .collect::<Vec<_>>()
                .join(", "),
        )
    } else {
        None
    }
}

/// A busybox with libraries would not run in a container that has none.
fn usable(program: &Program) -> bool {
    let Some(path) = find(program.name) else {
        return false;
    };
    program.package != "busybox-static" || is_static(&path)
}

fn add(programs: &[Program]) -> Result<()> {
    let missing: Vec<_> = programs.iter().filter(|program| !usable(program)).collect();
    let mut list = String::new();
    for program in &missing {
        let Program {
            name,
            package,
            purpose,
        } = program;
        writeln!(
            list,
            "  {name:<11} Debian's package {package:<15} {purpose}"
        )?;
    }
    let mut packages: Vec<_> = missing.iter().map(|program| program.package).collect();
    packages.sort_unstable();
    packages.dedup();
    add_packages(&packages, &list)
}

/// Installs Debian's packages, of which `list` says what they are for.
pub(super) fn add_packages(packages: &[&str], list: &str) -> Result<()> {
    let line = format!("apt-get install {}", packages.join(" "));
    if !in_path("apt-get") {
        bail!(
            "programs are missing; install what your distribution has for these of Debian:\n{list}  \
             {}",
            packages.join(" ")
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("programs are missing, and only root can install them:\n{list}  sudo {line}");
    }
    eprintln!("{list}  {line}");
    if install(packages).is_err() {
        // Its lists of packages may be empty or old.
        eprintln!("  apt-get update, and once more");
        workspace::output(apt().arg("update"))?;
        install(packages)?;
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<String> {
    workspace::output(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["--quiet=2"]);
    // Another apt, the machine's own updates say, is waited for.
    command.args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}
