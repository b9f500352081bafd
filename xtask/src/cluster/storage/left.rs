//! What volumes leave on a machine: files of the pool, mounts, loop devices. A node's kernel is this machine's, and its
//! devices outlive the node's namespaces.

use super::{
    super::{
        place::{Cluster, until},
        pods, processes,
    },
    LIMIT, SPACE,
};
use crate::{image::hex, lab::run, workspace};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// The pool in a node's folder of this cluster.
const POOL: &str = "own/var/lib/fairlead/volumes";
/// Major number of loop devices.
const LOOP: &str = "7";

/// Removes everything of the walk and looks at the nodes.
pub(super) fn deleted(cluster: &Cluster) -> Result<String> {
    pods::remove(cluster, SPACE)?;
    until(LIMIT, "no PersistentVolume is there", || {
        Ok(cluster
            .ask(&["get", "pv", "-o", "name"])?
            .is_empty()
            .then_some(()))
    })?;
    nothing(cluster)?;
    Ok("0 files, 0 mounts and 0 loop devices of volumes on the nodes".to_owned())
}

/// Waits until nothing of volumes is on the nodes.
///
/// # Errors
/// What stays.
pub(super) fn nothing(cluster: &Cluster) -> Result<()> {
    let mut left = Vec::new();
    let gone = until(LIMIT, "nothing is left on the nodes", || {
        left.clear();
        for node in cluster.plan()?.nodes() {
            let (name, dir) = (node.name(), cluster.node_dir(node));
            left.extend(files(cluster, &name)?);
            left.extend(mounts(cluster, &name)?);
            left.extend(Devices::of(&[dir])?.volumes);
        }
        Ok(left.is_empty().then_some(()))
    });
    gone.with_context(|| format!("left: {left:?}"))
}

/// Files of volumes and snapshots, as the node's agent has them.
fn files(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let script = format!(
        "pid=$({}); cd /proc/$pid/root/var/lib/fairlead/volumes; [ ! -e pool.img ] || cd pool; \
         ls -A volumes snapshots trash",
        processes::finder("fairlead")
    );
    let listed = workspace::output(cluster.in_node(node, "sh")?.args(["-euc", &script]))?;
    let names = listed
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with(':'));
    Ok(names.map(ToOwned::to_owned).collect())
}

/// Mounts of volumes, of the kubelet and of pods.
fn mounts(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let listed = workspace::output(cluster.in_node(node, "cat")?.arg("/proc/self/mountinfo"))?;
    let places = listed.lines().filter_map(|line| line.split(' ').nth(4));
    let ours =
        |place: &&str| place.contains("kubernetes.io~csi") || place.contains("kubernetes.io/csi/");
    Ok(places.filter(ours).map(ToOwned::to_owned).collect())
}

/// Whether a volume is mounted for pods of a node. The kubelet names its folder after the handle.
pub(super) fn is_staged(cluster: &Cluster, node: &str, handle: &str) -> Result<bool> {
    let folder = hex(handle.as_bytes());
    let mounts = mounts(cluster, node)?;
    Ok(mounts.iter().any(|at| at.contains(&folder)))
}

/// Loop devices of pools and of what is in them.
#[derive(Debug, Default)]
struct Devices {
    pools: Vec<String>,
    volumes: Vec<String>,
}

impl Devices {
    /// Those of nodes' folders.
    fn of(nodes: &[PathBuf]) -> Result<Self> {
        let output = ["--json", "--list", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"];
        let listed = workspace::output(Command::new("losetup").args(output))?;
        let all = Behind::read(&listed)?;
        let mut found = Self::default();
        let mut pools = BTreeSet::new();
        let mut files = BTreeSet::new();
        for node in nodes {
            let pool = node.join(POOL);
            pools.extend(identity(&pool.join("pool.img")));
            for folder in ["volumes", "snapshots"] {
                let entries = fs::read_dir(pool.join(folder)).into_iter().flatten();
                files.extend(entries.filter_map(|entry| identity(&entry.ok()?.path())));
            }
        }
        let pool_devices: Vec<_> = all.iter().filter(|of| pools.contains(&of.file)).collect();
        let numbers: BTreeSet<_> = pool_devices
            .iter()
            .map(|pool| format!("{LOOP}:{}", pool.number()))
            .collect();
        let within = |of: &&Behind| files.contains(&of.file) || numbers.contains(&of.file.0);
        let volumes: Vec<_> = all.iter().filter(within).collect();
        // The kubelet puts a device of its own before a raw block volume.
        let nodes: BTreeSet<_> = volumes
            .iter()
            .filter_map(|of| identity(Path::new(&of.name)))
            .collect();
        let above = all.iter().filter(|of| nodes.contains(&of.file));
        found.volumes.extend(
            above
                .chain(volumes.iter().copied())
                .map(|of| of.name.clone()),
        );
        found
            .pools
            .extend(pool_devices.iter().map(|of| of.name.clone()));
        Ok(found)
    }
}

/// A loop device and what is behind it: device and inode of the file.
struct Behind {
    name: String,
    file: (String, u64),
}

impl Behind {
    /// All devices of what `losetup` lists.
    fn read(listed: &str) -> Result<Vec<Self>> {
        if listed.trim().is_empty() {
            return Ok(Vec::new());
        }
        let listed: Value = serde_json::from_str(listed).context("what losetup lists")?;
        let devices = listed["loopdevices"].as_array().context("no devices")?;
        let read = |of: &Value| {
            let device = of["back-maj:min"].as_str()?.trim().to_owned();
            Some(Self {
                name: of["name"].as_str()?.to_owned(),
                file: (device, of["back-ino"].as_u64()?),
            })
        };
        let all = devices.iter().map(read);
        all.collect::<Option<_>>()
            .context("losetup lists a device without its file's inode and device")
    }

    fn number(&self) -> &str {
        self.name.trim_start_matches("/dev/loop")
    }
}

/// Device and inode of a file, as `losetup` writes them.
fn identity(path: &Path) -> Option<(String, u64)> {
    let about = fs::metadata(path).ok()?;
    let device = about.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Some((format!("{major}:{minor}"), about.ino()))
}

/// Takes the loop devices away that nodes of a cluster have left, when all that ran there has ended.
///
/// # Errors
/// When one stays.
pub(in super::super) fn detach(cluster: &Path) -> Result<()> {
    let entries = fs::read_dir(cluster).into_iter().flatten().flatten();
    let nodes: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.join(POOL).is_dir())
        .collect();
    if nodes.is_empty() {
        return Ok(());
    }
    let devices = Devices::of(&nodes)?;
    for device in devices.volumes.iter().chain(&devices.pools) {
        run("losetup", &["--detach", device])?;
    }
    // A device goes with its last user, and what the kernel takes apart of a node's namespaces may be that still.
    let mut left = Devices::default();
    let gone = until(LIMIT, "loop devices are gone", || {
        left = Devices::of(&nodes)?;
        Ok((left.pools.is_empty() && left.volumes.is_empty()).then_some(()))
    });
    gone.with_context(|| format!("loop devices stay: {left:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_losetup_lists_is_read() {
        let device =
            r#"{ "name": "/dev/loop12", "back-ino": 655373, "back-maj:min": "  254:0  " }"#;
        let read = Behind::read(&format!(r#"{{ "loopdevices": [{device}] }}"#)).unwrap();
        assert_eq!(read[0].number(), "12");
        assert_eq!(read[0].file, ("254:0".to_owned(), 655_373));
        assert!(Behind::read("").unwrap().is_empty());
        assert!(Behind::read(r#"{ "loopdevices": [{ "name": "/dev/loop1" }] }"#).is_err());
    }

    #[test]
    #[ignore = "needs root and loop devices"]
    fn a_device_that_a_node_left_is_found_and_taken_away() {
        let cluster = tempfile::tempdir().unwrap();
        let pool = cluster.path().join("n1").join(POOL);
        fs::create_dir_all(&pool).unwrap();
        let image = pool.join("pool.img");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let mut losetup = Command::new("losetup");
        let made = workspace::output(losetup.args(["--find", "--show"]).arg(&image)).unwrap();
        let nodes = [cluster.path().join("n1")];
        assert_eq!(Devices::of(&nodes).unwrap().pools, [made.trim()]);
        detach(cluster.path()).unwrap();
        assert!(Devices::of(&nodes).unwrap().pools.is_empty());
    }
}
