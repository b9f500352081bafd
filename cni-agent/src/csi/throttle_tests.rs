//! Limits of volumes that pods have, on real loop devices; and whether the kernel holds them, where the environment names
//! control groups that can. Needs root.

use crate::csi::{
    disk_tests::{MIB, Node, capability, target},
    fault::Fault,
    health::Illness,
    kernel::LoopDevice,
    limits::Limits,
    records::Volume,
    request::Fs,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const UID: &str = "0b5f7a4e-93d5-4c58-9ef6-0f3f4d1e2c3b";

fn writing(bytes: u64) -> Limits {
    Limits {
        write_bytes_per_second: bytes,
        ..Limits::default()
    }
}

/// Shows a volume where the kubelet would show it to a pod; where.
fn publish(node: &Node, of: &Volume) -> Result<PathBuf, Fault> {
    let (stage, capability) = (node.place("stage"), capability(of.fs));
    let at = node.place(&format!("pods/{UID}/volumes/kubernetes.io~csi/v/mount"));
    let handle = of.id.as_str();
    node.volumes().stage(handle, &stage, &capability)?;
    let target = target(&capability, false);
    node.volumes().publish(handle, &stage, &at, target)?;
    Ok(at)
}

fn take_back(node: &Node, of: &Volume, at: &Path) {
    let handle = of.id.as_str();
    node.volumes().unpublish(handle, at).unwrap();
    node.volumes()
        .unstage(handle, &node.place("stage"))
        .unwrap();
    node.volumes().delete(handle).unwrap();
}

fn device(node: &Node, of: &Volume) -> LoopDevice {
    node.volumes().device(of).unwrap().unwrap().device()
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn limits_hold_for_a_pods_group_or_nothing_changes_and_why_is_told() {
    // A group as the kernel shows it, which keeps what is written last.
    let groups = tempfile::tempdir().unwrap();
    let group = groups.path().join(format!("kubepods/burstable/pod{UID}"));
    let mut node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let handle = volume.id.as_str();
    node.volumes().modify(handle, writing(1000)).unwrap();
    let refused = publish(&node, &volume).unwrap_err();
    assert!(
        matches!(&refused, Fault::Precondition(problem) if problem.contains("version 2")),
        "{refused:?}"
    );
    node.bound_by(groups.path());
    let early = publish(&node, &volume).unwrap_err();
    assert!(matches!(&early, Fault::Busy(_)), "{early:?}");
    fs::create_dir_all(&group).unwrap();
    let refused = publish(&node, &volume).unwrap_err();
    assert!(
        matches!(&refused, Fault::Precondition(problem) if problem.contains("delegate")),
        "{refused:?}"
    );
    let file = group.join("io.max");
    fs::write(&file, "").unwrap();
    let at = publish(&node, &volume).unwrap();
    let is = |expected: &str| {
        let device = device(&node, &volume).0;
        let shown = fs::read_to_string(&file).unwrap();
        assert_eq!(shown, format!("7:{device} {expected}"));
    };
    is("rbps=max wbps=1000 riops=max wiops=max");
    let found = || node.volumes().found(handle).unwrap();
    assert_eq!(node.volumes().illnesses(&found()), Ok(vec![]));
    node.volumes().modify(handle, writing(2000)).unwrap();
    is("rbps=max wbps=2000 riops=max wiops=max");

    fs::remove_file(&file).unwrap();
    let ill = node.volumes().illnesses(&found()).unwrap();
    assert_eq!(ill, [Illness::Unthrottled]);
    let refused = node.volumes().modify(handle, writing(3000)).unwrap_err();
    assert!(matches!(refused, Fault::Precondition(_)), "{refused:?}");
    assert_eq!(found().limits, writing(2000));
    fs::write(&file, "").unwrap();
    node.volumes().modify(handle, Limits::default()).unwrap();
    is("rbps=max wbps=max riops=max wiops=max");
    let files = Limits {
        max_files: 1,
        ..Limits::default()
    };
    let refused = node.volumes().modify(handle, files).unwrap_err();
    assert!(matches!(refused, Fault::Invalid { .. }), "{refused:?}");
    take_back(&node, &volume, &at);
}

/// On kernels that not every machine has: where the environment says.
mod elsewhere {
    use super::*;

    /// Where control groups of version 2 are mounted, with the controller `io`.
    const GROUPS: &str = "FAIRLEAD_TEST_IO_CGROUP";

    #[test]
    #[ignore = "needs root, and control groups of version 2 with `io`"]
    fn the_kernel_has_a_pod_write_no_faster_than_its_volumes_limit() {
        let root = std::env::var_os(GROUPS).map_or_else(
            || panic!("{GROUPS} names no folder of control groups with the controller io"),
            PathBuf::from,
        );
        let kubepods = root.join("kubepods");
        let group = kubepods.join(format!("pod{UID}"));
        fs::create_dir_all(&group).unwrap();
        for parent in [&root, &kubepods] {
            fs::write(parent.join("cgroup.subtree_control"), "+io").unwrap();
        }
        let mut node = Node::new();
        node.bound_by(&root);
        let volume = node.make("v", Some(Fs::Ext4), None);
        let limits = writing(MIB);
        node.volumes().modify(volume.id.as_str(), limits).unwrap();
        let at = publish(&node, &volume).unwrap();
        let write = || {
            let start = Instant::now();
            let script = format!(
                "echo $$ > {}/cgroup.procs && exec dd if=/dev/zero of={}/data bs=64k count=64 oflag=direct",
                group.display(),
                at.display()
            );
            let done = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert!(done.status.success(), "{done:?}");
            start.elapsed()
        };
        // Four MiB.
        assert!(write() > Duration::from_secs(2));
        let device = device(&node, &volume).0;
        let shown = fs::read_to_string(group.join("io.max")).unwrap();
        assert!(shown.contains(&format!("7:{device} ")) && shown.contains(&format!("wbps={MIB}")));
        assert_eq!(
            node.volumes()
                .illnesses(&node.volumes().found(volume.id.as_str()).unwrap()),
            Ok(vec![])
        );
        let handle = volume.id.as_str();
        node.volumes().modify(handle, Limits::default()).unwrap();
        let shown = fs::read_to_string(group.join("io.max")).unwrap();
        assert!(!shown.contains(&format!("7:{device} ")), "{shown}");
        take_back(&node, &volume, &at);
        fs::remove_dir(&group).unwrap();
    }
}
