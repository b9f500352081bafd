//! What `fairlead volume` prints.

use super::*;
use crate::query::{Difference, PublishedRow, UsageRow, VolumeState};

fn volume(id: &str, claim: Option<&str>, pod: Option<&str>) -> VolumeRow {
    VolumeRow {
        id: format!("vol-{}", id.repeat(32)),
        name: format!("pvc-{id}"),
        claim: claim.map(str::to_owned),
        pods: pod.iter().map(|pod| (*pod).to_owned()).collect(),
        state: VolumeState::Published,
        bytes: 1 << 30,
        used: Some(24 << 10),
        allocated: Some(1 << 30),
        back_end: "image".into(),
        fs: "ext4".into(),
        thin: false,
        inline: false,
        source: None,
        made_at: 0,
        device: Some("/dev/loop7".into()),
        staged: vec!["/k/stage".into()],
        published: vec![PublishedRow {
            path: "/k/pods/1/mount".into(),
            readonly: true,
            pod: pod.map(str::to_owned),
        }],
        problems: vec!["ill; heal it".into()],
    }
}

fn volumes() -> Vec<VolumeRow> {
    vec![
        volume("a", Some("shop/data-db-0"), Some("shop/db-0")),
        volume("b", Some("shop/data-db-1"), None),
        volume("c", Some("other/data-db-1"), None),
        volume("d", None, None),
    ]
}

fn names(wanted: &str) -> Vec<String> {
    let rows = volumes();
    let found = found(&rows, wanted);
    found.into_iter().map(|row| row.name.clone()).collect()
}

#[test]
fn a_volume_is_found_by_its_id_its_name_its_claim_and_its_pod() {
    for (wanted, expected) in [
        ("pvc-a", &["pvc-a"][..]),
        ("shop/data-db-0", &["pvc-a"]),
        ("shop/db-0", &["pvc-a"]),
        ("data-db-0", &["pvc-a"]),
        ("vol-aaaa", &["pvc-a"]),
        ("vol-a", &[]),
        ("data-db-1", &["pvc-b", "pvc-c"]),
        ("shop/data-db-1", &["pvc-b"]),
        ("", &[]),
    ] {
        assert_eq!(names(wanted), expected, "{wanted:?}");
    }
}

#[test]
fn a_name_with_a_wrong_letter_is_answered_with_those_that_are_alike() {
    let rows = volumes();
    let said = unknown(&rows, "shop/data-bd-0");
    assert!(
        said.contains("is it one of these? shop/data-db-0"),
        "{said}"
    );
    let said = unknown(&rows, "xyzzy");
    assert!(said.contains("`fairlead volume list`"), "{said}");
    let answer = get(&rows, "xyzzy", Output::Table).unwrap();
    assert_eq!((answer.text.as_str(), answer.code), ("", 1));
}

#[test]
fn a_list_has_a_line_for_each_volume_and_more_columns_when_wide() {
    let rows = volumes();
    let text = list(&rows[..1], Output::Table).unwrap().text;
    for part in [
        "shop/data-db-0",
        "1Gi",
        "24Ki",
        "image",
        "ext4",
        "published",
        "shop/db-0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("/dev/loop7"), "{text}");
    let text = list(&rows[..1], Output::Wide).unwrap().text;
    assert!(
        text.contains("/dev/loop7") && text.contains("/k/stage"),
        "{text}"
    );
    let json = list(&rows, Output::Json).unwrap().text;
    let read: Vec<VolumeRow> = serde_json::from_str(&json).unwrap();
    assert_eq!(read, rows);
    let of = |namespace| rows.iter().filter(|row| is_in(row, namespace)).count();
    assert_eq!((of("shop"), of("other"), of("none")), (2, 1, 0));
}

#[test]
fn one_volume_tells_where_it_is_and_what_is_wrong_with_it() {
    let text = get(&volumes(), "pvc-a", Output::Table).unwrap().text;
    for part in [
        "1Gi (1073741824 bytes)",
        "/k/pods/1/mount (shop/db-0, read-only)",
        "ill; heal it",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_pool_that_something_would_fill_ends_with_one() {
    let mut pool = PoolUsage {
        folder: "/pool".into(),
        total: 10 << 30,
        free: 5 << 30,
        promised: 1 << 30,
        available: 4 << 30,
        rows: vec![UsageRow {
            kind: "volume".into(),
            id: "vol-a".into(),
            name: "shop/data".into(),
            bytes: 3 << 29,
            own: 1 << 20,
            shared: 0,
            promised: 1 << 30,
        }],
        warnings: Vec::new(),
    };
    let answer = usage(&pool, Output::Table).unwrap();
    assert_eq!(answer.code, 0);
    assert!(
        answer.text.contains("shop/data") && answer.text.contains("1.5Gi"),
        "{}",
        answer.text
    );
    pool.warnings = vec!["full soon; add room".into()];
    let answer = usage(&pool, Output::Table).unwrap();
    assert_eq!(answer.code, 1);
    assert!(answer.text.contains("full soon"), "{}", answer.text);
}

#[test]
fn a_check_ends_with_one_when_something_differs() {
    let mut answer = CheckAnswer {
        volumes: 2,
        busy: 1,
        ..CheckAnswer::default()
    };
    let good = check(&answer, Output::Table).unwrap();
    assert_eq!(good.code, 0);
    assert!(
        good.text
            .starts_with("2 volumes (1 of them busy, left out)"),
        "{}",
        good.text
    );
    answer.differences = vec![Difference {
        what: "vol-a".into(),
        problem: "is gone".into(),
        remedy: "restore it".into(),
    }];
    let bad = check(&answer, Output::Table).unwrap();
    assert_eq!(bad.code, 1);
    assert!(
        bad.text.contains("restore it") && bad.text.contains("1 differences"),
        "{}",
        bad.text
    );
}

#[test]
fn sizes_are_written_as_kubernetes_writes_them() {
    for (bytes, text) in [
        (0, "0"),
        (1023, "1023"),
        (1 << 10, "1Ki"),
        (3 << 29, "1.5Gi"),
        ((1 << 30) - 1, "1023.9Mi"),
        (u64::MAX, "16777215.9Ti"),
    ] {
        assert_eq!(size(bytes), text);
    }
}
