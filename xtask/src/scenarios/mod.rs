//! The whole path as a runtime uses it: the real plugin, the real agent, real packets between
//! nodes made of network namespaces. Run by `cargo xtask test`, which builds the binaries first.

mod check;
mod icmp_errors;
mod inspection;
mod leaks;
mod mishaps;
mod outside;
mod packets;
mod restarts;
mod single_stack;
mod tracing;
mod wiring;

use crate::{
    lab::{
        Agent, Call, CniError, Families, Lab, LabOptions, NetNs, Node, Plugin, Pod, Session,
        Underlay, probe::ping,
    },
    workspace,
};
use anyhow::Result;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

/// Nodes with a ready agent each, and the plugin of each.
struct Scene {
    lab: Lab,
    agents: Vec<Option<Agent>>,
    plugins: Vec<Plugin>,
    binaries: PathBuf,
    _session: Arc<Session>,
}

impl Scene {
    fn new(nodes: u8, underlay: Underlay) -> Self {
        Self::with_families(nodes, underlay, Families::Both)
    }

    fn with_families(nodes: u8, underlay: Underlay, families: Families) -> Self {
        let session = Session::start().unwrap();
        let lab = Lab::new(
            &session,
            LabOptions {
                name: "s",
                nodes,
                underlay,
            },
        )
        .unwrap();
        lab.set_families(families).unwrap();
        let binaries = workspace::binaries();
        let plugins = lab
            .nodes
            .iter()
            .map(|node| Plugin {
                path: binaries.clone(),
                config: node.cni_config("1.1.0"),
            })
            .collect();
        let mut scene = Self {
            lab,
            agents: Vec::new(),
            plugins,
            binaries,
            _session: session,
        };
        for index in 0..scene.lab.nodes.len() {
            let agent = scene.start_agent(index);
            scene.agents.push(Some(agent));
        }
        scene.wait_for_underlay();
        scene
    }

    /// Until the nodes' own addresses answer each other: what a scenario then sees is ours, not a
    /// router that has only just come up.
    fn wait_for_underlay(&self) {
        for from in &self.lab.nodes {
            self.wait_for_nodes(&from.ns);
        }
    }

    /// Until the nodes' own addresses answer from a namespace.
    fn wait_for_nodes(&self, from: &NetNs) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let others = self
            .lab
            .nodes
            .iter()
            .filter(|to| to.ns.name() != from.name());
        for (to, v6) in others.flat_map(|to| [(to, false), (to, true)]) {
            let target = to.addr(v6);
            while let Err(error) = from.run(|| ping(target, 56)) {
                let late = Instant::now() > deadline;
                assert!(!late, "{} → {target}: {error:#}", from.name());
            }
        }
    }

    fn fairlead(&self) -> PathBuf {
        self.binaries.join("fairlead")
    }

    fn start_agent(&self, index: usize) -> Agent {
        Agent::start(&self.lab, &self.lab.nodes[index], &self.fairlead(), &[]).unwrap()
    }

    /// Starts an agent and does not wait for it.
    fn spawn_agent(&self, index: usize) -> Agent {
        Agent::spawn(&self.lab, &self.lab.nodes[index], &self.fairlead(), &[]).unwrap()
    }

    fn node(&self, index: usize) -> &Node {
        &self.lab.nodes[index]
    }

    fn agent(&self, index: usize) -> &Agent {
        self.agents[index].as_ref().expect("the agent runs")
    }

    fn take_agent(&mut self, index: usize) -> Agent {
        self.agents[index].take().expect("the agent runs")
    }

    fn restart(&mut self, index: usize) {
        self.agents[index] = Some(self.start_agent(index));
    }

    fn pod(&self, index: usize, name: &str) -> Pod {
        Pod::add(self.node(index), &self.plugins[index], name).unwrap()
    }

    /// What a client command answers, as JSON.
    fn ask(&self, index: usize, words: &[&str]) -> Value {
        let output = self
            .agent(index)
            .client(&[words, &["-o", "json"]].concat())
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{words:?}: {e}: {output:?}"))
    }

    /// Where a node's agent pins maps and links.
    fn pins(&self, index: usize) -> PathBuf {
        self.lab.pins(self.node(index))
    }

    /// Rows of a pinned map, by bpftool.
    fn map(&self, index: usize, name: &str) -> Vec<Value> {
        let path = self.pins(index).join("maps").join(name);
        let rows = bpftool(&["map", "dump", "pinned", path.to_str().unwrap()]);
        rows.as_array().unwrap_or_else(|| panic!("{rows}")).clone()
    }

    /// Packets dropped for a reason on a node.
    fn drops(&self, index: usize, reason: &str) -> u64 {
        let rows = self.ask(index, &["drops"]);
        let rows = rows.as_array().unwrap();
        let of_reason = rows.iter().filter(|row| row["reason"] == reason);
        of_reason.map(|row| row["packets"].as_u64().unwrap()).sum()
    }

    /// The node's links with their aliases, as `ip` prints them.
    fn links(&self, index: usize) -> String {
        self.ip(index, &["-o", "link"])
    }

    /// What `ip` prints in a node's namespace.
    fn ip(&self, index: usize, words: &[&str]) -> String {
        let output = Command::new("ip")
            .args(["-n", self.node(index).ns.name()])
            .args(words)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Everything of ours that a node holds: links, addresses, routes, neighbours, map rows, store
    /// rows, pins, spooled files.
    fn holdings(&self, index: usize) -> Vec<String> {
        let node = self.node(index);
        let mut held: Vec<String> = Vec::new();
        for words in [
            &["-o", "link"][..],
            &["-o", "address"],
            &["route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
            &["neigh", "show", "nud", "permanent"],
        ] {
            // Interfaces' numbers and counters differ between pods that come and go; of what is
            // left, everything counts.
            let lines = self.ip(index, words);
            held.extend(
                lines
                    .lines()
                    .filter(|l| !l.contains("lo:"))
                    .map(without_index),
            );
        }
        for map in ["endpoints", "endpoint_addrs", "drops", "nodes"] {
            held.push(format!("{map}: {} rows", self.map(index, map).len()));
        }
        held.push(format!(
            "endpoints: {}",
            self.ask(index, &["endpoint", "list"])
        ));
        let used: Vec<_> = self
            .ask(index, &["ipam"])
            .as_array()
            .unwrap()
            .iter()
            .map(|pool| pool["used"].clone())
            .collect();
        held.push(format!("addresses used: {used:?}"));
        held.extend(names_in(&self.lab.pins(node).join("links")));
        held.extend(names_in(&node.spool()));
        held.sort();
        held
    }
}

/// What bpftool answers, as JSON; `null` where it prints nothing.
fn bpftool(words: &[&str]) -> Value {
    let output = Command::new("bpftool")
        .arg("-j")
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "bpftool {words:?}: {output:?}");
    match output.stdout.as_slice() {
        [] => Value::Null,
        text => serde_json::from_slice(text).unwrap(),
    }
}

/// The code of a plugin's error.
fn code(error: &anyhow::Error) -> u64 {
    let told = error.downcast_ref::<CniError>();
    told.unwrap_or_else(|| panic!("{error:#}")).code
}

/// A line of `ip -o link` without the interface's number, which is never used twice, and the
/// state of queues that comes and goes.
fn without_index(line: &str) -> String {
    // The XDP program has another number after each start of an agent.
    let line = line.split("\\    prog/xdp").next().unwrap_or(line);
    match line.split_once(": ") {
        Some((index, rest)) if index.bytes().all(|b| b.is_ascii_digit()) => rest.to_owned(),
        _ => line.to_owned(),
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// One call of the plugin about an attachment that no [`Pod`] stands for.
fn call(
    node: &Node,
    plugin: &Plugin,
    action: crate::lab::Action,
    id: &str,
    netns: &Path,
) -> Result<Value> {
    let call = Call {
        container_id: id,
        netns,
        ifname: "eth0",
        args: String::new(),
    };
    node.ns.run(|| plugin.call(action, &call, None))
}
