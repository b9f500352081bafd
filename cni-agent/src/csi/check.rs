//! Whether the store, the pool's files, loop devices, mounts and the pods' folders agree: each difference with its remedy.
//! Nothing is changed. What changes meanwhile is left out.

use super::{
    book::Contents,
    fault::Fault,
    health::Illness,
    id::VolumeId,
    kernel::LoopDevice,
    look::{Look, PodFolder, pod_folders},
    pool::Kind,
    records::{Phase, Volume},
    recover::Failure,
    request::Backing,
    volumes::{Volumes, failed},
};
use crate::query::{CheckAnswer, Difference};
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

const RESTART: &str = "restart the agent: a start finishes it or removes it";

/// Everything that is compared.
#[derive(Clone, Debug, Default)]
struct Found {
    contents: Contents,
    /// What somebody works on, by ids and names.
    busy: HashSet<String>,
    look: Look,
    ill: BTreeMap<VolumeId, Vec<Illness>>,
    /// Places where volumes are to be, as the kernel names them; none: there is no such place.
    places: BTreeMap<PathBuf, Option<PathBuf>>,
    pods: Vec<PodFolder>,
    /// What is wrong with the pool as a whole.
    pool: Option<String>,
    /// What the start could not put right.
    unrecovered: Vec<Failure>,
}

impl Volumes {
    /// Compares everything.
    pub(super) fn check(&self, driver: &str, kubelet: &Path) -> Result<CheckAnswer, Fault> {
        let mut busy = self.busy.keys();
        let before = self.book.read().clone();
        let look = self.look()?;
        let mut ill = BTreeMap::new();
        for volume in before.volumes.values().filter(|v| v.phase == Phase::Ready) {
            ill.insert(volume.id.clone(), self.illnesses(volume)?);
        }
        let places = before.volumes.values().flat_map(|volume| {
            let places = volume.stages.keys().chain(volume.targets.keys());
            places.map(|at| Ok((at.clone(), real(at)?)))
        });
        let places: Result<BTreeMap<_, _>, io::Error> = places.collect();
        let places = places.map_err(failed("the places of volumes"))?;
        let pods = pod_folders(driver, kubelet).map_err(failed("the pods' folders"))?;
        let pool = self.pool_illness()?;
        busy.extend(self.busy.keys());
        let after = self.book.read().clone();
        busy.extend(changed(&before, &after));
        let found = Found {
            contents: before,
            busy,
            look,
            ill,
            places,
            pods,
            pool,
            unrecovered: self.unrecovered(),
        };
        Ok(found.answer())
    }
}

/// A place without links; none: it is not there.
fn real(at: &Path) -> io::Result<Option<PathBuf>> {
    match fs::canonicalize(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        real => real.map(Some),
    }
}

/// Ids of what is not the same, or not there, before and after.
fn changed(before: &Contents, after: &Contents) -> Vec<String> {
    let volumes = before.volumes.keys().chain(after.volumes.keys());
    let volumes = volumes
        .filter(|id| before.volumes.get(id) != after.volumes.get(id))
        .map(ToString::to_string);
    let snapshots = before.snapshots.keys().chain(after.snapshots.keys());
    let snapshots = snapshots
        .filter(|id| before.snapshots.get(id) != after.snapshots.get(id))
        .map(ToString::to_string);
    volumes.chain(snapshots).collect()
}

/// From here on PURE.
impl Found {
    fn answer(&self) -> CheckAnswer {
        let mut differences = Vec::new();
        for volume in self.contents.volumes.values() {
            if !self.is_busy(volume.id.as_str(), &volume.name) {
                self.volume(volume, &mut differences);
            }
        }
        self.snapshots(&mut differences);
        self.files(&mut differences);
        self.devices(&mut differences);
        self.mounts(&mut differences);
        self.pods(&mut differences);
        if let Some(problem) = &self.pool {
            differences.push(told("the pool", problem));
        }
        for Failure { what, problem } in &self.unrecovered {
            differences.push(new(
                what,
                format!("could not be put right when the agent started ({problem})"),
                "remove the cause, and restart the agent: a start tries again",
            ));
        }
        differences.sort();
        let ours = self
            .look
            .devices
            .iter()
            .filter(|d| d.of.0 == self.look.disk);
        let volumes = self.contents.volumes.values();
        let busy = volumes.filter(|volume| self.is_busy(volume.id.as_str(), &volume.name));
        CheckAnswer {
            volumes: self.contents.volumes.len(),
            snapshots: self.contents.snapshots.len(),
            files: self.look.files.len(),
            devices: ours.count(),
            mounts: self.places.len(),
            pods: self.pods.len(),
            busy: busy.count(),
            differences,
        }
    }

    fn is_busy(&self, id: &str, name: &str) -> bool {
        // What is made has only its name so far.
        let quoted = format!("{name:?}");
        self.busy
            .iter()
            .any(|key| key == id || key.ends_with(&quoted))
    }

    fn volume(&self, volume: &Volume, differences: &mut Vec<Difference>) {
        let id = volume.id.as_str();
        let mut differ = |problem: String, remedy: &str| differences.push(new(id, problem, remedy));
        match volume.phase {
            Phase::Making => return differ("was never finished".into(), RESTART),
            Phase::Deleting => return differ("is only half deleted".into(), RESTART),
            Phase::Ready => {}
        }
        let ill = self.ill.get(&volume.id);
        for illness in ill.into_iter().flatten() {
            let Difference {
                problem, remedy, ..
            } = told(id, illness.message());
            differ(problem, &remedy);
        }
        let file = self.look.files.get(&(Kind::Volume, id.to_owned()));
        if file.is_none() && volume.backing == Backing::Image {
            return;
        }
        let devices: Vec<_> = file
            .into_iter()
            .flat_map(|file| self.look.devices_of(*file))
            .collect();
        if devices.len() > 1 {
            differ(
                format!("is behind {} loop devices at a time", devices.len()),
                "delete its pods, and then detach with `losetup -d` those that are left",
            );
        }
        if let [device] = &*devices
            && device.bytes < volume.bytes
        {
            differ(
                "is larger than its device".into(),
                "nothing, if a pod's claim was made larger just now: the kubelet has it grown; else delete the pod",
            );
        }
        if let ([device], true) = (&*devices, is_unused(volume)) {
            differ(
                format!("is behind {}, and no pod has it", path(device.device)),
                "restart the agent: a start takes the device away",
            );
        }
        let device = devices.first().map(|device| device.device);
        for (at, target) in &volume.targets {
            self.target(volume, device, at, target.pod.is_some(), &mut differ);
        }
        if volume.fs.is_some() {
            for at in volume.stages.keys() {
                if !self.is_mounted(volume, device, at) {
                    differ(
                        format!("is not mounted at {}, where it was staged", at.display()),
                        "delete its pods: the kubelet stages it anew",
                    );
                }
            }
        }
    }

    fn target(
        &self,
        volume: &Volume,
        device: Option<LoopDevice>,
        at: &Path,
        has_pod: bool,
        differ: &mut impl FnMut(String, &str),
    ) {
        let place = at.display();
        let is_there = self.places.get(at).is_some_and(Option::is_some);
        if !is_there {
            let whose = if has_pod { "pod" } else { "user" };
            return differ(
                format!(
                    "is published at {place}, which is not there: its {whose} has gone without a word"
                ),
                "restart the kubelet: it unpublishes what its pods have left; an inline volume goes when the agent is restarted",
            );
        }
        if volume.fs.is_some() && !self.is_mounted(volume, device, at) {
            differ(
                format!("is not mounted at {place}, where a pod should have it"),
                "delete the pod: the kubelet publishes it anew",
            );
        }
    }

    fn is_mounted(&self, volume: &Volume, device: Option<LoopDevice>, at: &Path) -> bool {
        let real = self.places.get(at).and_then(Option::as_ref);
        let mount = real.and_then(|at| self.look.mounted(at));
        mount.is_some_and(|mount| match volume.backing {
            Backing::Image => device.is_some() && mount.loop_device() == device,
            Backing::Btrfs | Backing::Directory => mount.root.ends_with(volume.id.as_str()),
        })
    }

    fn snapshots(&self, differences: &mut Vec<Difference>) {
        for snapshot in self.contents.snapshots.values() {
            let id = snapshot.id.as_str();
            if self.is_busy(id, &snapshot.name) {
                continue;
            }
            let key = (Kind::Snapshot, id.to_owned());
            let file = self.look.files.get(&key);
            if snapshot.phase == Phase::Ready && self.look.folders.contains(&key) {
                continue;
            }
            let (problem, remedy) = match (snapshot.phase, file) {
                (Phase::Making, _) => ("was never finished", RESTART),
                (Phase::Deleting, _) => ("is only half deleted", RESTART),
                (Phase::Ready, None) => (
                    "its file is gone from the node's pool",
                    "delete the snapshot, and take another",
                ),
                (Phase::Ready, Some(file)) if file.bytes < snapshot.bytes => (
                    "its file has lost its end",
                    "delete the snapshot, and take another",
                ),
                (Phase::Ready, Some(_)) => continue,
            };
            differences.push(new(id, problem.into(), remedy));
        }
    }

    fn files(&self, differences: &mut Vec<Difference>) {
        for (kind, name) in self.look.files.keys().chain(&self.look.folders) {
            let is_known = match kind {
                Kind::Volume => {
                    VolumeId::parse(name).is_some_and(|id| self.contents.volumes.contains_key(&id))
                }
                Kind::Snapshot => {
                    let mut known = self.contents.snapshots.keys();
                    known.any(|id| id.as_str() == name)
                }
            };
            if !is_known && !self.busy.contains(name) {
                differences.push(new(
                    name,
                    "is a file of the pool that nobody remembers".into(),
                    "look at it (a copy, `mount -o loop,ro`), and remove it by hand if nobody needs it",
                ));
            }
        }
        // While something is made or removed, its file has another name.
        if self.busy.is_empty() {
            for left in &self.look.leftovers {
                let problem = "is left of an operation that ended early".to_owned();
                differences.push(new(left, problem, "restart the agent: a start removes it"));
            }
        }
    }

    fn devices(&self, differences: &mut Vec<Difference>) {
        let known = |of| self.look.files.values().any(|file| file.inode == of);
        let ours = self.look.devices.iter();
        // Anything else on the same disk may be behind a device, too: it has a name.
        let gone = ours.filter(|device| device.of.0 == self.look.disk && !known(device.of));
        for device in gone.filter(|_| self.busy.is_empty()) {
            let mounted = self
                .look
                .mounts
                .iter()
                .rfind(|mount| mount.loop_device() == Some(device.device));
            let remedy = match mounted {
                Some(mount) => format!(
                    "`umount {}`, and then `losetup -d {}`",
                    mount.at.display(),
                    path(device.device)
                ),
                None => format!(
                    "look at it with `losetup {0}`, and if it is \"(deleted)\": `losetup -d {0}`",
                    path(device.device)
                ),
            };
            let problem =
                "is a device of a file on the pool's disk that is none of its volumes".to_owned();
            differences.push(new(&path(device.device), problem, &remedy));
        }
    }

    /// Mounts of volumes at places that nobody remembers.
    fn mounts(&self, differences: &mut Vec<Difference>) {
        const SUBPATHS: &str = "volume-subpaths";
        let volumes = self.contents.volumes.values();
        for volume in volumes.filter(|v| !self.is_busy(v.id.as_str(), &v.name)) {
            let file = self.look.files.get(&(Kind::Volume, volume.id.to_string()));
            let devices: Vec<_> = file
                .into_iter()
                .flat_map(|file| self.look.devices_of(*file))
                .collect();
            let places = volume.stages.keys().chain(volume.targets.keys());
            let places: HashSet<&PathBuf> = places
                .filter_map(|at| self.places.get(at)?.as_ref())
                .collect();
            for mount in &self.look.mounts {
                let is_file = volume.backing == Backing::Image;
                let is_its = match is_file {
                    true => devices
                        .iter()
                        .any(|device| mount.loop_device() == Some(device.device)),
                    false => mount.root.ends_with(volume.id.as_str()),
                };
                // A part of a volume is what the kubelet makes of `subPath`.
                let is_part = is_file && mount.root != Path::new("/")
                    || mount.at.iter().any(|part| part == SUBPATHS);
                if is_its && !is_part && !places.contains(&mount.at) {
                    let at = mount.at.display();
                    differences.push(new(
                        volume.id.as_str(),
                        format!("is mounted at {at}, where nobody remembers it"),
                        &format!("`umount {at}`, if no pod uses it"),
                    ));
                }
            }
        }
    }

    fn pods(&self, differences: &mut Vec<Difference>) {
        for pod in &self.pods {
            let of = self.contents.volume(&pod.handle);
            if of.is_none() && !self.busy.iter().any(|key| key.contains(&pod.handle)) {
                differences.push(new(
                    &pod.at.display().to_string(),
                    format!("names volume {:?}, which this node doesn't have", pod.handle),
                    "delete the pod; if it doesn't go, remove this folder once nothing is mounted in it",
                ));
            }
        }
    }
}

/// A volume that is in nobody's hands.
fn is_unused(volume: &Volume) -> bool {
    volume.stages.is_empty() && volume.targets.is_empty()
}

fn path(device: LoopDevice) -> String {
    device.path().display().to_string()
}

fn new(what: &str, problem: String, remedy: &str) -> Difference {
    Difference {
        what: what.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    }
}

/// Of a message that says its remedy after a semicolon.
fn told(what: &str, message: &str) -> Difference {
    let (problem, remedy) = message.split_once("; ").unwrap_or((message, ""));
    new(what, problem.to_owned(), remedy)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
