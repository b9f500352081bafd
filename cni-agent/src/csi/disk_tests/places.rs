//! Places where volumes are shown, when not all goes well.

use super::*;
use crate::csi::request::Backing;
use rustix::{
    fs::{StatVfsMountFlags as Flags, statvfs},
    mount::{MountFlags, mount, mount_bind},
};

fn with(flags: &[&str]) -> Capability {
    Capability {
        access: Access::Mount {
            fs: None,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        },
        mode: Mode::Writers,
    }
}

fn directory(node: &Node) -> Volume {
    let wanted = wanted("d", Some(Fs::Folder), None);
    let parameters = Parameters {
        fs: None,
        backend: Some(Backing::Directory),
        allow_unenforced: true,
        ..wanted.parameters
    };
    let made = node.volumes().create(&Wanted {
        parameters,
        ..wanted
    });
    made.unwrap()
}

fn flags(at: &Path) -> Flags {
    statvfs(at).unwrap().f_flag
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_was_refused_is_not_noted_and_keeps_no_volume_from_being_deleted() {
    let node = Node::new();
    let (stage, at) = (node.place("stage"), node.place("pod"));
    let volume = node.make("v", Some(Fs::Ext4), None);
    let handle = volume.id.as_str();
    let noted = || {
        let volume = node.volumes().found(handle).unwrap();
        (volume.stages.len(), volume.targets.len())
    };
    let wrong = with(&["no-such-word"]);
    let refused = node.volumes().stage(handle, &stage, &wrong).unwrap_err();
    assert!(matches!(refused, Fault::Invalid { .. }), "{refused:?}");
    assert_eq!((noted(), node.left().0), ((0, 0), 0));

    // Staged, and not mounted any more.
    let writers = capability(volume.fs);
    node.volumes().stage(handle, &stage, &writers).unwrap();
    mounts::clear(&stage).unwrap();
    let publish = || {
        node.volumes()
            .publish(handle, &stage, &at, target(&writers, false))
    };
    let refused = publish().unwrap_err();
    assert!(matches!(refused, Fault::Precondition(_)), "{refused:?}");
    assert_eq!(noted(), (1, 0));
    node.volumes().stage(handle, &stage, &writers).unwrap();

    // Something of others is there, which stays.
    fs::create_dir(&at).unwrap();
    mount("tmpfs", &at, "tmpfs", MountFlags::empty(), None).unwrap();
    let refused = publish().unwrap_err();
    assert!(matches!(refused, Fault::Precondition(_)), "{refused:?}");
    node.volumes().unpublish(handle, &at).unwrap();
    assert!(mounts::at(&at).unwrap().is_some());
    mounts::clear(&at).unwrap();

    node.volumes().unstage(handle, &stage).unwrap();
    node.volumes().delete(handle).unwrap();
    assert_eq!(node.left(), (0, 0, 0));

    let raw = node.make("raw", None, None);
    let (handle, block) = (raw.id.as_str(), capability(None));
    node.volumes().stage(handle, &stage, &block).unwrap();
    let in_the_way = node.place("file");
    fs::write(&in_the_way, "whose?").unwrap();
    let below = in_the_way.join("device");
    let refused = node
        .volumes()
        .publish(handle, &stage, &below, target(&block, false));
    assert!(refused.is_err());
    assert_eq!(fs::read_to_string(&in_the_way).unwrap(), "whose?");
    node.volumes().unstage(handle, &stage).unwrap();
    node.volumes().delete(handle).unwrap();
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_a_mount_forbids_holds_for_readers_and_when_an_agent_was_killed_in_the_midst() {
    let node = Node::new();
    let (stage, at) = (node.place("stage"), node.place("pod"));
    let volume = node.make("v", Some(Fs::Ext4), None);
    let handle = volume.id.as_str();
    let capability = with(&["noexec", "noatime"]);
    node.volumes().stage(handle, &stage, &capability).unwrap();
    let publish = || {
        let target = target(&capability, true);
        node.volumes().publish(handle, &stage, &at, target)
    };
    let all = Flags::RDONLY | Flags::NOEXEC | Flags::NOATIME | Flags::NOSUID | Flags::NODEV;
    publish().unwrap();
    assert!(flags(&at).contains(all), "{:?}", flags(&at));
    // As a kill between both calls leaves it.
    mounts::clear(&at).unwrap();
    mount_bind(&stage, &at).unwrap();
    publish().unwrap();
    assert!(flags(&at).contains(all), "{:?}", flags(&at));
    assert!(!flags(&stage).contains(Flags::RDONLY));

    let directory = directory(&node);
    let handle = directory.id.as_str();
    let stage = node.place("stage-d");
    node.volumes().stage(handle, &stage, &capability).unwrap();
    mounts::clear(&stage).unwrap();
    let folder = node.volumes().pool.folder().join("directories");
    mount_bind(folder.join(handle), &stage).unwrap();
    assert!(!flags(&stage).contains(Flags::NOEXEC));
    node.volumes().stage(handle, &stage, &capability).unwrap();
    let all = Flags::NOEXEC | Flags::NOSUID | Flags::NODEV;
    assert!(flags(&stage).contains(all), "{:?}", flags(&stage));
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn pods_leave_a_volume_that_is_lost_and_nothing_of_it_stays() {
    let node = Node::new();
    let pool = node.volumes().pool.folder().to_owned();
    let image = node.make("v", Some(Fs::Ext4), None);
    let raw = node.make("raw", None, None);
    let directory = directory(&node);
    for (volume, pod) in [(&image, "image"), (&raw, "raw"), (&directory, "directory")] {
        node.publish(volume, pod);
    }
    for volume in [&image, &raw] {
        fs::remove_file(pool.join(format!("volumes/{}.img", volume.id))).unwrap();
    }
    fs::remove_dir(pool.join("directories").join(directory.id.as_str())).unwrap();
    for (volume, pod) in [(&image, "image"), (&raw, "raw"), (&directory, "directory")] {
        node.unpublish(volume, pod);
        node.volumes().delete(volume.id.as_str()).unwrap();
    }
    assert_eq!(node.left(), (0, 0, 0));
}
