//! What was found becomes devices.

use super::*;
use crate::device::{
    found::FileKind,
    plan::{NodeRule, Pattern},
    template::Template,
    tests::{item, rule},
};
use proptest::prelude::*;
use std::time::Duration;

fn found(key: &str, fields: &[(&str, &str)], files: &[(&str, u32)]) -> Found {
    Found {
        key: key.to_owned(),
        name: key.to_owned(),
        files: files
            .iter()
            .map(|(path, minor)| DeviceFile {
                path: path.into(),
                kind: FileKind::Character,
                major: 188,
                minor: *minor,
                group: 20,
            })
            .collect(),
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Found::default()
    }
}

/// Of a look at a node where everything is, and nothing was before.
fn first(
    rule: &Rule,
    found: Vec<Found>,
    exists: &dyn Fn(&Path) -> bool,
) -> (Vec<Item>, Vec<String>) {
    let node = Witness {
        exists,
        is_there: &|_| false,
    };
    items(rule, found, &[], &node)
}

fn template(text: &str) -> Option<Template> {
    Some(Template::parse(text).unwrap())
}

fn keys(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| &*item.key).collect()
}

fn ids(offer: &Offer) -> Vec<&str> {
    offer.devices.keys().map(DeviceId::as_str).collect()
}

#[test]
fn what_has_the_same_value_is_one_device_with_all_its_files() {
    let rule = Rule {
        group_by: template("{iommuGroup}"),
        ..rule("a.io/vfio")
    };
    let (items, problems) = first(
        &rule,
        vec![
            found("0000:01:00.0", &[("iommuGroup", "7")], &[("/dev/b", 2)]),
            found("0000:01:00.1", &[("iommuGroup", "7")], &[("/dev/a", 1)]),
            found("0000:02:00.0", &[("iommuGroup", "9")], &[]),
            found("0000:03:00.0", &[], &[]),
        ],
        &|_| true,
    );
    assert_eq!(keys(&items), ["7", "9"]);
    let files: Vec<_> = items[0].files.iter().map(|file| &file.path).collect();
    assert_eq!(
        files,
        [
            std::path::Path::new("/dev/a"),
            std::path::Path::new("/dev/b")
        ]
    );
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("0000:03:00.0") && problems[0].contains("groupBy"));
}

#[test]
fn a_name_that_is_not_there_or_not_unique_is_told_and_another_taken() {
    let rule = Rule {
        id: template("{serial}"),
        ..rule("a.io/serial")
    };
    let (items, problems) = first(
        &rule,
        vec![
            found("one", &[("serial", "A")], &[]),
            found("other", &[], &[]),
            found("two", &[("serial", "A")], &[]),
        ],
        &|_| true,
    );
    assert_eq!(keys(&items), ["A", "other", "two"]);
    assert_eq!(items[0].fields["id"], "A");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[1].contains("the others are two"), "{problems:?}");
}

#[test]
fn of_its_own_files_only_those_that_are_asked_for_are_given() {
    let mut rule = rule("a.io/gpu");
    rule.give.own = vec![Pattern("dri/renderD*".to_owned())];
    let files = [("/dev/dri/card0", 0), ("/dev/dri/renderD128", 128)];
    let (items, _) = first(&rule, vec![found("gpu", &[], &files)], &|_| true);
    let given: Vec<_> = items[0].files.iter().map(|file| file.minor).collect();
    assert_eq!(given, [128]);
}

#[test]
fn a_shared_device_has_an_id_for_each_share_and_others_one() {
    let shared = Rule {
        count: 3,
        ..rule("a.io/kvm")
    };
    let offer = Offer::new(Arc::new(shared), vec![item("/dev/kvm")]);
    assert_eq!(ids(&offer), ["kvm-0", "kvm-1", "kvm-2"]);
    let offer = Offer::new(Arc::new(rule("a.io/kvm")), vec![item("/dev/kvm")]);
    assert_eq!(ids(&offer), ["kvm"]);
}

#[test]
fn no_resource_is_larger_than_the_kubelet_likes() {
    let shared = Rule {
        count: 1000,
        ..rule("a.io/kvm")
    };
    let many = (0..20).map(|n| found(&format!("d{n:02}"), &[], &[]));
    let (items, problems) = first(&shared, many.collect(), &|_| true);
    assert_eq!(items.len(), 10);
    assert!(problems[0].contains("20000"), "{problems:?}");
}

#[test]
fn one_that_is_pulled_out_is_gone_and_is_itself_again_when_it_is_back() {
    let before = [item("a"), item("b")];
    let gone = merge(&before, vec![item("b")], 100, &forgets(60));
    assert_eq!(gone[0].health, Health::Gone { since: 100 });
    assert_eq!(gone[1].health, Health::Healthy);
    // It stays as long as is said, from when it went.
    let still = merge(&gone, vec![item("b")], 159, &forgets(60));
    assert_eq!(still[0].health, Health::Gone { since: 100 });
    assert_eq!(
        keys(&merge(&still, vec![item("b")], 160, &forgets(60))),
        ["b"]
    );
    let back = merge(&still, vec![item("a"), item("b")], 159, &forgets(60));
    assert_eq!(back, before);
}

/// A rule that forgets after so many seconds.
fn forgets(seconds: u64) -> Rule {
    let mut rule = rule("a.io/x");
    rule.health.forget = Duration::from_secs(seconds);
    rule
}

#[test]
fn however_many_go_no_more_are_told_of_than_a_resource_may_have() {
    let rule = Rule {
        count: 1_000,
        ..forgets(3600)
    };
    let mut items = Vec::new();
    for second in 0..50 {
        let now = vec![item("stays"), item(&format!("d{second:02}"))];
        items = merge(&items, now, second, &rule);
        assert!(items.len() <= 10);
    }
    // Those that went last are known still.
    let last: Vec<String> = (41..50).map(|second| format!("d{second}")).collect();
    let known = last.iter().map(String::as_str).chain(["stays"]);
    assert_eq!(keys(&items), known.collect::<Vec<_>>());
    // By a count that grows there are no more either.
    let many = (0..30).map(|n| item(&format!("d{n:02}"))).collect();
    assert_eq!(Offer::new(Arc::new(rule), many).devices.len(), 10_000);
}

#[test]
fn what_is_unhealthy_stays_so_until_it_is_looked_at() {
    let ill = Item {
        health: Health::Unhealthy {
            reason: "stuck".to_owned(),
            since: 5,
        },
        ..item("a")
    };
    let merged = merge(
        std::slice::from_ref(&ill),
        vec![item("a")],
        100,
        &forgets(60),
    );
    assert_eq!(merged, [ill]);
}

proptest! {
    #[test]
    fn whatever_comes_and_goes_each_device_is_told_once(
        steps in prop::collection::vec(prop::collection::btree_set(0_u8..12, 0..12), 1..12),
        count in 1_u32..4,
    ) {
        let rule = Arc::new(Rule { count, ..rule("a.io/x") });
        let mut items: Vec<Item> = Vec::new();
        for (step, here) in steps.iter().enumerate() {
            let now = here.iter().map(|n| item(&format!("d{n}"))).collect();
            items = merge(&items, now, step as u64 * 10, &forgets(25));
            let healthy: BTreeSet<String> = items
                .iter()
                .filter(|item| item.is_healthy())
                .map(|item| item.key.clone())
                .collect();
            let expected: BTreeSet<String> = here.iter().map(|n| format!("d{n}")).collect();
            prop_assert_eq!(healthy, expected);
            let offer = Offer::new(rule.clone(), items.clone());
            prop_assert_eq!(offer.devices.len(), items.len() * count as usize);
            // Gone at one look and still remembered at the two that follow.
            let recent: BTreeSet<u8> = steps[step.saturating_sub(3)..=step].iter().flatten().copied().collect();
            prop_assert_eq!(items.len(), recent.len());
        }
    }
}

#[test]
fn one_without_what_it_is_given_with_is_given_to_nobody() {
    let mut rule = rule("amd.com/gpu");
    rule.give.nodes = vec![NodeRule {
        path: Template::parse("/dev/kfd").unwrap(),
        within: None,
        permissions: rule.give.permissions,
        optional: false,
    }];
    for is_there in [true, false] {
        let found = vec![found("gpu", &[], &[])];
        let (items, _) = first(&rule, found, &|_| is_there);
        assert_eq!(items[0].is_healthy(), is_there);
        let reason = items[0].reason().unwrap_or_default();
        assert_eq!(reason.contains("/dev/kfd"), !is_there, "{reason}");
    }
    rule.give.nodes[0].optional = true;
    let (items, _) = first(&rule, vec![found("gpu", &[], &[])], &|_| false);
    assert!(items[0].is_healthy());
}
