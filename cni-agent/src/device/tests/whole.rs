//! The whole part: a configuration, a tree of devices, a kubelet, restarts of the part itself.

use super::*;
use crate::{
    device::{
        DeviceSlot, host::fake::Tree, options::DeviceConfig, options::Registration, query, run_on,
    },
    query::{DeviceAnswer, Query},
};
use std::{collections::BTreeSet, fs};

/// A part that runs.
struct Part {
    slot: DeviceSlot,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), String>>,
}

/// Where it lives.
struct Place {
    folder: tempfile::TempDir,
    kubelet: Kubelet,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("devices")).unwrap();
        let kubelet = Kubelet::new(&folder.path().join("kubelet"));
        Self { folder, kubelet }
    }

    fn configure(&self, text: &str) {
        let devices = self.folder.path().join("devices");
        fs::write(devices.join(".new"), text).unwrap();
        fs::rename(devices.join(".new"), devices.join("a.yaml")).unwrap();
    }

    fn part(&self, host: Host, presets: &[&str]) -> Part {
        let place = |name: &str| self.folder.path().join(name);
        let config = DeviceConfig {
            node_name: "n1".to_owned(),
            kubelet_dir: place("kubelet"),
            state_dir: place("state"),
            devices: place("devices"),
            presets: presets.iter().map(|name| (*name).to_owned()).collect(),
            registration: Registration::Register,
            cdi_dir: place("cdi"),
            api: None,
        };
        let slot = DeviceSlot::starting();
        let (stop, stopped) = Shutdown::new();
        let counts = DeviceCounts::default();
        let task = tokio::spawn(run_on(host, config, slot.clone(), counts, stopped));
        Part { slot, stop, task }
    }
}

impl Part {
    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }

    async fn answer(&self) -> DeviceAnswer {
        let answer = query(&self.slot, Query::Devices).await.unwrap();
        serde_json::from_value(answer).unwrap()
    }
}

const TTY: &str = "
resources:
- name: example.com/tty
  find:
  - path: /dev/tty-test-*
";

#[tokio::test(flavor = "multi_thread")]
async fn the_example_has_one_to_five_devices_that_are_others_after_a_while() {
    let place = Place::new();
    place.configure(
        "
resources:
- preset: example
  find: [{random: {least: 1, most: 5, every: 1s}}]
",
    );
    let process = place.kubelet.start();
    let tree = Tree::new();
    let part = place.part(tree.host(), &[]);
    const NAME: &str = "extend-k8s.io/example";
    let mut seen: BTreeSet<Vec<String>> = BTreeSet::new();
    for _ in 0..3 {
        let before = seen.clone();
        place
            .kubelet
            .knows("other devices", |known| {
                let ids = |of: &kubelet::Known| of.keys().cloned().collect::<Vec<_>>();
                known
                    .get(NAME)
                    .is_some_and(|of| !of.is_empty() && !before.contains(&ids(of)))
            })
            .await;
        let ids: Vec<String> = place.kubelet.known(NAME).into_keys().collect();
        assert!((1..=5).contains(&ids.len()), "{ids:?}");
        seen.insert(ids);
    }
    let given = process
        .admit("device-plugin-consumer", NAME, 1)
        .await
        .unwrap();
    let value = &given.container_responses[0].envs["K8S_DEVICE_PLUGIN_EXAMPLE"];
    let is_hex = value.len() == 16 && value.chars().all(|c| c.is_ascii_hexdigit());
    assert!(is_hex, "{value}");
    part.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_pulled_out_is_unhealthy_and_back_when_it_is_plugged_in() {
    let place = Place::new();
    place.configure(TTY);
    let process = place.kubelet.start();
    let tree = Tree::new();
    tree.file("tty-test-a", 188, 0);
    tree.file("tty-test-b", 188, 1);
    let part = place.part(tree.host(), &[]);
    let healthy = |count: usize| {
        move |known: &std::collections::BTreeMap<String, kubelet::Known>| {
            let of = known.get("example.com/tty");
            of.is_some_and(|of| of.len() == 2 && of.values().filter(|is| **is).count() == count)
        }
    };
    place.kubelet.knows("two", healthy(2)).await;
    let given = process.admit("pod", "example.com/tty", 1).await.unwrap();
    assert_eq!(
        given.container_responses[0].devices[0].host_path,
        "/dev/tty-test-a"
    );
    tree.remove_file("tty-test-a");
    place.kubelet.knows("one of two", healthy(1)).await;
    let row = part.answer().await.resources.remove(0);
    assert_eq!(row.devices[0].holders[0].pod, "pod");
    assert!(
        row.devices[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("unplugged")
    );
    // An agent that starts meanwhile knows that there was one.
    part.end().await;
    let part = place.part(tree.host(), &[]);
    place.kubelet.knows("still one of two", healthy(1)).await;
    tree.file("tty-test-a", 188, 0);
    place.kubelet.knows("two again", healthy(2)).await;
    assert_eq!(place.kubelet.held("example.com/tty").len(), 1);
    part.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_that_says_the_same_takes_nothing_of_the_first() {
    const NAME: &str = "example.com/usb";
    let place = Place::new();
    place.configure(
        "
resources:
- name: example.com/usb
  find: [{usb: {vendor: 10c4}}]
",
    );
    let process = place.kubelet.start();
    let tree = Tree::new();
    let plug = |port, number| {
        let all = [
            ("idVendor", "10c4"),
            ("idProduct", "ea60"),
            ("serial", "0001"),
        ];
        let adapter = tree.usb_with(port, 1, number, &all);
        // The tree has no messages of the kernel: this is what tells.
        tree.file(&format!("comes-{number}"), 188, number);
        adapter
    };
    let _first = plug("1-3", 5);
    let part = place.part(tree.host(), &[]);
    let healthy = |wanted: &'static [&'static str]| {
        move |known: &std::collections::BTreeMap<String, kubelet::Known>| {
            let of = known.get(NAME).into_iter().flatten();
            let ids: Vec<&str> = of
                .filter(|(_, is_healthy)| **is_healthy)
                .map(|(id, _)| id.as_str())
                .collect();
            ids == wanted
        }
    };
    place
        .kubelet
        .knows("one", healthy(&["10c4:ea60:0001"]))
        .await;
    process.admit("pod", NAME, 1).await.unwrap();
    let _second = plug("1-1", 4);
    let both = &["10c4:ea60:0001", "10c4:ea60:0001:1-1"];
    place.kubelet.knows("both", healthy(both)).await;
    // Nor does it for the next agent.
    part.end().await;
    let part = place.part(tree.host(), &[]);
    place.kubelet.knows("both again", healthy(both)).await;
    let given = process.admit("other", NAME, 1).await.unwrap();
    let device = &given.container_responses[0].devices[0];
    assert_eq!(device.host_path, "/dev/bus/usb/001/004");
    assert!(process.admit("third", NAME, 1).await.is_err());
    assert_eq!(place.kubelet.known(NAME).len(), 2);
    part.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_in_the_registry_goes_when_the_next_one_starts() {
    let place = Place::new();
    place.configure(TTY);
    let process = place.kubelet.start();
    let left = place
        .folder
        .path()
        .join("kubelet/plugins_registry/fairlead-tty-1.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let part = place.part(Tree::new().host(), &[]);
    place
        .kubelet
        .knows("the resource", |known| {
            known.contains_key("example.com/tty")
        })
        .await;
    assert!(!left.exists());
    part.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_configuration_changes_nothing_and_a_good_one_at_once() {
    let place = Place::new();
    place.configure(TTY);
    let process = place.kubelet.start();
    let tree = Tree::new();
    tree.file("tty-test-a", 188, 0);
    tree.file("ttz-test-a", 188, 7);
    let part = place.part(tree.host(), &[]);
    place
        .kubelet
        .knows("one", |known| known.contains_key("example.com/tty"))
        .await;
    place.configure("resources:\n- name: example.com/tty\n  fnid: [{path: /dev/x}]\n");
    let faulty = async {
        while part.answer().await.problems.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, faulty).await.expect("the fault is told");
    let problems = part.answer().await.problems.join("\n");
    assert!(
        problems.contains("a.yaml") && problems.contains("find"),
        "{problems}"
    );
    assert_eq!(place.kubelet.known("example.com/tty").len(), 1);
    place.configure(
        &TTY.replace("tty-test", "ttz-test")
            .replace("example.com/tty", "example.com/ttz"),
    );
    place
        .kubelet
        .knows("the other resource", |known| {
            known
                .get("example.com/ttz")
                .is_some_and(|of| of.contains_key("ttz-test-a"))
                && known["example.com/tty"].is_empty()
        })
        .await;
    part.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_listens_and_knows_nothing_is_told_anew() {
    let place = Place::new();
    place.configure(TTY);
    let process = place.kubelet.start();
    let tree = Tree::new();
    tree.file("tty-test-a", 188, 0);
    let part = place.part(tree.host(), &[]);
    place
        .kubelet
        .knows("one", |known| known.contains_key("example.com/tty"))
        .await;
    let before = place.kubelet.registrations();
    place.kubelet.forget(true);
    let again = async {
        while place.kubelet.registrations() == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("registered again");
    place.kubelet.forget(false);
    part.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_a_start_of_the_machine_is_told_before_its_driver_found_it() {
    let place = Place::new();
    place.configure(TTY);
    let mut process = place.kubelet.start();
    let tree = Tree::new();
    tree.file("tty-test-a", 188, 0);
    let part = place.part(tree.host(), &[]);
    place
        .kubelet
        .knows("one", |known| known.contains_key("example.com/tty"))
        .await;
    process.admit("pod", "example.com/tty", 1).await.unwrap();
    part.end().await;
    process.kill().await;
    // The machine starts anew, and the driver is late.
    let kept = place.folder.path().join("state/devices.json");
    let text = fs::read_to_string(&kept).unwrap();
    let boot = crate::device::kept::boot();
    assert!(text.contains(&boot));
    fs::write(&kept, text.replace(&boot, "an earlier one")).unwrap();
    tree.remove_file("tty-test-a");
    process = place.kubelet.start();
    let part = place.part(tree.host(), &[]);
    place
        .kubelet
        .knows("the one that was there", |known| {
            known
                .get("example.com/tty")
                .is_some_and(|of| of.get("tty-test-a") == Some(&true))
        })
        .await;
    tree.file("tty-test-a", 188, 0);
    part.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_back_broken_is_unhealthy_again_and_well_when_nobody_looks_any_more() {
    let place = Place::new();
    let ill = place.folder.path().join("ill");
    let look = format!(
        "  health: {{command: [/bin/sh, -c, 'test ! -e {}'], every: 1s, failures: 1}}\n",
        ill.display()
    );
    place.configure(&format!("{TTY}{look}"));
    let process = place.kubelet.start();
    let tree = Tree::new();
    tree.file("tty-test-a", 188, 0);
    let part = place.part(tree.host(), &[]);
    let is = |healthy: bool| {
        move |known: &std::collections::BTreeMap<String, kubelet::Known>| {
            let of = known.get("example.com/tty");
            of.is_some_and(|of| of.get("tty-test-a") == Some(&healthy))
        }
    };
    place.kubelet.knows("a healthy one", is(true)).await;
    fs::write(&ill, "").unwrap();
    for (step, why) in ["exit", "unplugged", "exit"].into_iter().enumerate() {
        match step {
            1 => tree.remove_file("tty-test-a"),
            2 => tree.file("tty-test-a", 188, 0),
            _ => {}
        }
        let told = async {
            loop {
                let row = part.answer().await.resources.remove(0);
                let reason = row.devices[0].reason.as_deref();
                if reason.is_some_and(|reason| reason.contains(why)) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, told).await.expect(why);
    }
    place.kubelet.knows("a broken one", is(false)).await;
    place.configure(TTY);
    place.kubelet.knows("a healthy one again", is(true)).await;
    part.end().await;
    process.kill().await;
}
