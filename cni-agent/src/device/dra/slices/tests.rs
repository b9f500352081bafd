//! What the scheduler is told of.

use super::*;
use crate::device::{
    inventory::Health,
    tests::{item, rule},
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn offers(resources: Vec<(&str, u32, Vec<Item>)>) -> Offers {
    resources
        .into_iter()
        .map(|(name, count, items)| {
            let mut rule = rule(name);
            rule.count = count;
            (
                rule.name.clone(),
                Arc::new(Offer::new(Arc::new(rule), items)),
            )
        })
        .collect()
}

fn with(key: &str, fields: &[(&str, &str)]) -> Item {
    Item {
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..item(key)
    }
}

fn sick(key: &str) -> Item {
    Item {
        health: Health::Unhealthy {
            reason: "it is stuck".to_owned(),
            since: 1,
        },
        ..item(key)
    }
}

fn flat(offers: &Offers, support: Support) -> Vec<Device> {
    slices(offers, support).0.into_iter().flatten().collect()
}

#[test]
fn what_is_known_of_a_device_can_be_asked_for() {
    let long = "x".repeat(65);
    let fields = [
        ("pci", "0000:3b:00.0"),
        ("pciRoot", "pci0000:3a"),
        ("iommuGroup", "12"),
        ("serial", &*long),
        ("driver", ""),
        ("udev:ID_MODEL", "FT232"),
        ("vendor", "8086"),
    ];
    let mut one = with("0000:3b:00.0", &fields);
    one.numa = vec![1];
    let devices = flat(
        &offers(vec![("example.com/nic", 1, vec![one])]),
        Support::ALL,
    );
    let [device] = &devices[..] else {
        panic!("{devices:?}")
    };
    assert!(
        device.name.starts_with("nic-0000-3b-00-0-"),
        "{}",
        device.name
    );
    let attributes = serde_json::to_value(&device.attributes).unwrap();
    let expected = serde_json::json!({
        "resource": {"string": "example.com/nic"},
        "id": {"string": "0000:3b:00.0"},
        "healthy": {"bool": true},
        "numa": {"int": 1},
        "iommuGroup": {"int": 12},
        "pci": {"string": "0000:3b:00.0"},
        "pciRoot": {"string": "pci0000:3a"},
        "vendor": {"string": "8086"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:3a"},
        "resource.kubernetes.io/pciBusID": {"string": "0000:3b:00.0"},
    });
    assert_eq!(attributes, expected);
}

#[test]
fn a_usb_device_is_near_its_controller_and_is_none() {
    let fields = [
        ("pci", "0000:00:14.0"),
        ("pciRoot", "pci0000:00"),
        ("usb", "1-2"),
    ];
    let offers = offers(vec![("a.io/x", 1, vec![with("k", &fields)])]);
    let devices = flat(&offers, Support::ALL);
    let attributes = devices[0].attributes.as_ref().unwrap();
    assert!(attributes.contains_key("resource.kubernetes.io/pcieRoot"));
    assert!(!attributes.contains_key("resource.kubernetes.io/pciBusID"));
}

#[test]
fn one_that_is_not_healthy_is_tainted_and_left_out_where_nobody_knows_taints() {
    let offers = offers(vec![("a.io/x", 1, vec![item("well"), sick("sick")])]);
    assert!(depends_on_support(&offers));
    let devices = flat(&offers, Support::ALL);
    let tainted: Vec<_> = devices.iter().filter(|of| of.taints.is_some()).collect();
    assert_eq!((devices.len(), tainted.len()), (2, 1));
    let taint = &tainted[0].taints.as_ref().unwrap()[0];
    assert_eq!(
        (&*taint.key, &*taint.effect),
        ("devices.fairlead.dev/unhealthy", "NoSchedule")
    );
    let healthy = &tainted[0].attributes.as_ref().unwrap()["healthy"];
    assert_eq!(healthy.bool, Some(false));
    let support = Support {
        taints: false,
        shares: true,
    };
    let devices = flat(&offers, support);
    assert_eq!(devices.len(), 1);
    assert!(devices[0].name.contains("well"));
}

#[test]
fn a_shared_device_is_one_with_shares_or_as_many_devices() {
    let offers = offers(vec![("a.io/kvm", 2000, vec![item("/dev/kvm")])]);
    assert!(depends_on_support(&offers));
    let devices = flat(&offers, Support::ALL);
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].allow_multiple_allocations, Some(true));
    let capacity = serde_json::to_value(&devices[0].capacity).unwrap();
    let expected = serde_json::json!({"shares": {
        "value": "2k",
        "requestPolicy": {"default": "1", "validRange": {"min": "1", "step": "1"}},
    }});
    assert_eq!(capacity, expected);
    let (slices, _) = slices(&offers, Support::NONE);
    let devices: Vec<_> = slices.iter().flatten().collect();
    assert_eq!(
        (slices.len(), devices.len()),
        (2000_usize.div_ceil(64), 2000)
    );
    let is_whole = |of: &&&Device| of.allow_multiple_allocations.is_none() && of.capacity.is_none();
    assert!(devices.iter().all(|of| is_whole(&of)));
    // Whichever name a claim has, it is that device.
    let index = index(&offers);
    assert_eq!(index.len(), 2001);
    assert!(devices.iter().all(|of| index.contains_key(&of.name)));
}

#[test]
fn numbers_are_written_as_the_api_server_writes_them() {
    for (number, expected) in [
        (0, "0"),
        (2, "2"),
        (999, "999"),
        (1000, "1k"),
        (1001, "1001"),
        (1_500_000, "1500k"),
        (3_000_000_000, "3G"),
    ] {
        assert_eq!(quantity(number).0, expected);
    }
}

#[test]
fn a_name_that_no_claim_can_select_by_is_told() {
    let long = format!("{}.io/x", "a.".repeat(40).trim_end_matches('.'));
    let offers = offers(vec![
        (&*long, 1, vec![item("k")]),
        ("a.io/x", 1, vec![item("k")]),
    ]);
    let (slices, problems) = slices(&offers, Support::ALL);
    assert_eq!(slices.iter().flatten().count(), 1);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("take a shorter one"), "{problems:?}");
}

#[test]
fn the_probe_has_what_may_be_dropped() {
    assert_eq!(Support::of(&probe()), Support::ALL);
    assert_eq!(Support::of(&Device::default()), Support::NONE);
}

fn is_label(text: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.chars().all(|c| end(c) || c == '-')
        && text.starts_with(end)
        && text.ends_with(end)
}

fn is_identifier(name: &str) -> bool {
    let name = name.strip_prefix("resource.kubernetes.io/").unwrap_or(name);
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,80}", "/dev/[a-zA-Z0-9-]{1,20}", "[a-f0-9:.]{1,12}"]
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let value = "[ -~é]{0,70}";
    let fields =
        prop::collection::btree_map("[a-zA-Z:_]{1,12}|serial|pci|pciRoot|usb|numa", value, 0..6);
    let one = (key(), fields, any::<bool>()).prop_map(|(key, fields, healthy)| Item {
        fields,
        ..if healthy { item(&key) } else { sick(&key) }
    });
    prop::collection::vec(one, 0..90).prop_map(|mut items| {
        let mut seen = BTreeSet::new();
        items.retain(|item| seen.insert(item.key.clone()));
        items
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_device_is_told_once_with_what_kubernetes_takes(
        one in items(),
        two in items(),
        count in 1_u32..4,
        taints in any::<bool>(),
        shares in any::<bool>(),
    ) {
        let support = Support { taints, shares };
        let is_told = |item: &&Item| taints || item.is_healthy();
        let each = if shares { 1 } else { count as usize };
        let expected = one.iter().filter(is_told).count() + two.iter().filter(is_told).count() * each;
        let offers = offers(vec![("a.io/x", 1, one), ("b.io/x", count, two)]);
        let (slices, problems) = slices(&offers, support);
        prop_assert!(problems.is_empty());
        let names: BTreeSet<&str> = slices.iter().flatten().map(|device| &*device.name).collect();
        prop_assert_eq!(names.len(), expected);
        prop_assert_eq!(slices.iter().map(Vec::len).sum::<usize>(), expected);
        let index = index(&offers);
        for slice in &slices {
            prop_assert!((1..=64).contains(&slice.len()));
            for device in slice {
                prop_assert!(is_label(&device.name), "{}", device.name);
                let (_, item) = index[&device.name];
                prop_assert_eq!(device.taints.is_none(), item.is_healthy());
                let attributes = device.attributes.as_ref().unwrap();
                prop_assert!(attributes.len() + device.capacity.iter().flatten().count() <= 32);
                for (name, value) in attributes {
                    prop_assert!(is_identifier(name), "{}", name);
                    let texts = value.string.iter();
                    prop_assert!(texts.clone().all(|text| (1..=64).contains(&text.len())));
                    let values = [value.bool.is_some(), value.int.is_some(), value.string.is_some()];
                    prop_assert_eq!(values.iter().filter(|has| **has).count(), 1);
                }
            }
        }
    }

    #[test]
    fn different_devices_have_different_names_that_stay(
        keys in prop::collection::btree_set(key(), 1..40),
        share in prop::option::of(0_u32..100),
    ) {
        let resource = |name: &str| ResourceName::try_from(name.to_owned()).unwrap();
        let names: BTreeSet<String> = ["a.io/x", "b.io/x", "a.io/x-y"]
            .iter()
            .flat_map(|of| keys.iter().map(|key| name(&resource(of), key, share)))
            .collect();
        prop_assert_eq!(names.len(), keys.len() * 3);
        prop_assert!(names.iter().all(|name| is_label(name)));
    }
}
