//! Namespaces that stand for a node and its sandboxes, gone when the test ends however it ends.

use cni_agent::{
    model::{Addresses, AttachmentId, Mac},
    netlink::{
        NetlinkError,
        link::{LinkPlan, alias, host_ifname, wire},
    },
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    future::Future,
    os::fd::{AsFd, BorrowedFd},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A network namespace with a name of its own.
pub(crate) struct Netns {
    name: String,
    file: File,
}

impl Netns {
    pub(crate) fn new(role: &str) -> Netns {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flt-{}-{number}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        Netns { name, file }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs a command inside and returns what it prints; fails the test when it fails.
    pub(crate) fn sh(&self, command: &str) -> String {
        let (ok, output) = self.attempt(command);
        assert!(ok, "{command}: {output}");
        output
    }

    /// Writes a setting, by its path below /proc/sys/net.
    pub(crate) fn set(&self, key: &str, value: u8) {
        self.sh(&format!("echo {value} > /proc/sys/net/{key}"));
    }

    /// Runs a command inside and tells whether it succeeded.
    pub(crate) fn attempt(&self, command: &str) -> (bool, String) {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .args(["sh", "-c", command])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Runs a future on a runtime whose threads are all inside, as the agent of that node would.
    pub(crate) fn run<F: Future>(&self, work: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network)).unwrap();
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(work())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The last sign of life of the namespace, so failures are only told.
        let deleted = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} is still there", self.name);
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// Families that a pod of a test has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Families {
    V4,
    V6,
    Both,
}

/// A plan for pod number `number` on the node.
pub(crate) fn plan(number: u16, ifname: &str, families: Families) -> LinkPlan {
    let attachment = AttachmentId::new(&format!("sandbox{number}"), ifname).unwrap();
    let [high, low] = number.to_be_bytes();
    let v4 = [100, 11, high, low].into();
    let v6 = [0xfd00, 0x11, 0, 0, 0, 0, 0, number].into();
    LinkPlan {
        ifname: ifname.into(),
        host_ifname: host_ifname(&attachment),
        alias: alias(&attachment),
        mac: Mac([2, 0x11, 0, 0, high, low]),
        host_mac: Mac([2, 0x22, 0, 0, high, low]),
        addresses: match families {
            Families::V4 => Addresses {
                v4: Some(v4),
                v6: None,
            },
            Families::V6 => Addresses {
                v4: None,
                v6: Some(v6),
            },
            Families::Both => Addresses {
                v4: Some(v4),
                v6: Some(v6),
            },
        },
        mtu: 1400,
    }
}

/// Wires a sandbox with nothing to enforce.
pub(crate) async fn try_add(plan: &LinkPlan, pod: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    wire(plan, pod, |_| Ok::<_, std::convert::Infallible>(()))
        .await
        .map(drop)
}

/// As `try_add`, where it must succeed.
pub(crate) async fn add(plan: &LinkPlan, pod: &Netns) {
    try_add(plan, pod.fd()).await.unwrap();
}
