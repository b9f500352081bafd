//! Bounds what pods read and write of a volume's device: `io.max` of each pod's control group (version 2). The kubelet
//! makes a group for each pod; its uid is in the path where the pod has the volume.

use super::{
    attached::Attached,
    fault::Fault,
    limits::Limits,
    records::Volume,
    volumes::{Volumes, failed},
};
use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

const LOOP_MAJOR: u32 = 7;
const FILE: &str = "io.max";
/// Folders between the root of control groups and a pod's: what the kubelet and systemd make of it.
const DEEPEST: usize = 6;

/// PURE: the uid of the pod that has a volume at a place: `…/pods/UID/volumes/…`, or `…/publish/NAME/UID` of a device.
fn pod_of(at: &Path) -> Option<&str> {
    let mut parts = at.components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    let uid = parts.by_ref().skip_while(|part| *part != "pods").nth(1);
    let uid = uid.or_else(|| at.file_name()?.to_str())?;
    let is_uid = uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

/// PURE: whether a folder is the control group of a pod, by cgroupfs's name or by systemd's.
fn is_group_of(name: &str, uid: &str) -> bool {
    let by_systemd = || {
        let name = name.strip_suffix(".slice")?;
        name.rsplit_once("-pod")
            .map(|(_, uid)| uid.replace('_', "-"))
    };
    name.strip_prefix("pod") == Some(uid) || by_systemd().is_some_and(|of| of == uid)
}

/// The control group of a pod.
fn group_of(root: &Path, uid: &str, depth: usize) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(root)? {
        let entry = match entry {
            // Groups come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entry => entry?,
        };
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if is_group_of(name, uid) {
            return Ok(Some(entry.path()));
        }
        // Another pod's, or a container's.
        let is_leaf =
            name.starts_with("pod") || name.ends_with(".scope") || name.ends_with(".service");
        if depth < DEEPEST && !is_leaf {
            match group_of(&entry.path(), uid, depth + 1) {
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return found,
            }
        }
    }
    Ok(None)
}

impl Volumes {
    /// Files that bound a device for each of these places' pods.
    ///
    /// # Errors
    /// One of them can't be bounded, with the remedy.
    fn bounds<'a>(&self, places: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<PathBuf>, Fault> {
        let root = self.cgroups.as_ref().ok_or_else(|| {
            Fault::Precondition(
                "the node has no control groups of version 2, so that nothing bounds what pods read and write; boot it with systemd.unified_cgroup_hierarchy=1, or leave the limits out".into(),
            )
        })?;
        let mut files = Vec::new();
        for at in places {
            let uid = pod_of(at).ok_or_else(|| {
                Fault::Precondition(
                    "the path names no pod whose control group could bound it; leave the limits out".into(),
                )
            })?;
            let group = group_of(root, uid, 0).map_err(failed("control groups"))?;
            let group = group.ok_or_else(|| {
                Fault::Busy(
                    "the pod has no control group yet, which is to bound what it reads and writes; ask again".into(),
                )
            })?;
            let file = group.join(FILE);
            if !file.exists() {
                return Err(Fault::Precondition(
                    "the node doesn't delegate the controller `io` to pods' control groups, so that nothing bounds what they read and write; add `+io` to cgroup.subtree_control of the kubelet's groups, or leave the limits out".into(),
                ));
            }
            files.push(file);
        }
        Ok(files)
    }

    /// Has the limits of a volume hold for pods at these places. All of them, or none.
    pub(super) fn throttle<'a>(
        &self,
        volume: &Volume,
        limits: &Limits,
        places: impl Iterator<Item = &'a PathBuf>,
    ) -> Result<(), Fault> {
        let Some(device) = self.device(volume)? else {
            // It is bounded when it is published again.
            return Ok(());
        };
        let files = match self.bounds(places) {
            // What bounds nothing has nothing to lift.
            Err(Fault::Precondition(_)) if !limits.has_rates() => return Ok(()),
            files => files?,
        };
        for (done, file) in files.iter().enumerate() {
            if let Err(error) = fs::write(file, limits.line(number(&device))) {
                for file in &files[..done] {
                    let again = fs::write(file, volume.limits.line(number(&device)));
                    again.map_err(failed("the earlier limits"))?;
                }
                return Err(Fault::internal("bounding what pods read and write", error));
            }
        }
        Ok(())
    }

    /// Whether the limits of a volume hold for all of its pods.
    pub(super) fn is_throttled(&self, volume: &Volume) -> Result<bool, Fault> {
        if !volume.limits.has_rates() || volume.targets.is_empty() {
            return Ok(true);
        }
        let (Some(device), Ok(files)) = (self.device(volume)?, self.bounds(volume.targets.keys()))
        else {
            return Ok(false);
        };
        Ok(files.iter().all(|file| {
            let shown = fs::read_to_string(file).unwrap_or_default();
            volume.limits.are_in(number(&device), &shown)
        }))
    }
}

fn number(of: &Attached) -> (u32, u32) {
    (LOOP_MAJOR, of.device().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b5f7a4e-93d5-4c58-9ef6-0f3f4d1e2c3b";

    #[test]
    fn a_pod_is_known_by_where_it_has_a_volume() {
        for (path, expected) in [
            (
                format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pvc-1/mount"),
                Some(UID),
            ),
            (
                format!(
                    "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/{UID}"
                ),
                Some(UID),
            ),
            ("/tmp/sanity/target".into(), None),
            ("/var/lib/kubelet/pods".into(), None),
        ] {
            assert_eq!(pod_of(Path::new(&path)), expected, "{path}");
        }
    }

    #[test]
    fn a_pods_group_is_found_as_both_drivers_name_it() {
        let slice = UID.replace('-', "_");
        for group in [
            format!("kubepods/burstable/pod{UID}"),
            format!("kubepods/pod{UID}"),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{slice}.slice"
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            let group = root.path().join(group);
            fs::create_dir_all(group.join("container")).unwrap();
            let other = "11111111-1111-1111-1111-111111111111";
            fs::create_dir_all(root.path().join(format!("kubepods/pod{other}/pod{UID}"))).unwrap();
            let found = group_of(root.path(), UID, 0).unwrap();
            assert_eq!(found, Some(group));
        }
        let none = tempfile::tempdir().unwrap();
        assert_eq!(group_of(none.path(), UID, 0).unwrap(), None);
    }
}

#[cfg(test)]
#[path = "throttle_tests.rs"]
mod disk_tests;
