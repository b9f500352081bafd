//! Volumes and snapshots on this node's pool: each operation is done again with the same outcome, and one that ended early
//! is finished or undone at the next start. Everything here blocks on the disk.

use super::{
    backend::{Asked, Backend, Item, choose, fits},
    book::{Book, Change},
    fault::Fault,
    id::{SnapshotId, VolumeId},
    in_flight::{InFlight, Working},
    limits::Limits,
    pool::{Image, Kind, Pool},
    records::{ObjectName, Phase, Source, Volume},
    recover::Failure,
    request::{self, Access, Backing, Capability, Fs, Parameters},
    snapshots::can_be_cut,
};
use crate::metrics::VolumeCounts;
use node_api::csi::CapacityRange;
use std::{
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// The pool of this node and what is remembered of it.
#[derive(Debug)]
pub(super) struct Volumes {
    pub(super) pool: Pool,
    pub(super) book: Book,
    pub(super) busy: InFlight,
    pub(super) node: String,
    /// Where it is counted how long volumes are held still.
    pub(super) counts: VolumeCounts,
    /// The root of control groups of version 2, where the node has them.
    pub(super) cgroups: Option<PathBuf>,
    /// Room is promised by one at a time.
    promising: Mutex<()>,
    pub(super) unrecovered: Mutex<Vec<Failure>>,
}

/// A volume that is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) range: Option<CapacityRange>,
    pub(super) capabilities: Vec<Capability>,
    pub(super) parameters: Parameters,
    pub(super) source: Option<Source>,
    pub(super) limits: Limits,
    pub(super) claim: Option<ObjectName>,
}

impl Wanted {
    const fn asked(&self) -> Asked<'_> {
        Asked {
            parameters: &self.parameters,
            capabilities: self.capabilities.as_slice(),
        }
    }
}

/// What a source has.
struct Original {
    backing: Backing,
    bytes: u64,
    fs: Option<Fs>,
    formatted: bool,
}

pub(super) fn failed(action: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Fault::Exhausted(format!("{action}: the pool of this node is full"))
        }
        _ => Fault::internal(action, error),
    }
}

pub(super) fn image(of: &VolumeId) -> Image<'_> {
    Image {
        kind: Kind::Volume,
        name: of.as_str(),
    }
}

pub(super) fn cut(of: &SnapshotId) -> Image<'_> {
    Image {
        kind: Kind::Snapshot,
        name: of.as_str(),
    }
}

pub(super) fn now() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

impl Volumes {
    /// On an open pool.
    pub(super) fn new(pool: Pool, book: Book, node: &str) -> Self {
        Self {
            pool,
            book,
            busy: InFlight::default(),
            node: node.to_owned(),
            counts: VolumeCounts::default(),
            cgroups: None,
            promising: Mutex::new(()),
            unrecovered: Mutex::default(),
        }
    }

    /// Counts there.
    pub(super) fn counted(self, counts: &VolumeCounts) -> Self {
        Self {
            counts: counts.clone(),
            ..self
        }
    }

    /// With control groups that bound what pods read and write.
    pub(super) fn bounding_by(self, cgroups: Option<PathBuf>) -> Self {
        Self { cgroups, ..self }
    }

    pub(super) fn promising(&self) -> MutexGuard<'_, ()> {
        self.promising
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps volumes of a kind.
    pub(super) fn backend(&self, backing: Backing) -> Result<&dyn Backend, Fault> {
        Ok(match backing {
            Backing::Image => &self.pool,
            Backing::Directory => &self.pool.directories,
            Backing::Btrfs => match &self.pool.subvolumes {
                Some(subvolumes) => subvolumes,
                None => {
                    return Err(Fault::Internal(
                        "the volume is a subvolume, and the pool is on no btrfs any more; mount that again".into(),
                    ));
                }
            },
        })
    }

    /// All that this node has: that of files first.
    pub(super) fn backends(&self) -> impl Iterator<Item = &dyn Backend> {
        let subvolumes = self.pool.subvolumes.as_ref();
        let backends: [Option<&dyn Backend>; 3] = [
            Some(&self.pool),
            Some(&self.pool.directories),
            subvolumes.map(|of| of as &dyn Backend),
        ];
        backends.into_iter().flatten()
    }

    /// Makes a volume, or answers with the one that was made for this name.
    pub(super) fn create(&self, wanted: &Wanted) -> Result<Volume, Fault> {
        let name = format!("the volume of {:?}", wanted.name);
        let _working = self.busy.begin(&[&name])?;
        let there = self.book.read().named(&wanted.name).cloned();
        match there {
            // Neither making it nor removing it succeeded; nobody makes it now, since its name is ours.
            Some(left) if left.phase == Phase::Making => self.remove(left)?,
            Some(there) => return again(&there, wanted).map(|()| there),
            None => {}
        }
        let _reading = self.hold_source(wanted.source.as_ref())?;
        let original = self.original(wanted.source.as_ref())?;
        let backing = self.backing(wanted, original.as_ref())?;
        let fs = file_system(wanted, backing, original.as_ref())?;
        let least = original.as_ref().map(|original| original.bytes);
        let bytes = request::size(wanted.range.as_ref(), least)?;
        let id = VolumeId::random().map_err(failed("a name for the volume"))?;
        let volume = Volume {
            backing,
            limits: wanted.limits,
            fs,
            formatted: original.as_ref().is_some_and(|original| original.formatted),
            parameters: wanted.parameters.clone(),
            source: wanted.source.clone(),
            made_at: now().as_secs(),
            claim: wanted.claim.clone(),
            ..Volume::new(id, &wanted.name, bytes)
        };
        self.make(volume)
    }

    /// Which back end a new volume is of: that of its source, or the one that suits.
    fn backing(&self, wanted: &Wanted, original: Option<&Original>) -> Result<Backing, Fault> {
        let asked = wanted.asked();
        let Some(given) = original.map(|original| original.backing) else {
            return choose(&asked, self.pool.found());
        };
        match wanted.parameters.backend {
            Some(wanted) if wanted != given => Err(Fault::invalid(
                "parameters",
                format!(
                    "backend: {}, and the source is of {}; use a class of that back end",
                    wanted.as_str(),
                    given.as_str()
                ),
            )),
            _ => fits(given, &asked).map(|()| given),
        }
    }

    /// Makes what was decided on.
    pub(super) fn make(&self, mut volume: Volume) -> Result<Volume, Fault> {
        {
            let _promising = self.promising();
            self.reserve(volume.backing, volume.bytes, volume.parameters.overcommit)?;
            if volume.backing == Backing::Directory {
                volume.project = self.project(&volume)?;
            }
            volume
                .limits
                .fit(volume.backing, volume.project.is_some())?;
            self.book.commit(&[Change::Volume(volume.clone())])?;
        }
        let backend = self.backend(volume.backing)?;
        let made = match &volume.source {
            Some(Source::Volume(of)) => self.cut(&[(of, Item::Volume(&volume))]).map(drop),
            _ => backend.make(&volume).map_err(failed("making the volume")),
        };
        if let Err(fault) = made {
            // A quota that was set, too.
            self.end_volume(&volume)?;
            return Err(fault);
        }
        volume.phase = Phase::Ready;
        self.book.commit(&[Change::Volume(volume.clone())])?;
        tracing::info!(volume = %volume.id, name = volume.name, bytes = volume.bytes, backend = volume.backing.as_str(), "volume made");
        Ok(volume)
    }

    /// A project of its own for a folder; none, where its class lets it go without.
    fn project(&self, volume: &Volume) -> Result<Option<u32>, Fault> {
        let directories = &self.pool.directories;
        match &directories.quota {
            Ok(()) => {
                let contents = self.book.read();
                let volumes = contents.volumes.values();
                let is_taken = |project| volumes.clone().any(|of| of.project == Some(project));
                let free = directories.free_project(is_taken);
                free.map(Some).map_err(failed("a project for the volume"))
            }
            Err(_) if volume.parameters.allow_unenforced => Ok(None),
            Err(why) => Err(Fault::Exhausted(format!(
                "nothing would keep the volume to its size, since {why}; or use a class with allowUnenforced: \"true\""
            ))),
        }
    }

    /// Keeps a source from being removed, and from being changed, while something is made from it. A volume is had alone:
    /// its file system can be held still by one at a time.
    fn hold_source(&self, source: Option<&Source>) -> Result<Option<Working>, Fault> {
        match source {
            None => Ok(None),
            Some(Source::Snapshot(of)) => self.busy.read(of.as_str()).map(Some),
            Some(Source::Volume(of)) => self.busy.begin(&[of.as_str()]).map(Some),
        }
    }

    fn original(&self, source: Option<&Source>) -> Result<Option<Original>, Fault> {
        let contents = self.book.read();
        let found = match source {
            None => return Ok(None),
            Some(Source::Snapshot(id)) => {
                let found = contents.snapshots.get(id);
                found.map(|of| (of.phase, of.backing, of.bytes, of.fs, of.formatted))
            }
            Some(Source::Volume(id)) => {
                let found = contents.volumes.get(id);
                found.map_or(Ok(()), can_be_cut)?;
                found.map(|of| (of.phase, of.backing, of.bytes, of.fs, of.formatted))
            }
        };
        let ready = found.filter(|(phase, ..)| *phase == Phase::Ready);
        let original = ready.map(|(_, backing, bytes, fs, formatted)| Original {
            backing,
            bytes,
            fs,
            formatted,
        });
        let missing = || Fault::NotFound("the source of the volume is not there".into());
        original.map(Some).ok_or_else(missing)
    }

    /// Removes a volume; one that isn't there is removed.
    pub(super) fn delete(&self, handle: &str) -> Result<(), Fault> {
        let Some(id) = VolumeId::parse(handle) else {
            return Ok(());
        };
        let _working = self.busy.begin(&[id.as_str()])?;
        let Some(volume) = self.book.read().volumes.get(&id).cloned() else {
            return Ok(());
        };
        if !volume.stages.is_empty() || !volume.targets.is_empty() || volume.published.is_some() {
            return Err(Fault::Precondition(
                "the volume is in use on this node; unpublish and unstage it first".into(),
            ));
        }
        self.remove(volume)
    }

    /// Removes a volume that nobody uses.
    pub(super) fn remove(&self, mut volume: Volume) -> Result<(), Fault> {
        volume.phase = Phase::Deleting;
        self.book.commit(&[Change::Volume(volume.clone())])?;
        self.end_volume(&volume)?;
        tracing::info!(volume = %volume.id, "volume removed");
        Ok(())
    }

    /// Removes what there is of a volume, and forgets it.
    pub(super) fn end_volume(&self, volume: &Volume) -> Result<(), Fault> {
        self.clear_away(Item::Volume(volume))?;
        self.book.commit(&[Change::NoVolume(volume.id.clone())])
    }

    /// Removes what there is of something; its record stays.
    pub(super) fn clear_away(&self, item: Item<'_>) -> Result<(), Fault> {
        let action = match item {
            Item::Volume(_) => "removing the volume",
            Item::Snapshot(_) => "removing the snapshot",
        };
        let removed = self.backend(item.backing())?.remove(item);
        removed.map_err(failed(action))
    }

    /// The volume that a handle means.
    pub(super) fn found(&self, handle: &str) -> Result<Volume, Fault> {
        let contents = self.book.read();
        let ready = contents
            .volume(handle)
            .filter(|of| of.phase == Phase::Ready);
        ready
            .cloned()
            .ok_or_else(|| Fault::NotFound("there is no such volume on this node".into()))
    }

    /// The volume that a handle means, as it is once nobody else works on it.
    pub(super) fn begin(&self, handle: &str) -> Result<(Working, Volume), Fault> {
        let working = self.busy.begin(&[self.found(handle)?.id.as_str()])?;
        Ok((working, self.found(handle)?))
    }

    /// Lengthens a volume's file; its file system follows on the node.
    pub(super) fn expand(&self, handle: &str, range: &CapacityRange) -> Result<Volume, Fault> {
        let (_working, mut volume) = self.begin(handle)?;
        let limit = u64::try_from(range.limit_bytes).unwrap_or(0);
        let required = u64::try_from(range.required_bytes).unwrap_or(0);
        if volume.bytes >= required {
            if limit != 0 && volume.bytes > limit {
                return Err(Fault::OutOfRange(format!(
                    "the volume has {} bytes, more than the limit; volumes don't shrink",
                    volume.bytes
                )));
            }
            return Ok(volume);
        }
        let bytes = request::size(Some(range), None)?;
        {
            let _promising = self.promising();
            let ratio = volume.parameters.overcommit;
            self.reserve(volume.backing, self.lacks(&volume, bytes)?, ratio)?;
            // A file that is longer than what is remembered is as good as one that isn't yet.
            self.backend(volume.backing)?
                .grow(&volume, bytes)
                .map_err(failed("growing the volume"))?;
            volume.bytes = bytes;
            self.book.commit(&[Change::Volume(volume.clone())])?;
        }
        tracing::info!(volume = %volume.id, bytes, "volume grown");
        Ok(volume)
    }

    /// Bytes of the pool that a volume has to be promised before it has so many. An agent may have ended after its file had
    /// them, and before that was noted.
    fn lacks(&self, volume: &Volume, bytes: u64) -> Result<u64, Fault> {
        if volume.backing != Backing::Image || volume.parameters.thin {
            return Ok(bytes - volume.bytes);
        }
        if volume.source.is_none() {
            let grown = Volume {
                bytes,
                ..volume.clone()
            };
            let [before, after] = [volume, &grown].map(|of| self.owed(Item::Volume(of)));
            return Ok(after.saturating_sub(before));
        }
        // Which blocks are its own isn't known; those that it grew by are.
        let file = self.pool.image(image(&volume.id), false);
        let length = file.and_then(|file| Ok(file.metadata()?.len()));
        let length = length.map_err(failed("opening the volume"))?;
        Ok(bytes.saturating_sub(length.max(volume.bytes)))
    }

    /// Changes the limits of a volume, also while pods have it. All of them hold, or the earlier ones.
    pub(super) fn modify(&self, handle: &str, limits: Limits) -> Result<(), Fault> {
        let (_working, volume) = self.begin(handle)?;
        limits.fit(volume.backing, volume.project.is_some())?;
        let changed = Volume {
            limits,
            ..volume.clone()
        };
        if volume.backing == Backing::Image {
            // Also when they are as they were: the same call again has them hold.
            if limits.has_rates() || volume.limits.has_rates() {
                self.throttle(&volume, &limits, volume.targets.keys())?;
            }
        } else if volume.backing == Backing::Directory {
            let directories = &self.pool.directories;
            directories
                .bound_files(&changed)
                .map_err(failed("the volume's quota"))?;
        }
        if limits == volume.limits {
            return Ok(());
        }
        self.book.commit(&[Change::Volume(changed)])?;
        tracing::info!(volume = %volume.id, ?limits, "a volume's limits changed");
        Ok(())
    }

    /// Notes that this node's pods may use a volume.
    pub(super) fn attach_to(
        &self,
        handle: &str,
        node: &str,
        capability: &Capability,
        readonly: bool,
    ) -> Result<(), Fault> {
        let (_working, mut volume) = self.begin(handle)?;
        if node != self.node {
            return Err(Fault::NotFound(format!(
                "the volume is on node {:?}; its pods have to be there, too",
                self.node
            )));
        }
        if !volume.suits(capability) {
            return Err(Fault::invalid(
                "volume_capability",
                "doesn't suit the volume",
            ));
        }
        match volume.published {
            Some(there) if there == readonly => Ok(()),
            Some(_) => Err(Fault::Exists(
                "the volume is published to this node with another readonly".into(),
            )),
            None => {
                volume.published = Some(readonly);
                self.book.commit(&[Change::Volume(volume)])
            }
        }
    }

    /// Notes that they may not any more. `node`: empty for every one.
    pub(super) fn detach_from(&self, handle: &str, node: &str) -> Result<(), Fault> {
        let Ok(there) = self.found(handle) else {
            return Ok(());
        };
        let _working = self.busy.begin(&[there.id.as_str()])?;
        let Ok(mut volume) = self.found(handle) else {
            return Ok(());
        };
        if !node.is_empty() && node != self.node || volume.published.is_none() {
            return Ok(());
        }
        volume.published = None;
        self.book.commit(&[Change::Volume(volume)])
    }
}

/// PURE: which file system a volume gets; none: it is raw.
fn file_system(
    wanted: &Wanted,
    backing: Backing,
    original: Option<&Original>,
) -> Result<Option<Fs>, Fault> {
    const FIELD: &str = "volume_capabilities";
    if backing != Backing::Image {
        return Ok(Some(Fs::Folder));
    }
    let mut asked = None;
    for capability in &wanted.capabilities {
        match &capability.access {
            Access::Block => {
                return match original.and_then(|original| original.fs) {
                    None => Ok(None),
                    Some(_) => Err(Fault::invalid(
                        FIELD,
                        "are block, and the source has a file system",
                    )),
                };
            }
            Access::Mount { fs: Some(fs), .. } => match asked.replace(*fs) {
                Some(other) if other != *fs => {
                    return Err(Fault::invalid(FIELD, "name two file systems; name one"));
                }
                _ => {}
            },
            Access::Mount { fs: None, .. } => {}
        }
    }
    let asked = asked.or(wanted.parameters.fs);
    match original {
        None => Ok(Some(asked.unwrap_or(Fs::Ext4))),
        Some(original) => match (original.fs, asked) {
            (None, _) => Err(Fault::invalid(
                FIELD,
                "are mount, and the source is a raw block volume",
            )),
            (Some(has), Some(asked)) if has != asked => Err(Fault::invalid(
                FIELD,
                format!(
                    "name {}, and the source has {}",
                    asked.as_str(),
                    has.as_str()
                ),
            )),
            (Some(has), _) => Ok(Some(has)),
        },
    }
}

/// PURE: whether the volume that was made for a name is the one that is asked for. Its source may be gone by now: what that
/// had, it has.
fn again(there: &Volume, wanted: &Wanted) -> Result<(), Fault> {
    if there.phase == Phase::Ready && there.source != wanted.source {
        return Err(another("source"));
    }
    fits(there.backing, &wanted.asked())?;
    let original = there.source.as_ref().map(|_| Original {
        backing: there.backing,
        bytes: there.bytes,
        fs: there.fs,
        formatted: there.formatted,
    });
    let fs = file_system(wanted, there.backing, original.as_ref())?;
    same(there, wanted, fs)
}

fn another(difference: &str) -> Fault {
    let wanted = match difference {
        "parameters" | "limits" => "give it the class",
        _ => "ask for the one",
    };
    Fault::Exists(format!(
        "the volume of this name differs in its {difference}; delete the claim, or {wanted} it was made with"
    ))
}

/// PURE: whether the volume of a name is the one that is asked for.
fn same(there: &Volume, wanted: &Wanted, fs: Option<Fs>) -> Result<(), Fault> {
    let range = wanted.range.unwrap_or_default();
    let (required, limit) = (range.required_bytes, range.limit_bytes);
    let bytes = i64::try_from(there.bytes).unwrap_or(i64::MAX);
    let fits = bytes >= required && (limit == 0 || bytes <= limit);
    let difference = match () {
        () if there.phase != Phase::Ready => {
            return Err(Fault::Busy("the volume of this name is on its way".into()));
        }
        () if !fits => "size",
        () if there.fs != fs => "file system",
        () if there.parameters != wanted.parameters => "parameters",
        () if there.limits != wanted.limits => "limits",
        () => return Ok(()),
    };
    Err(another(difference))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::request::Mode;

    fn mount(fs: Option<Fs>) -> Capability {
        Capability {
            access: Access::Mount {
                fs,
                flags: Vec::new(),
            },
            mode: Mode::Writers,
        }
    }

    fn wanted(capabilities: &[Capability]) -> Wanted {
        Wanted {
            name: "pvc-1".into(),
            range: None,
            capabilities: capabilities.to_vec(),
            parameters: Parameters::default(),
            source: None,
            limits: Limits::default(),
            claim: None,
        }
    }

    #[test]
    fn a_volume_has_the_file_system_that_is_asked_for_or_its_sources() {
        let block = Capability {
            access: Access::Block,
            mode: Mode::Writers,
        };
        let of = |fs| Original {
            backing: Backing::Image,
            bytes: 1,
            fs,
            formatted: true,
        };
        let with = |capability: &Capability, original: Option<Original>| {
            let wanted = wanted(std::slice::from_ref(capability));
            file_system(&wanted, Backing::Image, original.as_ref())
        };
        assert_eq!(with(&mount(None), None), Ok(Some(Fs::Ext4)));
        assert_eq!(with(&mount(Some(Fs::Xfs)), None), Ok(Some(Fs::Xfs)));
        assert_eq!(with(&block, None), Ok(None));
        assert_eq!(
            with(&mount(None), Some(of(Some(Fs::Xfs)))),
            Ok(Some(Fs::Xfs))
        );
        assert_eq!(with(&block, Some(of(None))), Ok(None));
        for (capability, original) in [
            (&mount(Some(Fs::Ext4)), of(Some(Fs::Xfs))),
            (&mount(None), of(None)),
            (&block, of(Some(Fs::Ext4))),
        ] {
            let fault = with(capability, Some(original)).unwrap_err();
            assert_eq!(fault.code(), tonic::Code::InvalidArgument, "{fault}");
        }
    }

    #[test]
    fn a_name_that_was_asked_for_again_is_the_same_volume_or_none() {
        let there = Volume {
            phase: Phase::Ready,
            fs: Some(Fs::Ext4),
            ..Volume::new(VolumeId::random().unwrap(), "pvc-1", 10 << 30)
        };
        let range = |required_bytes, limit_bytes| {
            Some(CapacityRange {
                required_bytes,
                limit_bytes,
            })
        };
        let asked = |range| Wanted {
            range,
            ..wanted(&[mount(None)])
        };
        let ext4 = Some(Fs::Ext4);
        assert_eq!(
            same(&there, &asked(range(10 << 30, 10 << 30)), ext4),
            Ok(())
        );
        assert_eq!(same(&there, &asked(range(1 << 30, 0)), ext4), Ok(()));
        for (wanted, fs, what) in [
            (asked(range(20 << 30, 0)), ext4, "size"),
            (asked(range(1, 1 << 30)), ext4, "size"),
            (asked(None), Some(Fs::Xfs), "file system"),
        ] {
            let fault = same(&there, &wanted, fs).unwrap_err();
            assert_eq!(fault.code(), tonic::Code::AlreadyExists);
            assert!(fault.to_string().contains(what), "{fault}");
            assert!(fault.to_string().contains("delete the claim"), "{fault}");
        }
        let making = Volume {
            phase: Phase::Making,
            ..there
        };
        let fault = same(&making, &asked(None), ext4).unwrap_err();
        assert_eq!(fault.code(), tonic::Code::Aborted);
    }
}
