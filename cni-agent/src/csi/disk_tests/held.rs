//! File systems that are held still: they go on whatever becomes of the agent, of its guard, and of others' freezes.

use super::*;
use crate::{
    csi::{freeze::Held, kernel},
    metrics::VolumeCounts,
};

/// Set in the environment of a test program that holds a file system until it is killed: which, and what tells that it
/// does.
const HOLDER: &str = "FAIRLEAD_TEST_HOLDER";

#[test]
fn a_holder_that_is_started_as_one() {
    if let Some(at) = std::env::var_os(HOLDER) {
        let _held = Held::of(File::open(&at).unwrap()).unwrap();
        fs::write(Path::new(&at).with_extension("held"), "").unwrap();
        loop {
            std::thread::park();
        }
    }
}

/// Writes to a volume, and fails when it is held still for longer than any deadline.
fn goes_on(at: &Path) {
    let (done, waiting) = std::sync::mpsc::channel();
    let to = at.to_owned();
    std::thread::spawn(move || {
        write(&to, "goes on");
        done.send(()).unwrap();
    });
    if waiting.recv_timeout(Duration::from_secs(60)).is_err() {
        let within = File::open(at).unwrap();
        panic!("it is still held: {:?}", kernel::thaw(&within));
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_volume_goes_on_when_its_agent_is_killed_while_it_is_held() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let at = node.publish(&volume, "pod");
    let mut agent = Command::new("/proc/self/exe")
        .args([
            "--exact",
            "csi::disk_tests::held::a_holder_that_is_started_as_one",
        ])
        .env(HOLDER, &at)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let held = at.with_extension("held");
    while !held.exists() {
        assert_eq!(agent.try_wait().unwrap(), None, "the holder ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    goes_on(&at);
    // The guard has the place open until it ends, which is soon.
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(fault) = node.volumes().unpublish(volume.id.as_str(), &at) {
        assert!(Instant::now() < end, "{fault}");
        std::thread::sleep(Duration::from_millis(1));
    }
    node.unpublish(&volume, "pod");
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_volume_goes_on_when_its_guard_is_killed_or_its_agent_forgets_it() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Xfs), None);
    let at = node.publish(&volume, "pod");
    let held = Held::of(File::open(&at).unwrap()).unwrap();
    held.kill_guard();
    assert!(held.release().unwrap(), "until then it was held");
    goes_on(&at);
    // Forgotten: its deadline passes, and who comes later is told.
    let held = Held::of(File::open(&at).unwrap()).unwrap();
    goes_on(&at);
    assert!(!held.release().unwrap());
    node.unpublish(&volume, "pod");
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_somebody_else_holds_or_lets_go_is_not_held_by_us() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let at = node.publish(&volume, "pod");
    let within = || File::open(&at).unwrap();
    // As a backup's hook does.
    assert!(kernel::freeze(within()).unwrap());
    let mut held = Held::guarded(within()).unwrap();
    held.ask().unwrap();
    assert!(!held.wait(&VolumeCounts::default()).unwrap());
    assert!(held.release().unwrap());
    let taken = node.volumes().snapshot("under theirs", volume.id.as_str());
    assert!(kernel::thaw(within()).unwrap(), "it was let go on");
    taken.unwrap();

    let held = Held::of(within()).unwrap();
    assert!(kernel::thaw(within()).unwrap());
    assert!(!held.release().unwrap(), "somebody let it go on before");
    goes_on(&at);
    node.unpublish(&volume, "pod");
}
