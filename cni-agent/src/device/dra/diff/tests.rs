//! What is written, and what isn't.

use super::*;
use k8s_openapi::{api::resource::v1::DeviceTaint, apimachinery::pkg::apis::meta::v1::Time, jiff};
use proptest::prelude::*;

fn device(name: &str) -> Device {
    Device {
        name: name.to_owned(),
        ..Device::default()
    }
}

fn wanted(sizes: &[usize]) -> Vec<Vec<Device>> {
    let slice = |(number, size): (usize, &usize)| {
        (0..*size)
            .map(|of| device(&format!("d-{number}-{of}")))
            .collect()
    };
    sizes.iter().enumerate().map(slice).collect()
}

/// What the API server has after it.
fn apply(seen: &Slices, writes: Vec<Write>) -> Slices {
    let mut now = seen.clone();
    let name = |slice: &ResourceSlice| slice.metadata.name.clone().unwrap();
    for write in writes {
        match write {
            Write::Create(slice) => {
                let before = now.insert(name(&slice), slice);
                assert_eq!(before, None, "made twice");
            }
            Write::Replace(slice) => assert!(now.insert(name(&slice), slice).is_some()),
            Write::Delete(slice) => assert!(now.remove(&name(&slice)).is_some()),
        }
    }
    now
}

fn step(seen: &Slices, wanted: &[Vec<Device>]) -> (Slices, usize) {
    let writes = plan("n1", 0, seen, wanted);
    let count = writes.len();
    (apply(seen, writes), count)
}

/// Whoever reads the pool finds it whole, with these devices.
fn assert_is_whole(now: &Slices, wanted: &[Vec<Device>]) -> i64 {
    assert_eq!(now.len(), wanted.len());
    let mut generations: Vec<i64> = now.values().map(|of| of.spec.pool.generation).collect();
    generations.dedup();
    assert!(generations.len() <= 1, "{generations:?}");
    for (slice, devices) in now.values().zip(wanted) {
        let spec = &slice.spec;
        assert_eq!(
            spec.pool.resource_slice_count,
            i64::try_from(wanted.len()).unwrap()
        );
        assert_eq!((&*spec.pool.name, &*spec.driver), ("n1", DRIVER));
        assert_eq!(spec.node_name.as_deref(), Some("n1"));
        assert!(same_devices(spec.devices.as_deref(), devices));
    }
    generations.first().copied().unwrap_or_default()
}

#[test]
fn what_is_there_is_not_written_again_and_each_change_is() {
    let none = Slices::new();
    assert_eq!(plan("n1", 0, &none, &[]), []);
    let (now, writes) = step(&none, &wanted(&[2]));
    assert_eq!(writes, 1);
    let first = assert_is_whole(&now, &wanted(&[2]));
    assert_eq!(step(&now, &wanted(&[2])).1, 0);
    let (now, writes) = step(&now, &wanted(&[1]));
    assert_eq!(writes, 1);
    assert!(assert_is_whole(&now, &wanted(&[1])) > first);
    let (now, writes) = step(&now, &[]);
    assert_eq!((writes, now.len()), (1, 0));
}

#[test]
fn a_change_of_one_slice_of_several_is_one_write() {
    let (now, _) = step(&Slices::new(), &wanted(&[3, 3, 3]));
    let before = assert_is_whole(&now, &wanted(&[3, 3, 3]));
    let (now, writes) = step(&now, &wanted(&[3, 2, 3]));
    assert_eq!(writes, 1);
    assert_eq!(assert_is_whole(&now, &wanted(&[3, 2, 3])), before);
    let (now, writes) = step(&now, &wanted(&[2, 3, 3]));
    assert_eq!(writes, 3);
    assert_eq!(assert_is_whole(&now, &wanted(&[2, 3, 3])), before + 1);
}

#[test]
fn the_generation_grows_also_when_all_were_deleted() {
    let wanted = wanted(&[1, 1]);
    let now = apply(&Slices::new(), plan("n1", 7, &Slices::new(), &wanted));
    assert_eq!(assert_is_whole(&now, &wanted), 8);
}

#[test]
fn what_is_not_ours_to_have_is_deleted_first() {
    let (mut now, _) = step(&Slices::new(), &wanted(&[1]));
    let mut other = now.values().next().unwrap().clone();
    other.metadata.name = Some("other".to_owned());
    now.insert("other".to_owned(), other.clone());
    let writes = plan("n1", 0, &now, &wanted(&[1]));
    assert_eq!(writes, [Write::Delete(other.clone())]);
    // A pool of another name, by the name of ours: it can't be changed.
    let (name, slice) = now.pop_first().unwrap();
    let mut strange = slice;
    strange.spec.pool.name = "else".to_owned();
    now.insert(name, strange.clone());
    let writes = plan("n1", 0, &now, &wanted(&[1]));
    assert!(matches!(
        &writes[..],
        [Write::Delete(_), Write::Delete(_), Write::Create(_)]
    ));
    let (now, _) = step(&now, &wanted(&[1]));
    assert_is_whole(&now, &wanted(&[1]));
}

#[test]
fn a_taint_keeps_its_time_and_that_is_no_change() {
    let taint = |time: Option<Time>| DeviceTaint {
        key: "a.io/x".to_owned(),
        effect: "NoSchedule".to_owned(),
        time_added: time,
        value: None,
    };
    let tainted = |time| Device {
        taints: Some(vec![taint(time)]),
        ..device("d")
    };
    let time = Time(jiff::Timestamp::UNIX_EPOCH);
    let (mut now, _) = step(&Slices::new(), &[vec![tainted(None)]]);
    let slice = now.values_mut().next().unwrap();
    slice.spec.devices = Some(vec![tainted(Some(time.clone()))]);
    assert_eq!(step(&now, &[vec![tainted(None)]]).1, 0);
    let writes = plan("n1", 0, &now, &[vec![tainted(None), device("e")]]);
    let [Write::Replace(slice)] = &writes[..] else {
        panic!("{writes:?}")
    };
    assert_eq!(slice.spec.devices.as_ref().unwrap()[0], tainted(Some(time)));
}

#[test]
fn a_long_name_of_a_node_makes_no_longer_name_of_a_slice() {
    let node = "n".repeat(253);
    assert!(name(&node, 0).len() <= 253);
    assert!(name("n1", 0) < name("n1", 1));
    assert_eq!(name("n1", 2), "002-devices.fairlead.dev-n1");
}

proptest! {
    #[test]
    fn one_pass_is_enough_whatever_was_there(
        before in prop::collection::vec(1_usize..5, 0..5),
        after in prop::collection::vec(1_usize..5, 0..5),
        odd in prop::option::of((0_usize..5, 0_i64..9)),
    ) {
        let (mut now, _) = step(&Slices::new(), &wanted(&before));
        if let Some((which, generation)) = odd
            && let Some(slice) = now.values_mut().nth(which)
        {
            slice.spec.pool.generation = generation;
        }
        let newest = now.values().map(|of| of.spec.pool.generation).max().unwrap_or_default();
        let (now, _) = step(&now, &wanted(&after));
        let generation = assert_is_whole(&now, &wanted(&after));
        prop_assert!(after.is_empty() || generation >= newest);
        prop_assert_eq!(step(&now, &wanted(&after)).1, 0);
    }
}
