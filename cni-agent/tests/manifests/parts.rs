//! Parts that are added to the agent's DaemonSet (`deploy/storage`, `deploy/devices`), and the example of a device plugin.

use super::{documents, objects, text, typed};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Container, Pod, PodSpec},
};
use serde_json::{Value, json};
use std::path::Path;

const PARTS: [&str; 2] = ["storage", "devices"];

/// What a part adds to the agent's pod; the rest of it is the base's.
fn added(part: &str) -> PodSpec {
    let patch = &objects(&text(&format!("{part}/agent.yaml")))["DaemonSet"];
    let mut whole = patch.clone();
    whole["spec"]["selector"] = json!({});
    let set: DaemonSet = typed(&whole);
    set.spec.unwrap().template.spec.unwrap()
}

fn agent(of: &PodSpec) -> &Container {
    let [container] = of.containers.as_slice() else {
        panic!("one container");
    };
    assert_eq!(container.name, "agent");
    container
}

/// Volumes are told apart by their names, mounts by their places: what two parts call the same has to be the same.
#[test]
fn parts_go_together_in_any_order() {
    let base: DaemonSet = typed(&objects(&text("fairlead.yaml"))["DaemonSet"]);
    let base = base.spec.unwrap().template.spec.unwrap();
    let all = [
        base,
        added("storage"),
        added("devices"),
        added("devices/dra"),
    ];
    let volumes: Vec<_> = all
        .iter()
        .flat_map(|of| of.volumes.iter().flatten())
        .collect();
    for one in &volumes {
        let others = volumes.iter().filter(|other| other.name == one.name);
        for other in others {
            assert_eq!(other, one);
        }
    }
    let mounts: Vec<_> = all
        .iter()
        .flat_map(|of| agent(of).volume_mounts.iter().flatten())
        .collect();
    for one in &mounts {
        for other in &mounts {
            let below = Path::new(&other.mount_path).starts_with(&one.mount_path);
            if other.mount_path == one.mount_path {
                assert_eq!(other, one);
            } else if below && one.mount_propagation.as_deref() == Some("Bidirectional") {
                panic!(
                    "what is mounted at {} below {} stays on the node when the agent is gone",
                    other.mount_path, one.mount_path
                );
            }
        }
        assert!(volumes.iter().any(|volume| volume.name == one.name));
    }
}

/// What a part's kustomization changes besides.
fn patches(part: &str) -> Vec<Value> {
    let kustomization = &documents(&text(&format!("{part}/kustomization.yaml")))[0];
    assert_eq!(kustomization["kind"], "Component");
    let patches = kustomization["patches"].as_array().unwrap().iter();
    let texts = patches.filter_map(|patch| patch["patch"].as_str());
    let operations = texts.map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    operations
        .flat_map(|list| list.as_array().unwrap().clone())
        .collect()
}

#[test]
fn each_part_adds_itself_to_the_parts_that_run() {
    use clap::{Args, Command, FromArgMatches};
    let added = PARTS.map(|part| {
        let operations = patches(part);
        let [operation] = operations.as_slice() else {
            panic!("{part}: {operations:?}");
        };
        assert_eq!(operation["op"], "add");
        let path = "/spec/template/spec/containers/0/args/-";
        assert_eq!(operation["path"], path);
        operation["value"].as_str().unwrap().to_owned()
    });
    let base = &objects(&text("fairlead.yaml"))["DaemonSet"];
    let args = &base["spec"]["template"]["spec"]["containers"][0]["args"];
    assert_eq!(*args, json!(["agent"]));
    let parts = |arguments: &[&str]| {
        let line = ["agent", "--node-name", "n1"].iter().chain(arguments);
        let agent = cni_agent::config::AgentArgs::augment_args(Command::new("agent"));
        let args = agent.get_matches_from(line);
        let args = cni_agent::config::AgentArgs::from_arg_matches(&args).unwrap();
        let config = cni_agent::config::Config::new(args, "/s".into()).unwrap();
        let names = config.parts.iter().map(|part| part.as_str());
        names.collect::<Vec<_>>()
    };
    let [storage, devices] = added.each_ref().map(String::as_str);
    assert_eq!(parts(&[]), ["network"]);
    assert_eq!(parts(&[storage]), ["network", "csi"]);
    assert_eq!(parts(&[devices]), ["network", "devices"]);
    for both in [[storage, devices], [devices, storage]] {
        assert_eq!(parts(&both), ["network", "csi", "devices"]);
    }
}

/// What a file says, but for where the chart is installed.
#[test]
fn the_chart_has_the_rights_and_the_policy_of_claims_of_devices() {
    let chart = text("helm/fairlead/templates/devices-dra.yaml");
    let chart = chart.replace("{{ .Release.Namespace }}", "kube-system");
    let inner: Vec<&str> = chart.lines().filter(|line| !line.contains("{{")).collect();
    let files = ["rights", "policy"].map(|file| text(&format!("devices/dra/{file}.yaml")));
    let [rights, policy] = files.each_ref().map(String::as_str);
    let all: Vec<&str> = rights
        .lines()
        .chain(["---"])
        .chain(policy.lines())
        .collect();
    assert_eq!(inner, all);
}

/// Devices alone need no right that the network doesn't need.
#[test]
fn devices_add_no_rights_but_by_a_part_of_their_own() {
    assert_eq!(agent(&added("devices")).security_context, None);
    let operations = patches("devices/privileged");
    let paths: Vec<_> = operations.iter().map(|of| &of["path"]).collect();
    let context = "/spec/template/spec/containers/0/securityContext";
    let more = ["privileged", "allowPrivilegeEscalation"].map(|of| format!("{context}/{of}"));
    assert_eq!(paths, more.each_ref());
}

#[test]
fn the_configuration_of_devices_that_is_installed_is_whole_and_empty() {
    use cni_agent::device::config::{Text, parse};
    let map: ConfigMap = typed(&objects(&text("devices/configuration.yaml"))["ConfigMap"]);
    let files = map.data.unwrap().into_iter();
    let files: Vec<_> = files.map(|(name, text)| Text { name, text }).collect();
    assert!(parse(&files, &[]).unwrap().resources.is_empty());
    let values = &documents(&text("helm/fairlead/values.yaml"))[0];
    let devices = &values["devices"];
    let told: Value = serde_saphyr::from_str(&files[0].text).unwrap();
    assert_eq!(devices["configuration"], told);
    assert_eq!(devices["enabled"], false);
    // Where the ConfigMap is mounted is where the agent looks.
    let of = added("devices");
    let mounts = agent(&of).volume_mounts.iter().flatten();
    let mut configuration = mounts.filter(|mount| mount.name == "devices-configuration");
    use clap::{Args, Command};
    let agent = cni_agent::config::AgentArgs::augment_args(Command::new("agent"));
    let mut arguments = agent.get_arguments();
    let option = arguments.find(|argument| argument.get_id() == "devices");
    let [place] = option.unwrap().get_default_values() else {
        panic!("one place");
    };
    let mount = configuration.next().unwrap();
    assert_eq!(place.to_str().unwrap(), mount.mount_path);
}

/// The specification's walk, by these files alone.
#[test]
fn the_example_is_a_device_plugin_of_its_own_and_a_pod_that_asks() {
    use clap::{Args, Command, FromArgMatches};
    let set: DaemonSet = typed(&objects(&text("devices/example/daemonset.yaml"))["DaemonSet"]);
    let name = (
        set.metadata.name.as_deref(),
        set.metadata.namespace.as_deref(),
    );
    assert_eq!(name, (Some("device-plugin-example"), Some("kube-system")));
    let spec = set.spec.unwrap().template.spec.unwrap();
    let container = agent(&spec);
    let rights = container.security_context.clone().unwrap();
    assert_eq!(rights.privileged, Some(false));
    assert_eq!(rights.capabilities.unwrap().add, None);
    let line = container.args.clone().unwrap();
    let agent = cni_agent::config::AgentArgs::augment_args(Command::new("agent"));
    let own = |argument: &&String| !argument.starts_with("--socket=");
    let line = line.iter().filter(own).map(String::as_str);
    let args = agent.get_matches_from(line.chain(["--node-name", "n1"]));
    let args = cni_agent::config::AgentArgs::from_arg_matches(&args).unwrap();
    let config = cni_agent::config::Config::new(args, "/s".into()).unwrap();
    let plan = cni_agent::device::config::parse(&[], &config.device.presets).unwrap();
    let (resource, rule) = plan.resources.first_key_value().unwrap();
    assert!(
        rule.give
            .environment
            .contains_key("K8S_DEVICE_PLUGIN_EXAMPLE")
    );

    let pod: Pod = typed(&objects(&text("devices/example/consumer.yaml"))["Pod"]);
    assert_eq!(pod.metadata.name.as_deref(), Some("device-plugin-consumer"));
    let container = &pod.spec.unwrap().containers[0];
    let limits = container.resources.clone().unwrap().limits.unwrap();
    let asked: Vec<_> = limits
        .iter()
        .map(|(name, of)| (name.as_str(), of.0.as_str()))
        .collect();
    assert_eq!(asked, [(resource.as_str(), "1")]);
}
