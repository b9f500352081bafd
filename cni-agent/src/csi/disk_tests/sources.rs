//! Sources that go while something is made from them.

use super::*;

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_source_that_is_deleted_while_it_is_copied_is_busy_or_gone_and_never_half_there() {
    let node = Node::new();
    let volumes = node.volumes();
    let well = |outcome: Result<(), Fault>| match outcome {
        Ok(()) | Err(Fault::Busy(_) | Fault::NotFound(_)) => {}
        Err(fault) => panic!("{fault:?}"),
    };
    for n in 0..40 {
        let volume = node.make(&format!("v{n}"), None, None);
        let snapshot = volumes
            .snapshot(&format!("s{n}"), volume.id.as_str())
            .unwrap();
        std::thread::scope(|scope| {
            let made = |name: String, source| {
                well(volumes.create(&wanted(&name, None, Some(source))).map(drop));
            };
            let (of, volume) = (&snapshot.id, &volume.id);
            scope.spawn(move || made(format!("r{n}"), Source::Snapshot(of.clone())));
            scope.spawn(move || made(format!("c{n}"), Source::Volume(volume.clone())));
            scope.spawn(move || {
                well(
                    volumes
                        .snapshot(&format!("t{n}"), volume.as_str())
                        .map(drop),
                );
            });
            scope.spawn(move || {
                let of = [volume.to_string()];
                well(volumes.group(&format!("g{n}"), &of).map(drop));
            });
            scope.spawn(move || well(volumes.delete_snapshot(of.as_str())));
            scope.spawn(move || well(volumes.delete(volume.as_str())));
        });
        let left = volumes.book.read().clone();
        for group in left.groups.keys() {
            volumes.delete_group(group.as_str(), &[]).unwrap();
        }
        for snapshot in left.snapshots.values().filter(|of| of.group.is_none()) {
            volumes.delete_snapshot(snapshot.id.as_str()).unwrap();
        }
        for volume in left.volumes.keys() {
            volumes.delete(volume.as_str()).unwrap();
        }
        assert_eq!(node.left(), (0, 0, 0));
    }
}
