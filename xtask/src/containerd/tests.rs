//! The runtime itself tested with a reference plugin: what fails elsewhere is then ours.

use super::*;
use crate::{lab::Session, setup};
use serde_json::json;

fn bridge() -> Value {
    let ipam = json!({ "type": "host-local", "subnet": "100.11.9.0/24" });
    json!({
        "cniVersion": "1.0.0",
        "name": "reference",
        "plugins": [{ "type": "bridge", "bridge": "br0", "isGateway": true, "ipam": ipam }],
    })
}

fn start(netns: &NetNs, network: &Value) -> Result<Containerd> {
    let tools = setup::go_tools()?;
    let dir = netns.session().dir().to_owned();
    Containerd::start(
        netns,
        &Setting {
            dir: &dir,
            plugins: &[&tools],
            network,
        },
    )
}

/// The container's IPv4 address, as it sees it itself.
fn address(container: &Container) -> String {
    let output = container
        .exec(&["ip", "-4", "-o", "address", "show", "eth0"])
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let address = text
        .split_whitespace()
        .skip_while(|word| *word != "inet")
        .nth(1);
    address
        .unwrap_or_else(|| panic!("no address: {text}"))
        .split('/')
        .next()
        .unwrap()
        .to_owned()
}

fn leases(containerd: &Containerd) -> Vec<String> {
    let folder = containerd.node.path("/var/lib/cni/networks/reference");
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|n| n.starts_with("100."))
        .collect()
}

#[test]
#[ignore = "needs root, containerd and runc"]
fn containers_of_a_bridge_talk_and_their_end_executes_del() {
    let session = Session::start().unwrap();
    let netns = NetNs::new(&session, "rt").unwrap();
    let containerd = start(&netns, &bridge()).unwrap();
    let first = containerd.run("c1", &["sleep", "1000"]).unwrap();
    let second = containerd.run("c2", &["sleep", "1000"]).unwrap();
    let target = address(&second);
    assert_ne!(address(&first), target);
    let ping = first
        .exec(&["ping", "-c", "2", "-W", "5", &target])
        .unwrap();
    assert!(ping.status.success(), "{ping:?}");
    assert!(first.netns().exists());
    assert_eq!(leases(&containerd).len(), 2);
    second.stop().unwrap();
    assert_eq!(
        leases(&containerd),
        [address(&first)],
        "only DEL gives an address back"
    );
    first.stop().unwrap();
    assert_eq!(leases(&containerd), [""; 0]);
}

#[test]
#[ignore = "needs root, containerd and runc"]
fn an_error_of_the_plugin_is_told() {
    let session = Session::start().unwrap();
    let netns = NetNs::new(&session, "rt").unwrap();
    let mut network = bridge();
    network["plugins"][0]["ipam"]["type"] = "no-such-plugin".into();
    let containerd = start(&netns, &network).unwrap();
    let Err(error) = containerd.run("c1", &["sleep", "1000"]) else {
        panic!("it runs")
    };
    let text = format!("{error:#}");
    assert!(
        text.contains("failed to find plugin \"no-such-plugin\""),
        "{text}"
    );
}

#[test]
#[ignore = "needs root, containerd and runc"]
fn a_run_that_is_interrupted_leaves_nothing() {
    let session = Session::start().unwrap();
    let netns = NetNs::new(&session, "rt").unwrap();
    let name = netns.name().to_owned();
    let containerd = start(&netns, &bridge()).unwrap();
    let container = containerd.run("c1", &["sleep", "1000"]).unwrap();
    let sandbox = container.netns();
    let groups = || {
        let hierarchies = fs::read_dir(CGROUPS)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let all = hierarchies.chain([PathBuf::from(CGROUPS)]);
        all.filter(|path| path.join(cgroup(&name)).exists()).count()
    };
    assert!(groups() > 0 && sandbox.exists());
    // What a signal does; the container is not stopped.
    let start = Instant::now();
    let errors = session.undo().undo_all();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "nothing had to be waited for"
    );
    assert_eq!(groups(), 0);
    assert!(!sandbox.exists());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&name), "the node's mounts are its own");
}
