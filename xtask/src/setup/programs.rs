//! Programs of the distribution that labs and tests run. Root gets them by apt; everybody else, and
//! every other distribution, gets the list.

use crate::workspace::{self, find, in_path, is_static};
use anyhow::{Result, bail};
use std::{fmt::Write as _, process::Command};

/// Programs that belong together.
pub(super) struct Programs(&'static [Program]);

/// A program, Debian's package of it, and what runs it.
struct Program {
    name: &'static str,
    package: &'static str,
    purpose: &'static str,
}

#[rustfmt::skip] // one program, one line
pub(super) const LAB: Programs = Programs(&[
    Program { name: "ip", package: "iproute2", purpose: "demo, bench, test: nodes and pods" },
    Program { name: "bpftool", package: "bpftool", purpose: "demo, test: shows the maps" },
    Program { name: "nft", package: "nftables", purpose: "demo, test: shows the masquerading" },
    Program { name: "ping", package: "iputils-ping", purpose: "demo, test: ICMP, PMTU" },
    Program { name: "nsenter", package: "util-linux", purpose: "demo, test: looks into a node" },
]);

#[rustfmt::skip] // one program, one line
pub(super) const TEST: Programs = Programs(&[
    Program { name: "containerd", package: "containerd", purpose: "test: a real runtime" },
    Program { name: "ctr", package: "containerd", purpose: "test: its client" },
    Program { name: "runc", package: "runc", purpose: "test: its containers" },
    Program { name: "mkfs.ext4", package: "e2fsprogs", purpose: "test: file systems of volumes" },
    Program { name: "mkfs.xfs", package: "xfsprogs", purpose: "the same" },
    Program { name: "btrfs", package: "btrfs-progs", purpose: "the same" },
    Program { name: "umount", package: "mount", purpose: "the same" },
    Program { name: "busybox", package: "busybox-static", purpose: "test: what runs in them" },
]);

#[rustfmt::skip] // one program, one line
pub(super) const CLUSTER: Programs = Programs(&[
    Program { name: "openssl", package: "openssl", purpose: "cluster: certificates" },
    Program { name: "mount", package: "mount", purpose: "cluster: a node's own folders" },
    Program { name: "bash", package: "bash", purpose: "cluster: what end-to-end tests run in pods" },
    Program { name: "curl", package: "curl", purpose: "the same" },
    Program { name: "nc", package: "netcat-openbsd", purpose: "the same" },
    Program { name: "wget", package: "wget", purpose: "the same" },
    Program { name: "dig", package: "bind9-dnsutils", purpose: "the same" },
    Program { name: "iperf3", package: "iperf3", purpose: "cluster: what a limit lets pass" },
    Program { name: "setsid", package: "util-linux", purpose: "cluster: outlives the command" },
]);

#[rustfmt::skip] // one program, one line
pub(super) const FILE_SYSTEMS: Programs = Programs(&[
    Program { name: "mkfs.ext4", package: "e2fsprogs", purpose: "image: makes a volume's file system" },
    Program { name: "e2fsck", package: "e2fsprogs", purpose: "image: checks it" },
    Program { name: "resize2fs", package: "e2fsprogs", purpose: "image: grows it" },
    Program { name: "mkfs.xfs", package: "xfsprogs", purpose: "image: makes another kind" },
    Program { name: "xfs_growfs", package: "xfsprogs", purpose: "image: grows that" },
]);

#[rustfmt::skip] // one program, one line
pub(super) const PROXY: Programs = Programs(&[
    Program { name: "openssl", package: "openssl", purpose: "bench: certificates of the API server" },
    Program { name: "setpriv", package: "util-linux", purpose: "the same: its user" },
    Program { name: "iptables", package: "iptables", purpose: "bench: what Services are compared with" },
]);

#[rustfmt::skip] // one program, one line
pub(super) const GUEST: Programs = Programs(&[
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "vm: the guest's machine" },
    Program { name: "busybox", package: "busybox-static", purpose: "vm: what runs first in it" },
]);

#[rustfmt::skip] // one program, one line
pub(super) const STORAGE: Programs = Programs(&[
    Program { name: "fio", package: "fio", purpose: "bench: reads and writes" },
    Program { name: "mkfs.ext4", package: "e2fsprogs", purpose: "bench: file systems of volumes" },
    Program { name: "mkfs.xfs", package: "xfsprogs", purpose: "the same" },
    Program { name: "mkfs.btrfs", package: "btrfs-progs", purpose: "the same" },
    Program { name: "losetup", package: "mount", purpose: "bench: disks of files" },
]);

impl Programs {
    /// Their names; none: one of them is missing.
    pub(super) fn ready(&self) -> Result<Option<String>> {
        let names: Vec<_> = self.0.iter().map(|program| program.name).collect();
        Ok(self.0.iter().all(usable).then(|| names.join(", ")))
    }

    /// Installs those that are missing.
    pub(super) fn make(&self) -> Result<()> {
        let missing: Vec<_> = self.0.iter().filter(|program| !usable(program)).collect();
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
}

/// A busybox with libraries would not run in a container that has none.
fn usable(program: &Program) -> bool {
    let Some(path) = find(program.name) else {
        return false;
    };
    program.package != "busybox-static" || is_static(&path)
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
