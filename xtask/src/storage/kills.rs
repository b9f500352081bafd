//! An agent that is killed in every operation: asked again of the next agent, each succeeds with the same outcome, what was
//! acknowledged before is there, no byte that was fsync'ed is lost, no file system is held still, and nothing is left.

use super::{
    backend::Backend,
    chance::{self, Chance},
    client::{Client, Form, Of, Refused},
    node::{Disk, DiskFs, Node},
    sweep::thaw,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileExt as _, FileTypeExt as _},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Longest that a write may take on a machine that is busy; a file system that is held still takes for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an operation takes that was never seen to its end.
const GUESS: Duration = Duration::from_millis(40);
/// A disk for a pool.
const DISK: u64 = 8 << 30;
/// What a pod writes.
const CONTENT: usize = 1 << 20;

/// Kills by how far the operation was: before its answer, and after it.
#[derive(Clone, Copy, Debug, Default)]
struct Kills {
    during: u64,
    after: u64,
}

struct Trial {
    node: Node,
    client: Client,
    chance: Chance,
    kills: BTreeMap<&'static str, Kills>,
    /// The longest of each operation.
    durations: BTreeMap<&'static str, Duration>,
    volumes: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    /// What pods wrote and had fsync'ed, by where they have it.
    written: BTreeMap<PathBuf, Vec<u8>>,
    /// The pool's, if it has one of its own. Goes last.
    _disk: Option<Disk>,
}

impl Trial {
    fn new(backend: Backend) -> Self {
        let (node, disk) = match backend {
            Backend::Image | Backend::Directory => (Node::new(), None),
            Backend::Btrfs => {
                let disk = Disk::new(DISK, DiskFs::Btrfs);
                let mut node = Node::with_pool(disk.root().join("pool"));
                node.start();
                (node, Some(disk))
            }
        };
        Self {
            _disk: disk,
            client: Client::lazy(&node.socket()).unwrap(),
            node,
            chance: Chance::new("kills"),
            kills: BTreeMap::new(),
            durations: BTreeMap::new(),
            volumes: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            written: BTreeMap::new(),
        }
    }

    /// Asks for something, kills the agent at a random moment of it, and asks the next agent again.
    fn killed<T: PartialEq + Send>(
        &mut self,
        what: &'static str,
        ask: impl Fn(&Client) -> Result<T, Refused> + Sync,
    ) -> T {
        let usual = self.durations.get(what).copied().unwrap_or(GUESS);
        let moment = self.chance.moment(usual + usual / 4);
        let (client, node, ask) = (&self.client, &mut self.node, &ask);
        let (first, took) = thread::scope(|scope| {
            let began = Instant::now();
            let asking = scope.spawn(move || (ask(client), began.elapsed()));
            thread::sleep(moment);
            node.kill();
            asking.join().unwrap()
        });
        let kills = self.kills.entry(what).or_default();
        match &first {
            Ok(_) => {
                kills.after += 1;
                self.durations.insert(what, took);
            }
            Err(_) => kills.during += 1,
        }
        self.node.start();
        self.client = Client::lazy(&self.node.socket()).unwrap();
        // What was there before this operation is there; that comes before it is asked again.
        self.check(what);
        let began = Instant::now();
        let again = ask(&self.client).unwrap_or_else(|refused| {
            panic!(
                "{what}, asked again: {:?}: {}\n{}",
                refused.code(),
                refused.message(),
                self.node.log()
            )
        });
        let longest = self.durations.entry(what).or_default();
        *longest = (*longest)
            .max(began.elapsed())
            .max(Duration::from_millis(1));
        if let Ok(first) = first {
            assert!(first == again, "{what}: asked again, another outcome");
        }
        again
    }

    /// What was acknowledged is there, and nobody's file system is held still.
    fn check(&self, during: &str) {
        for (at, content) in &self.written {
            goes_on(at);
            assert!(
                read(at) == *content,
                "{during}: {} has changed",
                at.display()
            );
        }
        let (volumes, snapshots) = (self.volumes(), self.all_snapshots());
        assert!(volumes.is_superset(&self.volumes), "{during}: {volumes:?}");
        assert!(
            snapshots.is_superset(&self.snapshots),
            "{during}: {snapshots:?}"
        );
    }

    fn volumes(&self) -> BTreeSet<String> {
        self.client.volumes().unwrap()
    }

    fn all_snapshots(&self) -> BTreeSet<String> {
        self.client.all_snapshots().unwrap()
    }

    fn total(&self) -> u64 {
        self.kills
            .values()
            .map(|kills| kills.during + kills.after)
            .sum()
    }

    fn create(&mut self, what: &'static str, name: &str, form: Form, of: &Of) -> String {
        let id = self.killed(what, |client| client.create(form.volume(name, of)));
        self.volumes.insert(id.clone());
        assert_eq!(self.volumes(), self.volumes, "{what}");
        id
    }

    /// Gives a volume to a pod of that name.
    fn publish(&mut self, id: &str, pod: &str, form: Form) -> PathBuf {
        let (stage, at) = (
            self.node.place(&format!("stage-{pod}")),
            self.node.place(pod),
        );
        self.killed("attach", |client| client.attach(id, form));
        self.killed("stage", |client| client.stage(id, &stage, form));
        self.killed("publish", |client| client.publish(id, &stage, &at, form));
        at
    }

    fn unpublish(&mut self, id: &str, pod: &str) {
        let (stage, at) = (
            self.node.place(&format!("stage-{pod}")),
            self.node.place(pod),
        );
        self.written.remove(&at);
        self.killed("unpublish", |client| client.unpublish(id, &at));
        assert!(!at.exists());
        self.killed("unstage", |client| client.unstage(id, &stage));
        self.killed("detach", |client| client.detach(id));
    }

    fn write(&mut self, at: &Path) {
        let content: Vec<u8> = (0..CONTENT / 8)
            .flat_map(|_| self.chance.draw().to_le_bytes())
            .collect();
        let file = open(at);
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        self.written.insert(at.to_owned(), content);
    }

    fn delete(&mut self, id: &str) {
        self.volumes.remove(id);
        self.killed("delete", |client| client.delete(id));
        assert_eq!(self.volumes(), self.volumes);
    }

    /// A snapshot of a volume that a pod has; of a folder, while no pod has it.
    fn cut(&mut self, id: &str, pod: &str, form: Form) -> String {
        let at = self.node.place(pod);
        let content = self.written[&at].clone();
        let is_copied = form == Form::Directory;
        if is_copied {
            self.unpublish(id, pod);
        }
        let snapshot = self.killed("snapshot", |client| client.snapshot("s", id));
        self.snapshots.insert(snapshot.clone());
        if is_copied {
            self.publish(id, pod, form);
            self.written.insert(at, content);
        }
        snapshot
    }

    /// The life of volumes, with a kill in each of its operations.
    fn life(&mut self, form: Form) {
        let a = self.create("create", "a", form, &Of::Nothing);
        let at = self.publish(&a, "pod-a", form);
        self.write(&at);
        let bytes = form.bytes() * 2;
        self.killed("expand", |client| client.expand(&a, bytes));
        // A mounted ext4 grows with CAP_SYS_RESOURCE alone, which not every machine gives; it does when it is staged.
        if form != Form::Ext4 {
            self.killed("grow", |client| client.grow(&a, &at, bytes));
        }
        let before = self.written[&at].clone();
        let snapshot = self.cut(&a, "pod-a", form);
        self.write(&at);
        let after = self.written[&at].clone();
        if form == Form::Directory {
            self.unpublish(&a, "pod-a");
        }
        let clone = self.create("clone", "c", form, &Of::Volume(a.clone()));
        if form == Form::Directory {
            self.publish(&a, "pod-a", form);
        }
        let restored = self.create("restore", "r", form, &Of::Snapshot(snapshot.clone()));
        self.write(&at);
        let b = self.create("create", "b", form, &Of::Nothing);
        let mut members = vec![a.clone()];
        // A raw volume that pods write to can't be in a group with others.
        if form != Form::Block {
            let at = self.publish(&b, "pod-b", form);
            self.write(&at);
            members.push(b.clone());
        }
        let group = form.is_image().then(|| {
            let (group, cuts) = self.killed("group", |client| client.snapshots("g", &members));
            self.snapshots.extend(cuts.iter().cloned());
            (group, cuts)
        });
        for (id, pod, content) in [(&clone, "pod-c", after), (&restored, "pod-r", before)] {
            let at = self.publish(id, pod, form);
            assert!(read(&at) == content, "{form:?}: {pod} has something else");
            self.written.insert(at, content);
        }
        // Inline volumes are files with a file system.
        if matches!(form, Form::Ext4 | Form::Xfs) {
            let at = self.node.place("inline/mount");
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            self.killed("inline", |client| client.publish_inline("csi-1", &at, form));
            self.write(&at);
            self.written.remove(&at);
            self.killed("unpublish inline", |client| client.unpublish("csi-1", &at));
        }
        self.unpublish(&clone, "pod-c");
        self.snapshots.remove(&snapshot);
        self.killed("delete snapshot", |client| {
            client.delete_snapshot(&snapshot)
        });
        self.delete(&clone);
        if let Some((group, cuts)) = group {
            self.snapshots.retain(|id| !cuts.contains(id));
            self.killed("delete group", |client| client.delete_group(&group, &cuts));
        }
        self.unpublish(&restored, "pod-r");
        self.delete(&restored);
        if form != Form::Block {
            self.unpublish(&b, "pod-b");
        }
        self.delete(&b);
        self.unpublish(&a, "pod-a");
        self.delete(&a);
        assert_eq!(self.all_snapshots(), BTreeSet::new());
        assert_eq!(self.node.left(), Default::default(), "{form:?}");
    }
}

/// What a pod writes to: the device, or a file of the file system.
fn open(at: &Path) -> File {
    let is_device = fs::metadata(at).unwrap().file_type().is_block_device();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match is_device {
        true => options.open(at).unwrap(),
        false => options
            .create(true)
            .truncate(false)
            .open(at.join("data"))
            .unwrap(),
    }
}

fn read(at: &Path) -> Vec<u8> {
    let mut content = vec![0; CONTENT];
    open(at).read_exact_at(&mut content, 0).unwrap();
    content
}

/// Has a pod write, and fails if it can't.
fn goes_on(at: &Path) {
    if !at.is_dir() {
        return;
    }
    let (done, waiting) = mpsc::channel();
    let to = at.to_owned();
    thread::spawn(move || {
        let mut file = File::create(to.join("pulse")).unwrap();
        file.write_all(b"goes on").unwrap();
        file.sync_all().unwrap();
        done.send(()).unwrap();
    });
    if waiting.recv_timeout(PATIENCE).is_err() {
        panic!(
            "{}: nothing can be written; held still: {}",
            at.display(),
            thaw(at)
        );
    }
}

/// Each back end has its part of so many kills; one life of a volume is 40 to 50 of them. `FAIRLEAD_KILLS` has more, and
/// `FAIRLEAD_BACKEND` one back end alone.
#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn every_operation_survives_a_kill_at_any_moment_and_nothing_is_left() {
    let backends = Backend::wanted();
    let wanted = chance::number("FAIRLEAD_KILLS", 1).div_ceil(backends.len() as u64);
    for backend in backends {
        let mut trial = Trial::new(backend);
        assert_eq!(trial.node.left(), Default::default(), "before");
        for form in backend.forms().iter().cycle() {
            trial.life(*form);
            println!("{}: {} kills", backend.name(), trial.total());
            if trial.total() >= wanted {
                break;
            }
        }
        for (what, kills) in &trial.kills {
            println!(
                "{}: {what}: {} before the answer, {} after it; it takes {:?} at most",
                backend.name(),
                kills.during,
                kills.after,
                trial.durations[what]
            );
        }
        let during: u64 = trial.kills.values().map(|kills| kills.during).sum();
        assert!(during > 0, "no kill came before an answer");
    }
}
