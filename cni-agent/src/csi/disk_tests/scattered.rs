//! Copies of what was written here and there, which are begun before the moment that they are of.

use super::*;
use crate::csi::{ahead::Ahead, kernel::Extents, pool::Image};
use proptest::{collection::vec, prelude::*, test_runner::Config, test_runner::TestRunner};
use rustix::fs::{FallocateFlags, fallocate};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 4096;

#[derive(Clone, Debug)]
enum Step {
    Write {
        at: u64,
        bytes: usize,
        of: u8,
    },
    Punch {
        block: u64,
        blocks: u64,
    },
    /// Takes blocks without writing them.
    Take {
        block: u64,
        blocks: u64,
    },
}

impl Step {
    fn do_to(&self, file: &File) {
        match *self {
            Self::Write { at, bytes, of } => file.write_all_at(&vec![of; bytes], at).unwrap(),
            Self::Punch { block, blocks } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, flags, block * BLOCK, blocks * BLOCK).unwrap();
            }
            Self::Take { block, blocks } => {
                let flags = FallocateFlags::KEEP_SIZE;
                fallocate(file, flags, block * BLOCK, blocks * BLOCK).unwrap();
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let blocks = || (0..BLOCKS - 64, 1..64_u64);
    let bytes = (0..BLOCKS * BLOCK - 20_000, 1..20_000_usize, 1..255_u8);
    vec(
        prop_oneof![
            4 => bytes.prop_map(|(at, bytes, of)| Step::Write { at, bytes, of }),
            1 => blocks().prop_map(|(block, blocks)| Step::Punch { block, blocks }),
            1 => blocks().prop_map(|(block, blocks)| Step::Take { block, blocks }),
        ],
        0..60,
    )
}

fn all_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; (BLOCKS * BLOCK) as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_copy_that_was_begun_ahead_is_as_its_original_is_when_it_is_cut() {
    let nodes = [Node::new(), Node::on_btrfs(1 << 30, false)];
    for (node, thin) in [(&nodes[0], true), (&nodes[0], false), (&nodes[1], true)] {
        let pool = &node.volumes().pool;
        let [from, to] = ["from", "to"].map(|name| Image {
            kind: Kind::Volume,
            name,
        });
        let mut runner = TestRunner::new(Config {
            cases: 8,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&steps(), |steps| {
                pool.make(from, None, BLOCKS * BLOCK, thin).unwrap();
                let file = pool.image(from, true).unwrap();
                for block in (0..BLOCKS).step_by(2) {
                    file.write_all_at(&[7; BLOCK as usize], block * BLOCK)
                        .unwrap();
                }
                let begun = pool.begin(to, from, true).unwrap();
                let from_file = pool.image(from, false).unwrap();
                let mut ahead = Ahead::in_parts(begun.into_file(), from_file).unwrap();
                for step in &steps {
                    step.do_to(&file);
                }
                ahead.cut().unwrap();
                let then = all_of(&file);
                Step::Write {
                    at: 0,
                    bytes: 9000,
                    of: 1,
                }
                .do_to(&file);
                pool.keep(to, &ahead.into_file(), BLOCKS * BLOCK, true)
                    .unwrap();
                let copy = pool.image(to, false).unwrap();
                prop_assert!(all_of(&copy) == then, "they differ");
                let pieces = Extents::of(&copy, 0).count();
                prop_assert!(pieces > 256, "{pieces} pieces are not scattered");
                pool.remove(from).unwrap();
                pool.remove(to).unwrap();
                Ok(())
            })
            .unwrap();
        assert_eq!(pool.leftovers().unwrap(), [""; 0]);
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_scattered_volume_is_cut_at_one_moment_while_its_pod_writes() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let at = node.publish(&volume, "pod");
    let file = File::create(at.join("scattered")).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 80 * MIB).unwrap();
    for block in (0..80 * MIB / BLOCK).step_by(2) {
        file.write_all_at(&[7; BLOCK as usize], block * BLOCK)
            .unwrap();
    }
    file.sync_all().unwrap();
    let backing = node.volumes().pool.image(image(&volume.id), false).unwrap();
    let pieces = Extents::of(&backing, 0).count();
    assert!(pieces > 5_000, "{pieces} pieces are not scattered");
    drop(backing);
    let stop = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u64;
            let places = [0, 40 * MIB + BLOCK];
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                for place in places {
                    file.write_all_at(&number.to_be_bytes(), place).unwrap();
                    file.sync_data().unwrap();
                }
            }
        });
        let taken: Vec<_> = (0..4)
            .map(|n| {
                node.volumes()
                    .snapshot(&format!("s{n}"), volume.id.as_str())
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        taken
    });
    for (n, taken) in taken.into_iter().enumerate() {
        let (source, name) = (Source::Snapshot(taken.unwrap().id), format!("r{n}"));
        let restored = node.make(&name, Some(Fs::Ext4), Some(source));
        let at = node.publish(&restored, &name);
        let file = File::open(at.join("scattered")).unwrap();
        let number = |place| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, place).unwrap();
            u64::from_be_bytes(bytes)
        };
        let (first, second) = (number(0), number(40 * MIB + BLOCK));
        assert!(
            n == 0 || first == second || first == second + 1,
            "{first} and {second}"
        );
        drop(file);
        node.unpublish(&restored, &name);
    }
    drop(file);
    node.unpublish(&volume, "pod");
}
