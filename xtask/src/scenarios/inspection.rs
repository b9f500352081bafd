//! What people see with bpftool.

use super::{Scene, bpftool};
use crate::lab::Underlay;
use serde_json::Value;
use std::{collections::BTreeMap, fs, process::Command};

#[test]
#[ignore = "needs root and the built binaries"]
fn bpftool_prints_endpoints_and_nodes_with_field_names() {
    let scene = Scene::new(2, Underlay::Bridge);
    let _pod = scene.pod(0, "a");
    let endpoints = scene.map(0, "endpoints");
    let fields = &endpoints[0]["formatted"];
    assert!(
        fields["key"]["ifindex"].is_u64() && fields["value"]["mac"].is_array(),
        "{endpoints:?}"
    );
    let nodes = scene.map(0, "nodes");
    assert_eq!(nodes.len(), 4, "two podCIDRs of two nodes");
    assert!(
        nodes
            .iter()
            .all(|n| n["formatted"]["value"]["next_hop"].is_array()),
        "{nodes:?}"
    );
}

/// Names of the programs that the kernel has, by their numbers.
fn programs() -> BTreeMap<u64, String> {
    let list = bpftool(&["prog", "show"]);
    let named = |program: &Value| {
        let name = program["name"].as_str()?.to_owned();
        Some((program["id"].as_u64()?, name))
    };
    list.as_array().unwrap().iter().filter_map(named).collect()
}

#[test]
#[ignore = "needs root and the built binaries"]
fn bpftool_names_the_programs_of_every_pinned_link() {
    let scene = Scene::new(1, Underlay::Bridge);
    let _pod = scene.pod(0, "a");
    let programs = programs();
    let mut seen = Vec::new();
    for interface in fs::read_dir(scene.pins(0).join("links")).unwrap() {
        for link in fs::read_dir(interface.unwrap().path()).unwrap() {
            let link = link.unwrap();
            let name = link.file_name().into_string().unwrap();
            let shown = bpftool(&["link", "show", "pinned", link.path().to_str().unwrap()]);
            let program = shown["prog_id"].as_u64().unwrap();
            assert_eq!(programs[&program], name, "{shown}");
            seen.push(name);
        }
    }
    seen.sort();
    assert_eq!(seen, ["from_pod", "from_uplink", "to_pod"]);
}

/// bpftool knows TCX in `net show` from 7.3 on; an older one (Debian 12 has 7.1) prints a node
/// without any program, and `link show` is the way.
#[test]
#[ignore = "needs root and the built binaries"]
fn bpftool_net_names_the_programs_where_it_knows_tcx() {
    let scene = Scene::new(1, Underlay::Bridge);
    let _pod = scene.pod(0, "a");
    let version = bpftool(&["version"])["version"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u32>().unwrap());
    let knows = (numbers.next(), numbers.next()) >= (Some(7), Some(3));
    let mut command = Command::new("bpftool");
    let output = scene
        .node(0)
        .ns
        .output(command.args(["net", "show"]))
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.starts_with("xdp:"),
        "{text}"
    );
    for name in ["from_pod", "to_pod", "from_uplink"] {
        assert_eq!(text.contains(name), knows, "bpftool {version}: {text}");
    }
}
