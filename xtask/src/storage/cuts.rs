//! Power cuts while pods write and operations run. The image that a pool is on is cloned at one moment, as a disk is that
//! loses its power: what the kernel had not yet written to it is not in the clone. An agent on the clone has every
//! operation that was acknowledged before, and pods find every record that was fsync'ed before.
//!
//! What it can't show: a disk that loses what it had acknowledged without a flush.

use super::{
    backend::Backend,
    chance::{self, Chance},
    client::{Client, Form, Of, Refused},
    node::{Disk, DiskFs, Node, clone, must},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A record is a block that says its number all over.
const BLOCK: usize = 4096;
/// Records are written over again and again, so that shared blocks are, too.
const SLOTS: u64 = 512;
/// Records that a pod writes between two operations.
const RECORDS: u64 = 40;
/// Clones of one life of a pool.
const CUTS: u64 = 5;
/// After so many rounds nothing stays any more that a round makes.
const STAYS: usize = 30;
/// How large a pool seems: its file takes what is written.
const POOL: u64 = 20 << 30;
/// Between two of them, at most.
const PAUSE: Duration = Duration::from_millis(1200);

/// How far something is that was asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    made: Option<bool>,
    removed: Option<bool>,
}

type Fates = BTreeMap<String, Fate>;

/// What was begun (`Some(false)`) and acknowledged (`Some(true)`), by name.
#[derive(Clone, Debug, Default)]
struct Told {
    volumes: Fates,
    snapshots: Fates,
    /// Ids, when they are known.
    ids: BTreeMap<String, String>,
    /// Records of a pod that are begun and that are fsync'ed.
    begun: BTreeMap<String, u64>,
    synced: BTreeMap<String, u64>,
    /// The fsync'ed record of its pod before a snapshot was asked for.
    floors: BTreeMap<String, u64>,
}

impl Told {
    fn volumes(&self) -> &Fates {
        &self.volumes
    }

    fn snapshots(&self) -> &Fates {
        &self.snapshots
    }
}

#[derive(Default)]
struct Journal(Mutex<Told>);

impl Journal {
    fn now(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }
}

/// What was told before a clone began, and after it ended.
struct Cut {
    image: PathBuf,
    before: Told,
    after: Told,
}

fn record(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK / 8)
}

/// The number of a record that is whole; 0: nothing was written there.
fn number(block: &[u8]) -> Result<u64, String> {
    let (numbers, _) = block.as_chunks::<8>();
    match numbers.iter().all(|number| *number == numbers[0]) {
        true => Ok(u64::from_le_bytes(numbers[0])),
        false => Err("a record is half of one and half of another".to_owned()),
    }
}

/// Whether the records of a file are those up to a number that was fsync'ed, or later ones that were begun.
fn verify(at: &Path, synced: u64, begun: u64) -> Result<(), String> {
    let mut block = [0; BLOCK];
    let file = File::open(at.join("records")).map_err(|error| error.to_string());
    if synced == 0 && file.is_err() {
        return Ok(());
    }
    let file = file?;
    for slot in 0..SLOTS {
        // The last one of this slot that was fsync'ed.
        let least = synced
            .checked_sub(slot)
            .map_or(0, |since| synced - since % SLOTS);
        let found = match file.read_exact_at(&mut block, slot * BLOCK as u64) {
            Ok(()) => number(&block)?,
            Err(_) => 0,
        };
        let fits = found == 0 || found % SLOTS == slot;
        if !fits || found < least || found > begun {
            return Err(format!(
                "slot {slot} has record {found}; {least} was fsync'ed and {begun} the last one that was begun"
            ));
        }
    }
    Ok(())
}

/// Its end has those end who look at it.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pod's file of numbered records, each durable before the next one.
struct Writer<'a> {
    journal: &'a Journal,
    pod: &'a str,
    file: File,
    last: u64,
}

impl<'a> Writer<'a> {
    fn new(journal: &'a Journal, pod: &'a str, at: &Path) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(at.join("records"))
            .unwrap();
        let last = journal.now().synced.get(pod).copied().unwrap_or(0);
        Self {
            journal,
            pod,
            file,
            last,
        }
    }

    fn write(&mut self) {
        self.last += 1;
        let (pod, last) = (self.pod.to_owned(), self.last);
        self.journal.now().begun.insert(pod.clone(), last);
        let at = (last % SLOTS) * BLOCK as u64;
        self.file.write_all_at(&record(last), at).unwrap();
        self.file.sync_data().unwrap();
        self.journal.now().synced.insert(pod, last);
    }
}

/// A pod that writes until it is stopped.
fn write(journal: &Journal, pod: &str, at: &Path, stop: &AtomicBool) {
    let mut writer = Writer::new(journal, pod, at);
    while !stop.load(Ordering::Relaxed) {
        writer.write();
    }
}

/// What a pool of a back end is on, and who has volumes there.
#[derive(Clone, Copy)]
struct Life {
    /// Pods that write all the time.
    pods: &'static [&'static str],
    /// Whose volumes snapshots and clones are of.
    sources: &'static [&'static str],
    /// A source has a pod between two operations only.
    by_turns: bool,
}

impl Life {
    fn of(backend: Backend) -> Self {
        let (pods, sources, by_turns): (&[_], &[_], _) = match backend {
            Backend::Image => (&["ext4", "xfs"], &["ext4", "xfs"], false),
            Backend::Btrfs => (&["btrfs", "other-btrfs"], &["btrfs", "other-btrfs"], false),
            Backend::Directory => (&["directory"], &["source", "other-source"], true),
        };
        Self {
            pods,
            sources,
            by_turns,
        }
    }

    /// All who have a volume.
    fn all(self) -> impl Iterator<Item = &'static str> {
        let others = self
            .sources
            .iter()
            .filter(move |of| !self.pods.contains(of));
        self.pods.iter().chain(others).copied()
    }

    /// Of whose volume something of that round is.
    fn source(self, round: usize) -> &'static str {
        self.sources[round % self.sources.len()]
    }
}

/// Operations one after another, each in the journal before and after it.
fn operate(life: Life, journal: &Journal, client: &Client, node: &Node, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let (volume, snapshot) = (format!("v{round}"), format!("s{round}"));
        let pod = life.source(round);
        let source = journal.now().ids[pod].clone();
        if life.by_turns {
            let at = give(client, node, &source, pod).unwrap();
            let mut writer = Writer::new(journal, pod, &at);
            (0..RECORDS).for_each(|_| writer.write());
            drop(writer);
            take(client, node, &source, pod);
        }
        {
            let mut told = journal.now();
            told.snapshots.entry(snapshot.clone()).or_default().made = Some(false);
            let floor = told.synced.get(pod).copied().unwrap_or(0);
            told.floors.insert(snapshot.clone(), floor);
        }
        let id = client.snapshot(&snapshot, &source).unwrap();
        {
            let mut told = journal.now();
            told.ids.insert(snapshot.clone(), id.clone());
            told.snapshots.get_mut(&snapshot).unwrap().made = Some(true);
            told.volumes.entry(volume.clone()).or_default().made = Some(false);
        }
        let form = form(pod);
        let of = match round % 3 {
            0 => Of::Nothing,
            1 => Of::Snapshot(id.clone()),
            _ => Of::Volume(source),
        };
        let made = client.create(form.volume(&volume, &of)).unwrap();
        {
            let mut told = journal.now();
            told.ids.insert(volume.clone(), made.clone());
            told.volumes.get_mut(&volume).unwrap().made = Some(true);
        }
        // However quick the machine is, the pool has room for what stays.
        if round % 2 == 0 || round > STAYS {
            journal.now().snapshots.get_mut(&snapshot).unwrap().removed = Some(false);
            client.delete_snapshot(&id).unwrap();
            journal.now().snapshots.get_mut(&snapshot).unwrap().removed = Some(true);
            journal.now().volumes.get_mut(&volume).unwrap().removed = Some(false);
            client.delete(&made).unwrap();
            journal.now().volumes.get_mut(&volume).unwrap().removed = Some(true);
        }
    }
}

/// Of a pod that is called after it.
fn form(pod: &str) -> Form {
    match pod {
        "xfs" => Form::Xfs,
        "ext4" => Form::Ext4,
        "btrfs" | "other-btrfs" => Form::Btrfs,
        _ => Form::Directory,
    }
}

/// What has to be there after a cut, and what may be.
fn expected(cut: &Cut, of: fn(&Told) -> &Fates) -> (BTreeSet<String>, BTreeSet<String>) {
    let begun = |fate: &Fate| fate.made.is_some();
    let ids = |name: &String| cut.after.ids.get(name).cloned();
    let may = of(&cut.after).iter().filter(|(name, fate)| {
        let removed = of(&cut.before)
            .get(*name)
            .is_some_and(|fate| fate.removed == Some(true));
        begun(fate) && !removed
    });
    let must = of(&cut.before).iter().filter(|(name, fate)| {
        let leaving = of(&cut.after)
            .get(*name)
            .is_some_and(|fate| fate.removed.is_some());
        fate.made == Some(true) && !leaving
    });
    (
        must.filter_map(|(name, _)| ids(name)).collect(),
        may.filter_map(|(name, _)| ids(name)).collect(),
    )
}

/// Has a node run until its disk was cut several times.
fn live(life: Life, node: &mut Node, power: &Power, chance: &mut Chance) -> Vec<Cut> {
    let (journal, stop) = (Journal::default(), AtomicBool::new(false));
    node.start();
    let client = Client::lazy(&node.socket()).unwrap();
    let node = &*node;
    for pod in life.all() {
        let id = client.create(form(pod).volume(pod, &Of::Nothing)).unwrap();
        if life.pods.contains(&pod) {
            give(&client, node, &id, pod).unwrap();
        }
        let mut told = journal.now();
        told.ids.insert(pod.to_owned(), id);
        told.volumes.entry(pod.to_owned()).or_default().made = Some(true);
    }
    thread::scope(|scope| {
        // Also when a cut fails.
        let _stopping = Stopping(&stop);
        let (journal, stop, client) = (&journal, &stop, &client);
        for pod in life.pods {
            let at = node.place(pod);
            scope.spawn(move || write(journal, pod, &at, stop));
        }
        scope.spawn(move || operate(life, journal, client, node, stop));
        let cuts = (0..CUTS).map(|number| {
            thread::sleep(chance.moment(PAUSE));
            let image = power.image.with_file_name(format!("cut-{number}.img"));
            let before = journal.now().clone();
            clone(&power.image, &image);
            let after = journal.now().clone();
            Cut {
                image,
                before,
                after,
            }
        });
        cuts.collect::<Vec<Cut>>()
    })
    .into_iter()
    .map(|mut cut| {
        // What was begun at a cut has its id now.
        cut.after.ids = journal.now().ids.clone();
        cut
    })
    .collect()
}

fn give(client: &Client, node: &Node, id: &str, pod: &str) -> Result<PathBuf, String> {
    let (stage, at) = (node.place(&format!("stage-{pod}")), node.place(pod));
    let told = |refused: Refused| format!("{:?}: {}", refused.code(), refused.message());
    client.stage(id, &stage, form(pod)).map_err(told)?;
    client.publish(id, &stage, &at, form(pod)).map_err(told)?;
    Ok(at)
}

fn take(client: &Client, node: &Node, id: &str, pod: &str) {
    client.unpublish(id, &node.place(pod)).unwrap();
    client
        .unstage(id, &node.place(&format!("stage-{pod}")))
        .unwrap();
}

/// What an agent makes of the disk as it was at a cut.
fn recover(life: Life, node: &mut Node, power: &mut Power, cut: &Cut) -> Result<(), String> {
    fs::rename(&cut.image, &power.image).map_err(|e| e.to_string())?;
    power.on();
    node.start();
    let client = Client::lazy(&node.socket()).unwrap();
    let (volumes, snapshots) = (client.volumes().unwrap(), client.all_snapshots().unwrap());
    for (what, there, of) in [
        ("volume", &volumes, Told::volumes as fn(&Told) -> &Fates),
        ("snapshot", &snapshots, Told::snapshots),
    ] {
        let (must, may) = expected(cut, of);
        let lost: Vec<_> = must.difference(there).collect();
        let strange: Vec<_> = there.difference(&may).collect();
        if !lost.is_empty() || !strange.is_empty() {
            return Err(format!(
                "{what}: lost {lost:?}, not to be there {strange:?}"
            ));
        }
    }
    for pod in life.all() {
        let id = &cut.after.ids[pod];
        let at = give(&client, node, id, pod)?;
        let synced = cut.before.synced.get(pod).copied().unwrap_or(0);
        let begun = cut.after.begun.get(pod).copied().unwrap_or(0);
        verify(&at, synced, begun).map_err(|problem| format!("{pod}: {problem}"))?;
        take(&client, node, id, pod);
    }
    for (name, id) in cut
        .after
        .ids
        .iter()
        .filter(|(_, id)| snapshots.contains(*id))
    {
        let rounds = name[1..].parse().unwrap();
        let pod = life.source(rounds);
        let made = client
            .create(form(pod).volume("restored", &Of::Snapshot(id.clone())))
            .map_err(|refused| refused.message().to_owned())?;
        let (stage, at) = (node.place("stage-restored"), node.place("restored"));
        let told = |refused: Refused| format!("{name}: {}", refused.message());
        client.stage(&made, &stage, form(pod)).map_err(told)?;
        client
            .publish(&made, &stage, &at, form(pod))
            .map_err(told)?;
        let floor = cut.before.floors.get(name).copied().unwrap_or(0);
        let begun = cut.after.begun.get(pod).copied().unwrap_or(0);
        verify(&at, floor, begun).map_err(|problem| format!("{name} of {pod}: {problem}"))?;
        take(&client, node, &made, "restored");
        client.delete(&made).map_err(told)?;
    }
    for id in &snapshots {
        client
            .delete_snapshot(id)
            .map_err(|status| status.message().to_owned())?;
    }
    for id in &volumes {
        client
            .delete(id)
            .map_err(|status| status.message().to_owned())?;
    }
    match node.left() {
        (mounts, devices, files) if mounts.is_empty() && devices.is_empty() && files.is_empty() => {
            node.power_off();
            power.off();
            Ok(())
        }
        left => Err(format!("left: {left:?}")),
    }
}

/// The disk that loses its power: an image on another one, whose files can be cloned.
struct Power {
    image: PathBuf,
    /// Where it is mounted here; else the agent does that.
    disk: Option<Disk>,
    pool: PathBuf,
}

impl Power {
    /// A new one, which is on, in a folder.
    fn new(folder: &Path, fs: DiskFs) -> Self {
        if fs == DiskFs::Btrfs {
            let disk = Disk::within(folder, POOL, fs);
            return Self {
                image: disk.image().to_owned(),
                pool: disk.root().join("pool"),
                disk: Some(disk),
            };
        }
        let pool = folder.join("pool");
        fs::create_dir(&pool).unwrap();
        let image = pool.join("pool.img");
        File::create(&image).unwrap().set_len(POOL).unwrap();
        let words = ["-q", "-s", "size=4096", "-m", "reflink=1"];
        must(
            "mkfs.xfs",
            &[&words[..], &[&image.to_string_lossy()]].concat(),
        );
        Self {
            image,
            pool,
            disk: None,
        }
    }

    fn on(&mut self) {
        self.disk.iter_mut().for_each(Disk::attach);
    }

    fn off(&mut self) {
        self.disk.iter_mut().for_each(Disk::detach);
    }
}

/// Five cuts of each back end on each disk that it has; `FAIRLEAD_CUTS` has more of them in all, and `FAIRLEAD_BACKEND` one back end alone.
#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn a_power_cut_loses_nothing_that_was_acknowledged_and_leaves_nothing() {
    let backends = Backend::wanted();
    let wanted = chance::number("FAIRLEAD_CUTS", 1).div_ceil(backends.len() as u64);
    for backend in backends {
        let mut chance = Chance::new("power cuts");
        let disk = Disk::new(40 << 30, DiskFs::Xfs);
        let (life, name) = (Life::of(backend), backend.name());
        let (mut done, mut records) = (0, 0);
        let disks = match backend {
            Backend::Image => &[DiskFs::Xfs][..],
            Backend::Btrfs => &[DiskFs::Btrfs],
            Backend::Directory => &[DiskFs::Xfs, DiskFs::Btrfs],
        };
        for (lives, fs) in disks.iter().cycle().enumerate() {
            if done >= wanted && lives >= disks.len() {
                break;
            }
            let folder = disk.root().join("life");
            fs::create_dir(&folder).unwrap();
            let mut power = Power::new(&folder, *fs);
            let mut node = Node::with_pool(power.pool.clone());
            let cuts = live(life, &mut node, &power, &mut chance);
            node.power_off();
            power.off();
            for cut in cuts {
                done += 1;
                records += cut.before.synced.values().sum::<u64>();
                if let Err(problem) = recover(life, &mut node, &mut power, &cut) {
                    panic!("{name} on {fs:?}, cut {done}: {problem}\n{}", node.log());
                }
            }
            println!("{name} on {fs:?}: {done} power cuts, {records} records fsync'ed before them");
            assert!(records > 0, "nobody wrote");
            drop(node);
            drop(power);
            fs::remove_dir_all(&folder).unwrap();
        }
    }
}

#[test]
fn a_record_that_is_lost_torn_or_from_nowhere_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::create(folder.path().join("records")).unwrap();
    let put = |number: u64| {
        file.write_all_at(&record(number), (number % SLOTS) * BLOCK as u64)
            .unwrap();
    };
    (1..=SLOTS + 3).for_each(put);
    let check = |synced, begun| verify(folder.path(), synced, begun);
    assert_eq!(check(SLOTS + 3, SLOTS + 3), Ok(()));
    assert_eq!(check(SLOTS + 2, SLOTS + 3), Ok(()));
    assert!(check(SLOTS + 4, SLOTS + 4).is_err(), "lost");
    assert!(check(SLOTS + 2, SLOTS + 2).is_err(), "from nowhere");
    assert!(check(2 * SLOTS, 2 * SLOTS).is_err(), "lost");
    file.write_all_at(&[9; 100], 0).unwrap();
    assert!(check(SLOTS + 3, SLOTS + 3).is_err(), "torn");
}
