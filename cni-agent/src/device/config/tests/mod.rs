//! Tables: what a configuration comes to, and that every fault that an author can make says where it is and what to write
//! instead.

mod bad;
mod docs;
mod watched;

use super::*;
use crate::device::{
    name::ResourceName,
    plan::{By, Groups, Pattern, Permissions, Prefer, Serve},
    presets::PRESETS,
    template::Template,
};
use proptest::prelude::*;
use std::time::Duration;

pub(super) fn file(name: &str, text: &str) -> Text {
    Text {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

fn name(text: &str) -> ResourceName {
    ResourceName::try_from(text.to_owned()).unwrap()
}

/// The rule of a text with one resource.
fn rule(text: &str) -> Rule {
    let plan =
        parse(&[file("a.yaml", text)], &[]).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mut rules = plan.resources.into_values();
    let rule = rules.next().unwrap();
    assert!(rules.next().is_none());
    rule
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

#[test]
fn the_least_that_is_written_has_sensible_defaults() {
    let rule = rule("resources:\n- name: example.com/serial\n  find: [{path: /dev/ttyUSB*}]\n");
    assert_eq!(rule.name.as_str(), "example.com/serial");
    assert_eq!(rule.origin, "a.yaml:2");
    assert_eq!(rule.find[0].by, By::Path(Pattern("/dev/ttyUSB*".into())));
    assert_eq!(
        (rule.count, rule.prefer, rule.serve),
        (1, Prefer::Near, Serve::DevicePlugin)
    );
    assert_eq!(
        (rule.group_by, rule.id, rule.numa, rule.before_start),
        (None, None, None, None)
    );
    assert_eq!(rule.give.permissions.letters(), "rw");
    assert!(
        !rule.give.write_cdi
            && rule.give.groups == Groups::These(vec![])
            && rule.give.cdi.is_empty()
    );
    assert!(!rule.health.open && rule.health.command.is_none());
    assert_eq!(rule.health.every, Duration::from_secs(10));
    assert_eq!((rule.health.failures, rule.health.successes), (2, 1));
    assert_eq!(rule.health.forget, Duration::from_secs(3600));
}

#[test]
fn all_that_can_be_written_comes_to_the_plan() {
    let text = r#"
resources:
- name: example.com/all
  description: everything
  find:
  - path: /dev/ttyUSB*
    attributes: {"../idVendor[x]": "1"}
"#;
    assert!(parse(&[file("a.yaml", text)], &[]).is_err());
    let rule = rule(
        r#"
resources:
- name: example.com/all
  description: everything
  find:
  - path: /dev/ttyUSB*
  - directory: /dev/dri
  - usb: {vendor: "0x0403", product: "60*", serial: "A5*"}
    attributes: {bcdDevice: "06*"}
    properties: {ID_MODEL: FT232*}
  - pci: {vendor: "8086", device: "10FB", class: "0x0200", driver: vfio-pci, address: "3B:00.0"}
  - subsystem: tty
    name: ttyACM*
  - cdi: vendor.com/gpu
  groupBy: "{iommuGroup}"
  id: "{serial}"
  count: 10
  numa: [1, 0]
  give:
    own: ["dri/renderD*"]
    nodes:
    - {path: "/dev/vfio/{iommuGroup}", within: /dev/x, permissions: rwm, optional: true}
    - /dev/vfio/vfio
    permissions: r
    environment: {NAME: "{id}", EMPTY: ""}
    mounts: [{host: /usr/lib/x, container: /usr/lib/x, readOnly: false, optional: true}]
    annotations: {example.com/port: "{usb}"}
    cdi: ["vendor.com/class={id}"]
    writeCdi: true
    groups: [44, 109]
  prefer: pack
  health: {open: true, command: [/bin/check, -v, "{path}"], deadline: 3s, every: 1m, failures: 3, successes: 2, forget: 2h}
  beforeStart: {command: [/bin/reset, "{path}"], deadline: 20s}
  serve: devicePlugin
"#,
    );
    let By::Usb {
        vendor,
        product,
        serial,
    } = &rule.find[2].by
    else {
        panic!("{:?}", rule.find[2]);
    };
    let of = |pattern: &Option<Pattern>| pattern.as_ref().map(|pattern| pattern.0.clone()).unwrap();
    assert_eq!(
        (of(vendor), of(product), of(serial)),
        ("0403".into(), "60*".into(), "A5*".into())
    );
    assert_eq!(rule.find[2].attributes["bcdDevice"].0, "06*");
    assert_eq!(rule.find[2].properties["ID_MODEL"].0, "FT232*");
    let By::Pci {
        device,
        class,
        address,
        ..
    } = &rule.find[3].by
    else {
        panic!("{:?}", rule.find[3]);
    };
    assert_eq!(
        (of(device), class.as_deref(), of(address)),
        ("10fb".into(), Some("0200"), "0000:3b:00.0".into())
    );
    assert_eq!(rule.group_by, Some(template("{iommuGroup}")));
    assert_eq!(rule.numa, Some(vec![0, 1]));
    assert_eq!(rule.give.nodes[0].within, Some(template("/dev/x")));
    assert!(rule.give.nodes[0].optional && rule.give.nodes[0].permissions.mknod);
    assert_eq!(rule.give.nodes[1].path, template("/dev/vfio/vfio"));
    assert_eq!(
        rule.give.permissions,
        Permissions {
            read: true,
            write: false,
            mknod: false
        }
    );
    assert_eq!(rule.give.environment["NAME"], template("{id}"));
    assert!(!rule.give.mounts[0].readonly && rule.give.mounts[0].optional);
    assert_eq!(rule.give.groups, Groups::These(vec![44, 109]));
    assert_eq!(rule.prefer, Prefer::Pack);
    let command = rule.health.command.unwrap();
    assert_eq!(
        (command.arguments.len(), command.deadline),
        (2, Duration::from_secs(3))
    );
    assert_eq!(rule.before_start.unwrap().deadline, Duration::from_secs(20));
}

#[test]
fn a_number_of_hardware_is_the_text_that_is_written_or_none() {
    let of = |number: &str| {
        let text = format!("resources:\n- name: a.io/x\n  find: [{{usb: {{vendor: {number}}}}}]\n");
        parse(&[file("a.yaml", &text)], &[]).map(|plan| {
            let finder = plan.resources.into_values().next().unwrap().find.remove(0);
            let By::Usb { vendor, .. } = finder.by else {
                unreachable!("{finder:?}");
            };
            vendor.unwrap().0
        })
    };
    for written in ["\"0403\"", "'0x0403'", "\"0X0403\""] {
        assert_eq!(of(written).unwrap(), "0403", "{written}");
    }
    assert_eq!(of("10DE").unwrap(), "10de");
    // Others read these as 259, 4.03e5 and 1027; here they are what is written, or a fault.
    for unquoted in [
        "0403", "0o403", "403e3", "0x0403", "8086", "0_403", "04e3", "0b11",
    ] {
        let read = of(unquoted);
        assert!(
            read.is_err() || read.as_deref() == Ok(unquoted),
            "{unquoted}: {read:?}"
        );
    }
}

#[test]
fn defaults_follow_from_the_rest() {
    let of = |more: &str| rule(&format!("resources:\n- name: a.io/x\n{more}"));
    let shared = of("  find: [{path: /dev/x}]\n  count: 4\n");
    assert_eq!(shared.prefer, Prefer::Spread);
    let written = of("  find: [{path: /dev/x}]\n  give: {writeCdi: true}\n");
    assert_eq!(written.give.groups, Groups::OfFiles);
    let dra = of("  find: [{path: /dev/x}]\n  serve: dra\n");
    assert!(dra.give.write_cdi && dra.give.groups == Groups::OfFiles);
    assert_eq!(
        of("  find: [{path: /dev/x}]\n  serve: dra\n  count: 4\n").count,
        4
    );
    let cdi = of("  find: [{cdi: vendor.com/gpu}]\n");
    assert_eq!(cdi.give.cdi, [template("{cdi}")]);
    let none = [Pattern(String::new())];
    assert_eq!(cdi.give.own, none, "its specification gives the files");
    let both = of("  find: [{cdi: vendor.com/gpu, name: GPU-*}, {path: /dev/x}]\n");
    assert!(both.give.own.is_empty() && both.give.cdi.is_empty());
    let daemon = of(
        "  find: [{path: /dev/x}]\n  give: {own: [], environment: {\"QAT{index}\": \"{pci}\"}}\n",
    );
    assert_eq!(daemon.give.own, none);
    assert!(daemon.give.environment.contains_key("QAT{index}"));
    let fast = of("  find: [{path: /dev/x}]\n  health: {command: [/bin/check], every: 2s}\n");
    assert_eq!(
        fast.health.command.unwrap().deadline,
        Duration::from_secs(2)
    );
}

#[test]
fn json_several_documents_and_several_files_are_read() {
    let one = file(
        "a.yaml",
        "# none yet\n---\nresources: []\n---\nresources:\n- {name: a.io/x, find: [{path: /dev/x}]}\n",
    );
    let two = file(
        "b.json",
        r#"{"resources": [{"name": "a.io/y", "find": [{"path": "/dev/y"}]}]}"#,
    );
    let plan = parse(&[one, two], &["kvm".to_owned()]).unwrap();
    let origins: Vec<&str> = plan
        .resources
        .values()
        .map(|rule| rule.origin.as_str())
        .collect();
    assert_eq!(origins, ["a.yaml:6", "b.json:1", "--device-presets kvm"]);
    assert_eq!(parse(&[], &[]), Ok(Plan::default()));
}

#[test]
fn what_is_written_is_in_place_of_what_the_preset_says() {
    let rule = rule("resources:\n- preset: kvm\n  name: example.com/kvm\n  count: 3\n");
    assert_eq!((rule.name, rule.count), (name("example.com/kvm"), 3));
    assert_eq!(rule.find[0].by, By::Path(Pattern("/dev/kvm".into())));
    assert_eq!(rule.origin, "a.yaml:2 (preset kvm)");
}

#[test]
fn every_preset_is_whole_and_all_go_together() {
    for (preset, text) in PRESETS {
        let names = [preset.to_owned()];
        let plan = parse(&[], &names).unwrap_or_else(|problems| panic!("{preset}: {problems:#?}"));
        let documents = documents(text).len();
        assert_eq!(plan.resources.len(), documents, "{preset}");
        assert!(text.starts_with("# "), "{preset} says what it is");
        assert!(
            text.contains("\n# Facts: ") || preset == "example",
            "{preset} says where its facts are from"
        );
        for rule in plan.resources.values() {
            assert!(rule.description.is_some(), "{preset}");
            // As each is an entry of a configuration, too.
            let short = rule.name.short();
            let word = if documents > 1 {
                format!("{preset}/{short}")
            } else {
                preset.to_owned()
            };
            let text = format!("resources:\n- preset: {word}\n  name: example.com/x\n");
            assert!(parse(&[file("a.yaml", &text)], &[]).is_ok(), "{word}");
        }
    }
    let names: Vec<String> = PRESETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(names.is_sorted());
    parse(&[], &names).unwrap();
}

#[test]
fn a_preset_copied_below_resources_is_the_same() {
    for (preset, text) in PRESETS {
        let copies = text.split("\n---\n").map(|document| {
            let lines = document.lines().map(|line| format!("  {line}\n"));
            format!("-\n{}", lines.collect::<String>())
        });
        let text = format!("resources:\n{}", copies.collect::<String>());
        let copied = parse(&[file("a.yaml", &text)], &[]).unwrap();
        let named = parse(&[], &[preset.to_owned()]).unwrap();
        let without_origin = |plan: Plan| {
            let rules = plan.resources.into_values();
            rules
                .map(|rule| Rule {
                    origin: String::new(),
                    ..rule
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(without_origin(copied), without_origin(named), "{preset}");
    }
}

/// Pieces that a configuration is made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "resources:",
        "- ",
        "name: ",
        "a.io/x",
        "find: ",
        "[",
        "]",
        "{",
        "}",
        "\n",
        "  ",
        "path: ",
        "/dev/x",
        "usb: ",
        "vendor: ",
        "0403",
        "\"",
        ":",
        ", ",
        "&a",
        "*a",
        "<<: ",
        "!!binary ",
        "give: ",
        "nodes: ",
        "count: ",
        "7",
        "-1",
        "1e99",
        "true",
        "null",
        "|\n",
        "preset: kvm",
        "---\n",
        "random: {least: 1, most: 2, every: 5s}",
        "{id}",
        "..",
        "\t",
        "é",
        "%YAML 1.2\n",
        "? ",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in prop_oneof![pieces(), ".{0,200}"]) {
        let files = [file("a.yaml", &text)];
        let first = parse(&files, &[]);
        prop_assert_eq!(&first, &parse(&files, &[]), "the same text is the same plan");
        if let Err(problems) = first {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert_eq!(problem.file, "a.yaml");
                prop_assert!(!problem.message.is_empty());
            }
        }
    }

    #[test]
    fn plans_hold_what_is_written_whatever_its_order(
        counts in prop::collection::btree_map("[a-z]{1,8}", 1_u32..=10_000, 1..20),
        turn in 0_usize..20,
    ) {
        let entry = |(name, count): (&String, &u32)| {
            format!("- name: a.io/{name}\n  find:\n  - path: \"/dev/{name}[0-9]*\"\n  count: {count}\n")
        };
        let mut entries: Vec<String> = counts.iter().map(entry).collect();
        let of = |entries: &[String]| {
            parse(&[file("a.yaml", &format!("resources:\n{}", entries.concat()))], &[]).unwrap()
        };
        let plan = of(&entries);
        prop_assert_eq!(plan.resources.len(), counts.len());
        for (name, count) in &counts {
            let rule = &plan.resources[&ResourceName::try_from(format!("a.io/{name}")).unwrap()];
            prop_assert_eq!(rule.count, *count);
        }
        let turned = turn % entries.len();
        entries.rotate_left(turned);
        let other = of(&entries);
        prop_assert!(plan.resources.keys().eq(other.resources.keys()));
    }
}

#[test]
fn a_field_is_an_argument_of_a_script_and_of_what_only_looks_like_a_shell() {
    for command in [
        r#"[/bin/sh, -e, -c, 'check "$1"', sh, "{serial}"]"#,
        r#"[/bin/sh, /opt/check, -c, "{serial}"]"#,
        r#"[/bin/bash, -o, pipefail, /opt/check, "{serial}"]"#,
        r#"[/usr/bin/env, -u, X, /opt/check, -c, "{serial}"]"#,
        r#"[/usr/bin/env, A=1, sh, /opt/check, "{serial}"]"#,
        r#"[/usr/bin/env, "SERIAL={serial}", /opt/check]"#,
        r#"[/bin/busybox, test, -c, "{path}"]"#,
        r#"[/opt/check, -c, "{serial}"]"#,
    ] {
        let text = format!(
            "resources:\n- name: a.io/x\n  find: [{{path: /dev/x}}]\n  beforeStart: {{command: {command}}}\n"
        );
        assert!(rule(&text).before_start.is_some(), "{command}");
    }
}
