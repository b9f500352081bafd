//! What the datapath tests share: network namespaces and bpf file systems that vanish with the
//! test, also when it panics.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a fault here is the test's")]

pub mod cgroup;
pub mod cluster;
pub mod flows;
pub mod frames;
pub mod lab;
pub mod pod;
pub mod raw;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A name that no other test and no other run has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    format!("{prefix}{pid:x}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a command line that must succeed; returns what it printed.
pub fn run(line: &str) -> String {
    let (success, output) = attempt(line);
    assert!(success, "{line}: {output}");
    output
}

/// Runs a command line; whether it succeeded, and what it printed.
pub fn attempt(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("{line}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// A network namespace.
pub struct Netns {
    pub name: String,
}

impl Netns {
    /// Makes one with its loopback up and forwarding off, so that nothing is carried by chance.
    pub fn new(prefix: &str) -> Self {
        let name = unique(prefix);
        run(&format!("ip netns add {name}"));
        let netns = Self { name };
        netns.ip("link set lo up");
        for family in ["ipv4", "ipv6"] {
            netns.set(&format!("{family}/conf/all/forwarding"), 0);
        }
        // No duplicate address detection and no solicitations of the kernel's own.
        netns.set("ipv6/conf/default/accept_dad", 0);
        netns.set("ipv6/conf/default/router_solicitations", 0);
        netns
    }

    /// Writes a setting, by its path below /proc/sys/net.
    pub fn set(&self, key: &str, value: u8) {
        let path = Path::new("/proc/sys/net").join(key);
        self.within(|| fs::write(&path, value.to_string()))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.name))
    }

    /// Runs a command inside that must succeed.
    pub fn run(&self, line: &str) -> String {
        run(&self.wrap(line))
    }

    /// Runs a command inside.
    pub fn attempt(&self, line: &str) -> (bool, String) {
        attempt(&self.wrap(line))
    }

    /// The command line that runs another inside. Not `ip netns exec`, which hides bpffs.
    pub fn wrap(&self, line: &str) -> String {
        format!("nsenter --net={} {line}", self.path().display())
    }

    /// Runs a function on a thread of its own inside.
    pub fn within<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let file = File::open(&path).expect("the namespace is there");
                rustix::thread::move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )
                .expect("root may enter a namespace");
                function()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn ifindex(&self, ifname: &str) -> u32 {
        let text = self.ip(&format!("-o link show dev {ifname}"));
        text.split(':')
            .next()
            .and_then(|n| n.trim().parse().ok())
            .expect("ip prints the index")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        attempt(&format!("ip netns del {}", self.name));
    }
}

/// A bpf file system of the test's own.
pub struct BpfDir {
    path: PathBuf,
}

impl BpfDir {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(unique("fairlead-bpf-"));
        fs::create_dir(&path).expect("a folder for the mount");
        run(&format!("mount -t bpf bpf {}", path.display()));
        Self { path }
    }

    /// The folder to give to the datapath.
    pub fn dir(&self) -> PathBuf {
        self.path.join("fairlead")
    }
}

impl Drop for BpfDir {
    fn drop(&mut self) {
        attempt(&format!("umount -l {}", self.path.display()));
        fs::remove_dir(&self.path).ok();
    }
}
