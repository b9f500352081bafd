//! The specifications that a runtime reads.

use super::*;
use crate::device::{
    found::{DeviceFile, FileKind},
    tests::{item, rule},
};
use std::sync::Arc;

fn offer(groups: Groups) -> Offer {
    let mut rule = rule("a.io/serial");
    rule.give.write_cdi = true;
    rule.give.groups = groups;
    rule.count = 2;
    let one = Item {
        files: vec![DeviceFile {
            path: "/dev/ttyUSB0".into(),
            kind: FileKind::Character,
            major: 188,
            minor: 0,
            group: 20,
        }],
        ..item("0403:6001:A1")
    };
    Offer::new(Arc::new(rule), vec![one])
}

#[test]
fn a_device_has_its_files_and_their_groups_and_is_named_once_for_all_shares() {
    let offer = offer(Groups::OfFiles);
    let ids: Vec<DeviceId> = offer.devices.keys().cloned().collect();
    assert_eq!(ids.len(), 2);
    let names = names(&offer, &ids);
    assert_eq!(names.len(), 1);
    let spec = serde_json::to_value(spec(&offer).unwrap()).unwrap();
    let kind = spec["kind"].as_str().unwrap();
    assert_eq!(names[0], format!("{kind}=0403:6001:A1"));
    assert_eq!(spec["cdiVersion"], "0.7.0");
    let edits = &spec["devices"][0]["containerEdits"];
    assert_eq!(edits["deviceNodes"][0]["path"], "/dev/ttyUSB0");
    assert_eq!(edits["deviceNodes"][0]["permissions"], "rw");
    assert_eq!(edits["additionalGids"], serde_json::json!([20]));
}

#[test]
fn a_device_that_gives_nothing_is_in_no_specification_and_has_no_name() {
    let full = offer(Groups::OfFiles);
    let mut items = full.items.clone();
    items.push(item("empty"));
    let both = Offer::new(full.rule.clone(), items);
    let ids: Vec<DeviceId> = both.devices.keys().cloned().collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(names(&both, &ids), names(&full, &ids));
    assert_eq!(spec(&both), spec(&full));
    let none = Offer::new(full.rule.clone(), vec![item("empty")]);
    assert_eq!((spec(&none), names(&none, &ids)), (None, Vec::new()));
    // Groups are something.
    let groups = offer(Groups::These(vec![44])).rule;
    let groups = Offer::new(groups, vec![item("empty")]);
    assert_eq!(spec(&groups).unwrap().devices.len(), 1);
    assert_eq!(names(&groups, &ids).len(), 1);
}

#[test]
fn one_file_that_cant_be_written_keeps_no_other_from_it() {
    let place = tempfile::tempdir().unwrap();
    let spec = spec(&offer(Groups::OfFiles)).unwrap();
    let file = |n: u32| format!("{PREFIX}{n}.json");
    // A folder is in the way of the first, and one of ours that is no file any more.
    fs::create_dir_all(place.path().join(file(1)).join("x")).unwrap();
    fs::create_dir_all(place.path().join(file(3)).join("x")).unwrap();
    fs::write(place.path().join(file(4)), "old").unwrap();
    let wanted = [(file(1), spec.clone()), (file(2), spec)].into();
    let error = write(place.path(), &wanted).unwrap_err().to_string();
    assert!(error.contains(&file(1)), "{error}");
    assert!(place.path().join(file(2)).is_file());
    assert!(!place.path().join(file(4)).exists());
}

#[test]
fn roots_group_is_given_to_nobody() {
    let spec = spec(&offer(Groups::These(vec![0]))).unwrap();
    // Its name begins with a digit.
    assert_eq!(spec.cdi_version, "0.5.0");
    assert!(spec.devices[0].container_edits.additional_gids.is_empty());
}

#[test]
fn the_folder_has_ours_and_keeps_what_is_anybody_elses() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("cdi");
    let offer = offer(Groups::OfFiles);
    let wanted = files(std::iter::once(&offer));
    write(&folder, &wanted).unwrap();
    fs::write(folder.join("vendor.json"), "{}").unwrap();
    let name = wanted.keys().next().unwrap();
    let written = fs::metadata(folder.join(name)).unwrap();
    assert_eq!(written.permissions().mode() & 0o777, 0o644);
    write(&folder, &wanted).unwrap();
    let again = fs::metadata(folder.join(name)).unwrap();
    assert_eq!(again.modified().unwrap(), written.modified().unwrap());
    write(&folder, &BTreeMap::new()).unwrap();
    let left: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["vendor.json"]);
    // Nothing to write needs no folder.
    write(&place.path().join("none"), &BTreeMap::new()).unwrap();
    assert!(!place.path().join("none").exists());
}
