//! A node dressed with what Calico leaves, in a namespace and a folder of the test's own. Run as root:
//! `cargo test -p cni-agent --test netns_migrate -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use cni_agent::migrate::{Finding, Outcome, Removal, clean, scan};
use std::{fs, path::Path};
use support::Netns;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(found: &[Finding]) -> Vec<&str> {
    found.iter().map(|f| f.name.as_str()).collect()
}

/// What is Fairlead's on a node, and what nobody may touch.
fn dress_with_ours(node: &Netns, root: &Path) {
    let ours = r#"{"plugins":[{"type":"fairlead-cni"},{"type":"portmap"}]}"#;
    write(root, "etc/cni/net.d/05-fairlead.conflist", ours);
    write(root, "opt/cni/bin/fairlead-cni", "");
    write(root, "opt/cni/bin/portmap", "");
    write(root, "var/lib/fairlead/state.redb", "");
    node.ip("link add fl0123456789abc type veth peer name ourpeer");
    node.ip("link set fl0123456789abc up");
    node.ip("route add 100.11.0.5 dev fl0123456789abc proto 157");
    node.ip("route add unreachable 100.11.0.0/24 proto 157");
    node.run("nft add table inet fairlead");
    node.run("nft add chain inet fairlead postrouting");
}

fn ours(node: &Netns, root: &Path) -> Vec<String> {
    let kept = |path: &str| format!("{path}: {}", root.join(path).exists());
    vec![
        node.ip("-o -d link show fl0123456789abc"),
        node.ip("route show proto 157"),
        node.run("nft list table inet fairlead"),
        kept("etc/cni/net.d/05-fairlead.conflist"),
        kept("opt/cni/bin/fairlead-cni"),
        kept("opt/cni/bin/portmap"),
        kept("var/lib/fairlead/state.redb"),
    ]
}

fn dress_with_calico(node: &Netns, root: &Path) {
    let calico =
        r#"{"plugins":[{"type":"calico","ipam":{"type":"calico-ipam"}},{"type":"portmap"}]}"#;
    write(root, "etc/cni/net.d/10-calico.conflist", calico);
    write(root, "etc/cni/net.d/calico-kubeconfig", "");
    write(root, "opt/cni/bin/calico", "");
    write(root, "opt/cni/bin/calico-ipam", "");
    write(root, "var/lib/calico/nodename", "n1");
    write(root, "etc/calico/calicoctl.cfg", "");
    write(root, "var/lib/cni/networks/k8s-pod-network/10.9.0.2", "");
    // Names decide; kinds that every kernel has. The peers in this namespace are nobody's pods.
    node.ip("link add cali0123456789a type veth peer name peer1");
    node.ip("link set peer1 up");
    node.ip("link set cali0123456789a up");
    node.ip("route add 10.9.0.2 dev cali0123456789a");
    node.ip("link add vxlan.calico type veth peer name peer2");
    node.ip("link set vxlan.calico up");
    node.ip("route add blackhole 10.9.0.0/26 proto 80");
    node.ip("route add 10.9.1.0/26 dev vxlan.calico proto 80");
}

#[test]
#[ignore = "needs root"]
fn what_calico_left_goes_and_what_is_ours_stays() {
    let (node, folder) = (Netns::new("fl-mig-"), tempfile::tempdir().unwrap());
    let root = &folder.path().canonicalize().unwrap();
    dress_with_ours(&node, root);
    let before = ours(&node, root);
    node.within(|| {
        assert_eq!(names(&scan(root).unwrap()), Vec::<&str>::new());
    });
    dress_with_calico(&node, root);
    node.within(|| {
        let found = scan(root).unwrap();
        let etc = root.join("etc/calico").display().to_string();
        let lib = root.join("var/lib/calico").display().to_string();
        for expected in [
            "10-calico.conflist",
            "calico-kubeconfig",
            "calico",
            "calico-ipam",
            "cali0123456789a",
            "vxlan.calico",
            "10.9.0.0/26",
            "10.9.1.0/26",
            "10.9.0.2/32",
            "k8s-pod-network",
            &etc,
            &lib,
        ] {
            let here = names(&found).contains(&expected);
            assert!(here, "{expected} in {:?}", names(&found));
        }
        assert_eq!(found.len(), 12, "{found:#?}");
        for outcome in clean(&found, false) {
            assert_eq!(outcome, Outcome::Removed);
        }
        assert_eq!(names(&scan(root).unwrap()), Vec::<&str>::new());
    });
    let aside = "etc/cni/net.d/10-calico.conflist.fairlead-disabled";
    assert!(root.join(aside).exists(), "the way back");
    assert_eq!(ours(&node, root), before);
}

#[test]
#[ignore = "needs root"]
fn a_pod_of_the_other_network_keeps_its_link_unless_forced() {
    let (node, pod) = (Netns::new("fl-mig-"), Netns::new("fl-migpod-"));
    let folder = tempfile::tempdir().unwrap();
    node.ip(&format!(
        "link add cali0123456789a type veth peer name eth0 netns {}",
        pod.path().display()
    ));
    node.run("nft add table ip filter");
    node.run("nft add chain ip filter cali-FORWARD");
    node.within(|| {
        let found = scan(folder.path()).unwrap();
        assert_eq!(names(&found), ["cali0123456789a", "filter cali-FORWARD"]);
        assert_eq!(clean(&found, false), [Outcome::Left, Outcome::Left]);
        assert!(found[0].removal.to_string().contains("--force"));
        assert_eq!(clean(&found, true), [Outcome::Removed, Outcome::Left]);
        // Chains that others share are told with the tool that removes them.
        let left = scan(folder.path()).unwrap();
        assert_eq!(names(&left), ["filter cali-FORWARD"]);
        assert!(left[0].removal.to_string().contains("$t-nft-restore"));
    });
}

/// A file system in a folder of the test's own, while this is held.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(at: &'a Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let words = ["-t", "tmpfs", "fairlead-test"];
        let mut mount = std::process::Command::new("mount");
        assert!(mount.args(words).arg(at).status().unwrap().success());
        Self(at)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.0).status();
        drop(unmounted);
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_mounted_in_a_folder_of_calico_is_told_and_not_entered() {
    let (node, folder) = (Netns::new("fl-mig-"), tempfile::tempdir().unwrap());
    let root = &folder.path().canonicalize().unwrap();
    write(root, "run/calico/state", "");
    let at = root.join("run/calico/cgroup");
    let mount = Mount::new(&at);
    fs::write(at.join("precious"), "").unwrap();
    node.within(|| {
        let mut found = scan(root).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let told = found[0].removal.to_string();
        assert!(told.contains("umount") && told.contains("cgroup"), "{told}");
        assert_eq!(clean(&found, true), [Outcome::Left]);
        // Mounted between look and removal.
        found[0].removal = Removal::Delete(root.join("run/calico"));
        let outcome = clean(&found, true);
        assert!(
            matches!(&outcome[..], [Outcome::Failed(fault)] if fault.contains("is a mount")),
            "{outcome:?}"
        );
        assert!(at.join("precious").exists());
        drop(mount);
        let found = scan(root).unwrap();
        assert_eq!(clean(&found, false), [Outcome::Removed]);
        assert!(!root.join("run/calico").exists());
    });
}
