//! Fairlead under clients that nobody here wrote: containerd with runc, and libcni's `cnitool`.

use crate::{
    containerd::{Container, Containerd, Setting},
    lab::{Agent, Lab, LabOptions, NetNs, Node, Session, Underlay},
    setup, workspace,
};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command, process::Output};

/// What a runtime asks for a pod with a host port; given to the plugins that declare it.
const PORTS: &str =
    r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#;
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn lab(nodes: u8) -> (Lab, Vec<Agent>) {
    let session = Session::start().unwrap();
    let options = LabOptions {
        name: "r",
        nodes,
        underlay: Underlay::Bridge,
    };
    let lab = Lab::new(&session, options).unwrap();
    let binary = workspace::binaries().join("fairlead");
    let agents = lab
        .nodes
        .iter()
        .map(|node| Agent::start(&lab, node, &binary, &[]).unwrap())
        .collect();
    (lab, agents)
}

fn network(node: &Node, version: &str) -> Value {
    let mut plugin = node.cni_config(version);
    let fields = plugin.as_object_mut().unwrap();
    fields.remove("cniVersion");
    fields.remove("name");
    json!({ "cniVersion": version, "name": "fairlead", "plugins": [plugin] })
}

fn containerd(node: &Node) -> Containerd {
    let (binaries, tools) = (workspace::binaries(), setup::go_tools().unwrap());
    let setting = Setting {
        dir: &node.dir,
        plugins: &[&binaries, &tools],
        network: &network(node, "1.0.0"),
    };
    Containerd::start(&node.ns, &setting).unwrap()
}

/// The container's addresses, IPv4 and IPv6, as it sees them itself.
fn addresses(container: &Container) -> [String; 2] {
    let words = [
        "ip", "-o", "address", "show", "dev", "eth0", "scope", "global",
    ];
    let output = container.exec(&words).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    ["inet", "inet6"].map(|family| {
        let address = text
            .split_whitespace()
            .skip_while(|word| *word != family)
            .nth(1);
        let address = address.unwrap_or_else(|| panic!("no {family} address: {text}"));
        address.split('/').next().unwrap().to_owned()
    })
}

#[test]
#[ignore = "needs root, containerd and runc"]
fn containers_of_two_nodes_reach_each_other_and_leave_nothing() {
    let (lab, agents) = lab(2);
    let runtimes = [containerd(&lab.nodes[0]), containerd(&lab.nodes[1])];
    let [first, second] = [0, 1].map(|i| runtimes[i].run("c", &["sleep", "1000"]).unwrap());
    let seen = [addresses(&first), addresses(&second)];
    assert!(
        seen[0][0].starts_with("100.11.1.") && seen[1][0].starts_with("100.11.2."),
        "{seen:?}"
    );
    for (from, to) in [(&first, &seen[1]), (&second, &seen[0])] {
        for address in to {
            let ping = from.exec(&["ping", "-c", "2", "-W", "5", address]).unwrap();
            assert!(ping.status.success(), "{address}: {ping:?}");
        }
    }
    first.stop().unwrap();
    second.stop().unwrap();
    for agent in &agents {
        let listed = agent.client(&["endpoint", "list", "-o", "json"]).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&listed.stdout).unwrap(),
            json!([])
        );
    }
}

fn cnitool(node: &Node, folder: &Path, command: &str, sandbox: &NetNs) -> Output {
    let tools = setup::go_tools().unwrap();
    let path = std::env::join_paths([&workspace::binaries(), &tools]).unwrap();
    // libcni keeps results in /var/lib/cni: here that is a folder of the lab's.
    let inside = "mount --bind \"$0\" /var/lib && exec \"$@\"";
    let mut tool = Command::new("unshare");
    tool.args(["--mount", "--propagation", "private", "sh", "-c", inside])
        .arg(&node.dir)
        .arg(tools.join("cnitool"))
        .args([command, "fairlead"])
        .arg(sandbox.path())
        .env("NETCONFPATH", folder)
        .env("CNI_PATH", path)
        .env("CAP_ARGS", PORTS);
    node.ns.output(&mut tool).unwrap()
}

#[test]
#[ignore = "needs root and cnitool"]
fn cnitool_is_served_in_every_version() {
    let (lab, agents) = lab(1);
    let node = &lab.nodes[0];
    for version in VERSIONS {
        let folder = node.dir.join("cni").join(version);
        fs::create_dir_all(&folder).unwrap();
        let conflist = serde_json::to_vec(&network(node, version)).unwrap();
        fs::write(folder.join("10-fairlead.conflist"), conflist).unwrap();
        let sandbox = NetNs::new(lab.session(), &format!("tool-{version}")).unwrap();
        let run = |command| {
            let output = cnitool(node, &folder, command, &sandbox);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{version} {command}: {text} {output:?}"
            );
            text
        };
        let result: Value = serde_json::from_str(&run("add")).unwrap();
        assert_eq!(result["cniVersion"], version);
        let ips = result["ips"].as_array().unwrap();
        assert_eq!(ips.len(), 2, "{result}");
        // The field that 1.0.0 took away, and the one that 1.1.0 brought.
        let has_family = ips.iter().all(|ip| ip.get("version").is_some());
        assert_eq!(has_family, version.starts_with("0."), "{result}");
        let has_mtu = result["interfaces"][1].get("mtu").is_some();
        assert_eq!(has_mtu, version == "1.1.0", "{result}");
        // Older specifications have no such commands.
        if !version.starts_with("0.3") {
            run("check");
        }
        if version == "1.1.0" {
            run("status");
            run("gc");
        }
        run("del");
        run("del");
        let listed = agents[0]
            .client(&["endpoint", "list", "-o", "json"])
            .unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&listed.stdout).unwrap(),
            json!([]),
            "{version}"
        );
    }
}

#[test]
#[ignore = "needs root and cnitool"]
fn plugins_chained_after_ours_get_its_result_and_pass_it_on() {
    let (lab, agents) = lab(1);
    let node = &lab.nodes[0];
    let mut conflist = network(node, "1.0.0");
    let chained = [
        json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" } }),
        json!({ "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } }),
    ];
    conflist["plugins"].as_array_mut().unwrap().extend(chained);
    let folder = node.dir.join("cni/chain");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("10-chain.conflist"), conflist.to_string()).unwrap();
    let sandbox = NetNs::new(lab.session(), "chain").unwrap();
    let run = |command| {
        let output = cnitool(node, &folder, command, &sandbox);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text} {output:?}");
        text
    };
    let show = |ns: &NetNs, words: &[&str]| {
        let output = ns.output(Command::new(words[0]).args(&words[1..])).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let rules = || show(&node.ns, &["nft", "list", "ruleset"]);

    let result: Value = serde_json::from_str(&run("add")).unwrap();
    // The last plugin's answer holds what ours made.
    let listed = agents[0]
        .client(&["endpoint", "list", "-o", "json"])
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let address = listed[0]["addresses"]["v4"].as_str().unwrap();
    assert_eq!(result["ips"][0]["address"], format!("{address}/32"));
    assert_eq!(result["interfaces"][0]["name"], listed[0]["hostIfname"]);
    // And both did their work with it.
    let set = show(
        &sandbox,
        &["cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter"],
    );
    assert_eq!(set.trim(), "1");
    let mapped = format!("dnat to {address}:80");
    assert!(rules().contains(&mapped), "{mapped}: {}", rules());
    run("check");
    // CHECK goes through all of them.
    sandbox
        .sysctl(&[("net/ipv4/conf/eth0/arp_filter", "0")])
        .unwrap();
    assert!(!cnitool(node, &folder, "check", &sandbox).status.success());
    run("del");
    assert!(!rules().contains(&mapped), "{}", rules());
    let listed = agents[0]
        .client(&["endpoint", "list", "-o", "json"])
        .unwrap();
    assert_eq!(listed.stdout.trim_ascii(), b"[]");
}
