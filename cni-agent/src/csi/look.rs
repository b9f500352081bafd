//! What the node has of the pool, read once: its files, loop devices, mounts, and the pods' folders that name its volumes.

use super::{
    attached::{Attached, Inode},
    fault::Fault,
    kernel::{Extent, Extents, LoopDevice},
    mounts::{self, Mount},
    pool::{Image, Kind},
    volumes::{Volumes, failed},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A file of a volume or a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageFile {
    pub(super) inode: Inode,
    pub(super) bytes: u64,
    /// Bytes of the pool.
    pub(super) allocated: u64,
}

/// A loop device that has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) device: LoopDevice,
    pub(super) of: Inode,
    pub(super) bytes: u64,
}

/// A pod's folder that names a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFolder {
    /// The folder of the volume in it.
    pub(super) at: PathBuf,
    /// The volume's.
    pub(super) handle: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Of the disk that the pool's files are on.
    pub(super) disk: u64,
    pub(super) files: BTreeMap<(Kind, String), ImageFile>,
    /// Subvolumes and directories.
    pub(super) folders: BTreeSet<(Kind, String)>,
    /// Of operations that ended early, or go on.
    pub(super) leftovers: Vec<String>,
    pub(super) devices: Vec<Device>,
    pub(super) mounts: Vec<Mount>,
}

impl Look {
    /// The devices that a file is behind.
    pub(super) fn devices_of(&self, file: ImageFile) -> impl Iterator<Item = Device> {
        let devices = self.devices.iter();
        devices
            .filter(move |device| device.of == file.inode)
            .copied()
    }

    /// The topmost mount at a place that the kernel names so.
    pub(super) fn mounted(&self, place: &Path) -> Option<&Mount> {
        self.mounts.iter().rfind(|mount| mount.at == place)
    }
}

/// How much of a file is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) own: u64,
    pub(super) shared: u64,
}

impl Volumes {
    /// Looks at the pool and the kernel.
    pub(super) fn look(&self) -> Result<Look, Fault> {
        // Devices before files: a device's file is then among them, unless it was removed.
        let mut devices = Vec::new();
        for device in LoopDevice::all().map_err(failed("loop devices"))? {
            if let Some(attached) = Attached::now(device).map_err(failed("a loop device"))? {
                let bytes = attached.bytes().map_err(failed("a loop device"))?;
                let of = attached.backing();
                devices.push(Device { device, of, bytes });
            }
        }
        let mut files = BTreeMap::new();
        for kind in [Kind::Volume, Kind::Snapshot] {
            for name in self.pool.images(kind).map_err(failed("the pool"))? {
                if let Some(file) = self.image_file(Image { kind, name: &name })? {
                    files.insert((kind, name), file);
                }
            }
        }
        let mut folders = BTreeSet::new();
        for backend in self.backends().skip(1) {
            for kind in [Kind::Volume, Kind::Snapshot] {
                let names = backend.names(kind).map_err(failed("the pool"))?;
                folders.extend(names.into_iter().map(|name| (kind, name)));
            }
        }
        Ok(Look {
            disk: self.pool.disk().map_err(failed("the pool"))?,
            files,
            folders,
            leftovers: self.pool.leftovers().map_err(failed("the pool"))?,
            devices,
            mounts: mounts::all().map_err(failed("mounts"))?,
        })
    }

    fn image_file(&self, image: Image<'_>) -> Result<Option<ImageFile>, Fault> {
        const SECTOR: u64 = 512;
        let metadata = match self.pool.image(image, false) {
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.and_then(|file| file.metadata()),
        };
        let metadata = metadata.map_err(failed("a file of the pool"))?;
        Ok(Some(ImageFile {
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            allocated: metadata.blocks().saturating_mul(SECTOR),
        }))
    }

    /// Which blocks of a file nobody shares; none: it is not there.
    pub(super) fn blocks(&self, image: Image<'_>) -> Result<Option<Blocks>, Fault> {
        let file: File = match self.pool.image(image, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed("a file of the pool"))?,
        };
        let mut blocks = Blocks::default();
        for extent in Extents::of(&file, 0) {
            let extent = extent.map_err(failed("the extents of a file"))?;
            match extent.flags & Extent::SHARED {
                0 => blocks.own += extent.length,
                _ => blocks.shared += extent.length,
            }
        }
        Ok(Some(blocks))
    }
}

/// What the kubelet writes down of a pod's volume, as far as it is read here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeData {
    #[serde(default)]
    driver_name: String,
    #[serde(default)]
    volume_handle: String,
}

/// Folders of pods that name volumes of a driver. What can't be read is nobody's.
pub(super) fn pod_folders(driver: &str, kubelet: &Path) -> io::Result<Vec<PodFolder>> {
    let mut found = Vec::new();
    for pod in entries(&kubelet.join("pods"))? {
        for at in entries(&pod.join("volumes/kubernetes.io~csi"))? {
            let Ok(text) = fs::read(at.join("vol_data.json")) else {
                continue;
            };
            let Ok(data) = serde_json::from_slice::<VolumeData>(&text) else {
                continue;
            };
            if data.driver_name == driver {
                let handle = data.volume_handle;
                found.push(PodFolder { at, handle });
            }
        }
    }
    Ok(found)
}

/// Paths of what is in a folder; nothing if there is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_pods_are_found_by_the_drivers_name() {
        let kubelet = tempfile::tempdir().unwrap();
        let volume = |pod: &str, name: &str, text: &str| {
            let at = kubelet
                .path()
                .join("pods")
                .join(pod)
                .join("volumes/kubernetes.io~csi")
                .join(name);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("vol_data.json"), text).unwrap();
            at
        };
        let data = |driver: &str| {
            format!(
                "{{\"driverName\":\"{driver}\",\"volumeHandle\":\"vol-1\",\"nodeName\":\"n1\"}}"
            )
        };
        let ours = volume("p1", "pvc-1", &data("csi.fairlead.dev"));
        volume("p1", "pvc-2", &data("other.example"));
        volume("p2", "pvc-3", "half wri");
        fs::create_dir_all(kubelet.path().join("pods/p3")).unwrap();
        let found = pod_folders("csi.fairlead.dev", kubelet.path()).unwrap();
        let expected = PodFolder {
            at: ours,
            handle: "vol-1".into(),
        };
        assert_eq!(found, [expected]);
        let none = pod_folders("csi.fairlead.dev", Path::new("/nowhere")).unwrap();
        assert_eq!(none, []);
    }
}
