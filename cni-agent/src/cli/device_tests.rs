//! What `fairlead device` prints.

use super::*;
use crate::query::DeviceStep;

fn row(name: &str) -> ResourceRow {
    ResourceRow {
        name: name.into(),
        origin: "serial.yaml, line 2".into(),
        description: None,
        registered: true,
        why_not: None,
        count: 1,
        devices: vec![device_row("A1", true), device_row("A2", false)],
        problems: Vec::new(),
        looks: vec![DeviceLook {
            finder: "USB devices".into(),
            candidates: 7,
            steps: vec![DeviceStep {
                condition: "vendor 0403".into(),
                left: 2,
            }],
        }],
        gives: vec!["its files (rw)".into()],
    }
}

fn device_row(id: &str, healthy: bool) -> DeviceRow {
    DeviceRow {
        id: id.into(),
        key: format!("0403:6001:{id}"),
        healthy,
        reason: (!healthy).then(|| "it isn't there any more".to_owned()),
        since: None,
        numa: vec![1],
        files: vec!["/dev/ttyUSB0".into()],
        fields: BTreeMap::new(),
        holders: Vec::new(),
    }
}

fn answer(resources: Vec<ResourceRow>) -> DeviceAnswer {
    DeviceAnswer {
        resources,
        ..DeviceAnswer::default()
    }
}

#[test]
fn a_resource_is_found_by_its_name_with_and_without_the_domain() {
    let all = answer(vec![
        row("a.io/serial"),
        row("b.io/serial"),
        row("b.io/kvm"),
    ]);
    assert_eq!(found(&all, "a.io/serial").unwrap().name, "a.io/serial");
    assert_eq!(found(&all, "kvm").unwrap().name, "b.io/kvm");
    let several = found(&all, "serial").unwrap_err();
    assert!(several.contains("say which: a.io/serial"), "{several}");
    let none = found(&all, "tun").unwrap_err();
    assert!(none.contains("there are a.io/serial"), "{none}");
    let nothing = found(&answer(Vec::new()), "tun").unwrap_err();
    assert!(nothing.contains("--device-presets"), "{nothing}");
}

#[test]
fn an_empty_resource_says_which_condition_left_nothing() {
    let mut empty = row("a.io/serial");
    empty.devices.clear();
    empty.looks[0].steps[0].left = 0;
    let text = explain(&empty, &answer(Vec::new()), Output::Table).unwrap();
    assert_eq!(text.code, 1);
    for line in [
        "USB devices: 7 there",
        "with vendor 0403: 0 left",
        "none of USB devices has vendor 0403",
    ] {
        assert!(text.text.contains(line), "{line} is not in:\n{}", text.text);
    }
}

#[test]
fn what_is_in_the_way_is_told_and_else_that_nothing_is() {
    let good = explain(&row("a.io/serial"), &answer(Vec::new()), Output::Table).unwrap();
    assert_eq!(good.code, 0, "{}", good.text);
    assert!(good.text.contains("Nothing is in the way"), "{}", good.text);
    let mut held = row("a.io/serial");
    held.devices[0].holders.push(HolderRow {
        namespace: "shop".into(),
        pod: "till".into(),
        container: "main".into(),
    });
    held.registered = false;
    held.why_not = Some("the kubelet is not running yet".into());
    let text = explain(&held, &answer(Vec::new()), Output::Table).unwrap();
    assert_eq!(text.code, 1);
    for part in ["every healthy device is held", "not running yet"] {
        assert!(text.text.contains(part), "{}", text.text);
    }
    let devices = get(&held, Output::Table).unwrap().text;
    assert!(devices.contains("shop/till (main)"), "{devices}");
    let all = list(&answer(vec![held]), Output::Wide).unwrap().text;
    assert!(all.contains("shop/till"), "{all}");
}

#[test]
fn while_the_kubelet_does_not_say_who_has_what_nobody_is_told_that_all_is_free() {
    let columns = |answer: &DeviceAnswer| -> Vec<String> {
        let text = list(answer, Output::Table).unwrap().text;
        let line = text.lines().last().unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    let mut all = answer(vec![row("a.io/serial")]);
    assert_eq!(columns(&all)[1..5], ["2", "1", "0", "1"]);
    all.kubelet = Some("the kubelet does not answer".into());
    assert_eq!(columns(&all)[1..5], ["2", "1", "-", "-"]);
}
