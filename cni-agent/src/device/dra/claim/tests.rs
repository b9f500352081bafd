//! What claims ask for, and what they get.

use super::*;
use crate::device::{
    found::{DeviceFile, FileKind},
    plan::MountRule,
    template::Template,
    tests::{item, rule},
};
use serde_json::{Value, json};
use std::time::Duration;

const UID: &str = "5f6e1c3a-0000-4000-8000-000000000001";

fn claim(results: Value, config: Value) -> ResourceClaim {
    serde_json::from_value(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "c", "namespace": "shop", "uid": UID},
        "spec": {},
        "status": {"allocation": {"devices": {"results": results, "config": config}}},
    }))
    .unwrap()
}

fn result(request: &str, device: &str) -> Value {
    json!({"driver": DRIVER, "pool": "n1", "request": request, "device": device})
}

#[test]
fn the_devices_of_our_driver_are_ours_and_a_subrequest_is_its_request() {
    let mut shared = result("b/first", "d2");
    shared["shareID"] = json!("11111111-0000-4000-8000-000000000001");
    let mut admin = result("c", "d3");
    admin["adminAccess"] = json!(true);
    let other = json!({"driver": "gpu.example.com", "pool": "x", "request": "a", "device": "d"});
    let results = json!([result("a", "d1"), shared, admin, other]);
    let wanted = wanted(&claim(results, json!([])), UID, "n1").unwrap();
    let short: Vec<_> = wanted
        .iter()
        .map(|one| (&*one.request, &*one.device, one.is_alone()))
        .collect();
    let expected = [("a", "d1", true), ("b", "d2", false), ("c", "d3", false)];
    assert_eq!(short, expected);
}

#[test]
fn what_can_t_be_had_is_told() {
    let opaque = |driver: &str, parameters: Value| json!([{"source": "FromClaim", "opaque": {"driver": driver, "parameters": parameters}}]);
    let one = || json!([result("a", "d1")]);
    let mut unallocated = claim(one(), json!([]));
    unallocated.status = None;
    let elsewhere = json!([{"driver": DRIVER, "pool": "n2", "request": "a", "device": "d1"}]);
    for (claim, uid, word) in [
        (claim(one(), json!([])), "other", "made anew"),
        (unallocated, UID, "no devices are allocated"),
        (claim(elsewhere, json!([])), UID, "this is n1"),
        (
            claim(one(), opaque(DRIVER, json!({"mode": "fast"}))),
            UID,
            "there are none",
        ),
    ] {
        let why = wanted(&claim, uid, "n1").unwrap_err();
        assert!(why.contains(word), "{why}");
    }
    for config in [
        opaque("gpu.example.com", json!({"mode": "fast"})),
        opaque(DRIVER, json!({})),
    ] {
        assert_eq!(wanted(&claim(one(), config), UID, "n1").unwrap().len(), 1);
    }
}

#[test]
fn a_uid_leads_nowhere() {
    assert!(is_uid(UID));
    for bad in ["", "../x", "a/b", "a.b", &"a".repeat(65)] {
        assert!(!is_uid(bad), "{bad}");
    }
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

/// Two serial adapters, of which the second doesn't work, and one that is shared.
fn offers() -> Offers {
    let device = |key: &str, path: &str, group: u32| Item {
        files: vec![DeviceFile {
            path: path.into(),
            kind: FileKind::Character,
            major: 188,
            minor: 0,
            group,
        }],
        fields: [("serial".to_owned(), key.to_owned())].into(),
        ..item(key)
    };
    let mut serial = rule("a.io/serial");
    serial.give.write_cdi = true;
    serial.give.environment = [("SERIAL".to_owned(), template("{serial}"))].into();
    serial.give.mounts = vec![MountRule {
        host: template("/run/locks"),
        container: template("/locks"),
        readonly: false,
        optional: false,
    }];
    serial.give.cdi = vec![template("vendor.com/x={serial}")];
    let mut sick = device("s3", "/dev/ttyUSB2", 20);
    sick.health = Health::Unhealthy {
        reason: "it is stuck".to_owned(),
        since: 1,
    };
    let serials = vec![
        device("s1", "/dev/ttyUSB0", 20),
        device("s2", "/dev/ttyUSB1", 20),
        sick,
    ];
    let mut kvm = rule("a.io/kvm");
    kvm.count = 2;
    let offers = [
        Offer::new(Arc::new(serial), serials),
        Offer::new(Arc::new(kvm), vec![device("/dev/kvm", "/dev/kvm", 0)]),
    ];
    let named = offers
        .into_iter()
        .map(|offer| (offer.rule.name.clone(), Arc::new(offer)));
    named.collect()
}

fn device(resource: &str, key: &str, share: Option<u32>) -> String {
    let resource = resource.to_owned().try_into().unwrap();
    slices::name(&resource, key, share)
}

fn planned(wanted: &[(&str, String)]) -> Result<Plan, String> {
    let wanted: Vec<Wanted> = wanted
        .iter()
        .map(|(request, device)| Wanted {
            request: (*request).to_owned(),
            device: device.clone(),
            ..Wanted::default()
        })
        .collect();
    let node = Node {
        exists: &|path| !path.to_string_lossy().contains("missing"),
        random: &|| "0123456789abcdef".to_owned(),
    };
    plan(UID, &wanted, &offers(), &node)
}

#[test]
fn a_claim_gets_its_devices_files_groups_mounts_and_variables_by_one_specification() {
    let (one, two) = (
        device("a.io/serial", "s1", None),
        device("a.io/serial", "s2", None),
    );
    let kvm = device("a.io/kvm", "/dev/kvm", None);
    let plan = planned(&[("a", one.clone()), ("a", two.clone()), ("b", kvm.clone())]).unwrap();
    let own = |device: &str| format!("devices.fairlead.dev/claim={UID}-{device}");
    let cdi: Vec<_> = plan.given.iter().map(|given| given.cdi.clone()).collect();
    assert_eq!(
        cdi,
        [
            vec![own(&one), "vendor.com/x=s1".to_owned()],
            vec![own(&two), "vendor.com/x=s2".to_owned()],
            vec![own(&kvm)],
        ]
    );
    let spec = serde_json::to_value(plan.spec.unwrap()).unwrap();
    assert_eq!(spec["cdiVersion"], "0.7.0");
    assert_eq!(spec["kind"], "devices.fairlead.dev/claim");
    let devices = spec["devices"].as_array().unwrap();
    let edits = |device: &str| {
        let name = format!("{UID}-{device}");
        let mut all = devices.iter();
        let of = all.find(|of| of["name"] == *name).unwrap();
        of["containerEdits"].clone()
    };
    let expected = json!({
        "env": ["SERIAL=s1,s2"],
        "deviceNodes": [{"path": "/dev/ttyUSB0", "permissions": "rw"}],
        "mounts": [{"hostPath": "/run/locks", "containerPath": "/locks",
            "options": ["rbind", "rprivate", "rw"]}],
        "additionalGids": [20],
    });
    assert_eq!(edits(&one), expected);
    assert_eq!(
        edits(&kvm),
        json!({"deviceNodes": [{"path": "/dev/kvm", "permissions": "rw"}]})
    );
    let resources: Vec<_> = plan.resources.iter().map(String::as_str).collect();
    assert_eq!(resources, ["a.io/kvm", "a.io/serial"]);
}

#[test]
fn a_share_is_its_device_and_other_requests_have_other_variables() {
    let share = device("a.io/kvm", "/dev/kvm", Some(1));
    let plan = planned(&[("a", share)]).unwrap();
    let spec = serde_json::to_value(plan.spec.unwrap()).unwrap();
    let nodes = &spec["devices"][0]["containerEdits"]["deviceNodes"];
    assert_eq!(nodes[0]["path"], "/dev/kvm");
    // It begins with a digit.
    assert_eq!(spec["cdiVersion"], "0.5.0");
    let (one, two) = (
        device("a.io/serial", "s1", None),
        device("a.io/serial", "s2", None),
    );
    let plan = planned(&[("a", one), ("b", two)]).unwrap();
    let spec = serde_json::to_value(plan.spec.unwrap()).unwrap();
    let env = |number: usize| spec["devices"][number]["containerEdits"]["env"][0].clone();
    let all: BTreeSet<_> = [env(0), env(1)]
        .map(|env| env.as_str().unwrap().to_owned())
        .into();
    assert_eq!(all, ["SERIAL=s1", "SERIAL=s2"].map(str::to_owned).into());
}

#[test]
fn one_that_is_gone_or_does_not_work_is_not_given() {
    let sick = device("a.io/serial", "s3", None);
    let gone = device("a.io/serial", "s9", None);
    for (name, word) in [(sick, "it is stuck"), (gone, "isn't known")] {
        let Err(why) = planned(&[("a", device("a.io/serial", "s1", None)), ("a", name)]) else {
            panic!("{word}");
        };
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn who_looks_at_a_device_beside_its_pod_has_nothing_reset_and_may_look_at_one_that_is_stuck() {
    let mut offers = offers();
    let serials = offers
        .values_mut()
        .find(|offer| offer.rule.name.as_str() == "a.io/serial")
        .unwrap();
    let reset = Program {
        path: "/bin/reset".into(),
        arguments: Vec::new(),
        deadline: Duration::from_secs(1),
    };
    let rule = Rule {
        before_start: Some(reset),
        ..Rule::clone(&serials.rule)
    };
    *serials = Arc::new(Offer::new(Arc::new(rule), serials.items.clone()));
    let resource = serials.rule.name.clone();
    let one = |key: &str, is_admin: bool| Wanted {
        request: "a".to_owned(),
        device: slices::name(&resource, key, None),
        is_admin,
        ..Wanted::default()
    };
    let node = Node {
        exists: &|_| true,
        random: &String::new,
    };
    let resets = |wanted: &[Wanted]| plan(UID, wanted, &offers, &node).map(|of| of.resets.len());
    assert_eq!(resets(&[one("s1", false)]), Ok(1));
    assert_eq!(resets(&[one("s1", true)]), Ok(0));
    assert_eq!(resets(&[one("s1", true), one("s2", false)]), Ok(1));
    assert_eq!(resets(&[one("s3", true)]), Ok(0));
    assert!(resets(&[one("s3", false)]).unwrap_err().contains("stuck"));
}
