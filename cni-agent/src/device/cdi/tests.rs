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
