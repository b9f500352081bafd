//! What an administrator applies (`deploy/`) is what Kubernetes and the agent understand. Pure, except
//! for the test that asks helm.
#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

mod parts;

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn deploy(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn documents(text: &str) -> Vec<Value> {
    let all = text.split("\n---\n").map(serde_saphyr::from_str::<Value>);
    all.map(Result::unwrap).filter(|v| !v.is_null()).collect()
}

/// The objects of a file by kind.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let named = |object: Value| (object["kind"].as_str().unwrap().to_owned(), object);
    documents(text).into_iter().map(named).collect()
}

/// The object as Kubernetes reads it; a field that it doesn't know would be lost on the way.
fn typed<T: Serialize + DeserializeOwned>(value: &Value) -> T {
    let object: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&object).unwrap(), *value);
    object
}

#[test]
fn kubernetes_knows_each_field_of_the_manifests() {
    let all = objects(&text("fairlead.yaml"));
    let kinds: Vec<_> = all.keys().map(String::as_str).collect();
    let expected = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "ServiceAccount",
    ];
    assert_eq!(kinds, expected);
    typed::<ServiceAccount>(&all["ServiceAccount"]);
    typed::<ClusterRole>(&all["ClusterRole"]);
    typed::<ClusterRoleBinding>(&all["ClusterRoleBinding"]);
    typed::<ConfigMap>(&all["ConfigMap"]);
    typed::<DaemonSet>(&all["DaemonSet"]);
    typed::<DaemonSet>(&objects(&text("uninstall.yaml"))["DaemonSet"]);
}

#[test]
fn the_role_allows_what_the_agent_does_and_nothing_else() {
    let all = objects(&text("fairlead.yaml"));
    let role: ClusterRole = typed(&all["ClusterRole"]);
    let allowed = allowed(role.rules.unwrap());
    let mut expected = BTreeSet::new();
    for verb in ["list", "watch"] {
        for what in [
            "/nodes",
            "/pods",
            "/namespaces",
            "/services",
            "discovery.k8s.io/endpointslices",
            "networking.k8s.io/networkpolicies",
            "policy.networking.k8s.io/clusternetworkpolicies",
            "policy.networking.k8s.io/adminnetworkpolicies",
            "policy.networking.k8s.io/baselineadminnetworkpolicies",
        ] {
            expected.insert(format!("{verb} {what}"));
        }
        for what in [
            "clusternetworkpolicies",
            "adminnetworkpolicies",
            "baselineadminnetworkpolicies",
        ] {
            expected.insert(format!(
                "{verb} apiextensions.k8s.io/customresourcedefinitions/{what}.policy.networking.k8s.io"
            ));
        }
    }
    expected.extend(["patch /nodes", "patch /nodes/status"].map(str::to_owned));
    for verb in ["create", "patch"] {
        expected.insert(format!("{verb} events.k8s.io/events"));
    }
    assert_eq!(allowed, expected);
}

/// Rights that not everybody needs, and Leases where no others are.
#[test]
fn addresses_for_load_balancers_need_rights_of_their_own() {
    let all = objects(&text("load-balancer/rights.yaml"));
    typed::<RoleBinding>(&all["RoleBinding"]);
    typed::<ClusterRoleBinding>(&all["ClusterRoleBinding"]);
    let role: ClusterRole = typed(&all["ClusterRole"]);
    let expected = ["get /services", "patch /services/status"].map(str::to_owned);
    assert_eq!(allowed(role.rules.unwrap()), BTreeSet::from(expected));
    let role: Role = typed(&all["Role"]);
    let namespace = role.metadata.namespace.unwrap();
    assert_eq!(namespace, cni_agent::balancer::NAMESPACE);
    let verbs = ["get", "create", "update", "delete"];
    let expected = verbs.map(|verb| format!("{verb} coordination.k8s.io/leases"));
    assert_eq!(self::allowed(role.rules.unwrap()), BTreeSet::from(expected));
}

fn allowed(rules: Vec<PolicyRule>) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    let right = format!("{verb} {group}/{resource}");
                    match rule.resource_names.as_deref() {
                        None => allowed.extend([right]),
                        Some(names) => {
                            allowed.extend(names.iter().map(|name| format!("{right}/{name}")));
                        }
                    }
                }
            }
        }
    }
    allowed
}

#[test]
fn the_pod_has_few_rights_and_its_files_where_the_plugin_looks() {
    let set: DaemonSet = typed(&objects(&text("fairlead.yaml"))["DaemonSet"]);
    let spec = set.spec.unwrap().template.spec.unwrap();
    assert_eq!(spec.host_network, Some(true));
    assert_eq!(spec.host_pid, None);
    let container = &spec.containers[0];
    let rights = container.security_context.clone().unwrap();
    assert_eq!(rights.privileged, Some(false));
    assert_eq!(rights.read_only_root_filesystem, Some(true));
    let capabilities = rights.capabilities.unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(capabilities.add.unwrap(), ["NET_ADMIN", "SYS_ADMIN"]);
    // The runtime executes the plugin on the node: paths of both must be the same.
    let volumes = spec.volumes.unwrap();
    for folder in ["/run/fairlead", "/var/lib/fairlead", "/sys/fs/bpf"] {
        let mounts = container.volume_mounts.iter().flatten();
        let mount = mounts.clone().find(|mount| mount.mount_path == folder);
        let volume = volumes.iter().find(|v| v.name == mount.unwrap().name);
        assert_eq!(volume.unwrap().host_path.as_ref().unwrap().path, folder);
    }
    // A container has a control group of its own at the usual place.
    let mut volumes = volumes.iter();
    let cgroup = volumes.find(|volume| volume.name == "cgroup").unwrap();
    assert_eq!(cgroup.host_path.as_ref().unwrap().path, "/sys/fs/cgroup");
    let environment = container.env.iter().flatten();
    let told = environment.filter(|v| v.name == "FAIRLEAD_CGROUP");
    let mounts = container.volume_mounts.iter().flatten();
    let mounted = mounts.filter(|mount| mount.name == "cgroup");
    assert_eq!(
        told.map(|v| v.value.as_deref()).collect::<Vec<_>>(),
        mounted
            .map(|mount| Some(mount.mount_path.as_str()))
            .collect::<Vec<_>>()
    );
}

#[test]
fn manifests_and_chart_are_of_this_version() {
    let image = format!("ghcr.io/fairlead/fairlead:{VERSION}");
    for file in [
        "fairlead.yaml",
        "uninstall.yaml",
        "devices/example/daemonset.yaml",
    ] {
        let set = &objects(&text(file))["DaemonSet"];
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], image.as_str(), "{file}");
    }
    let chart = &documents(&text("helm/fairlead/Chart.yaml"))[0];
    assert_eq!(chart["version"], VERSION);
    assert_eq!(chart["appVersion"], VERSION);
}

/// Without helm: the chart's values are those of the manifest.
#[test]
fn the_charts_values_are_those_of_the_manifest() {
    let values = &documents(&text("helm/fairlead/values.yaml"))[0];
    let all = objects(&text("fairlead.yaml"));
    let set = &all["DaemonSet"]["spec"];
    let pod = &set["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(values["options"], all["ConfigMap"]["data"]);
    assert_eq!(values["resources"], container["resources"]);
    assert_eq!(values["nodeSelector"], pod["nodeSelector"]);
    assert_eq!(values["tolerations"], pod["tolerations"]);
    assert_eq!(
        values["maxUnavailable"],
        set["updateStrategy"]["rollingUpdate"]["maxUnavailable"]
    );
    assert_eq!(values["image"]["pullPolicy"], container["imagePullPolicy"]);
    let name = format!(
        "{}:{VERSION}",
        values["image"]["repository"].as_str().unwrap()
    );
    assert_eq!(container["image"], name.as_str());
    let path = |i: usize| &pod["volumes"][i]["hostPath"]["path"];
    assert_eq!(
        [&values["cni"]["binDir"], &values["cni"]["confDir"]],
        [path(0), path(1)]
    );
}

/// Without helm: apart from values, each line of the manifest is in the chart's templates.
#[test]
fn the_templates_say_what_the_manifest_says() {
    let lines = |text: String| -> BTreeSet<String> {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('#') && line != "---")
            .collect()
    };
    let files = ["configmap", "daemonset", "rbac", "serviceaccount"];
    let templates: BTreeSet<String> = files
        .iter()
        .flat_map(|file| lines(text(&format!("helm/fairlead/templates/{file}.yaml"))))
        .collect();
    let manifest = lines(text("fairlead.yaml"));
    let missing: Vec<_> = manifest.difference(&templates).collect();
    let from_values = [
        "- operator: Exists",
        "FAIRLEAD_LOG_LEVEL: info",
        "FAIRLEAD_SERVICES: pods",
        "cpu: 20m",
        &format!("image: ghcr.io/fairlead/fairlead:{VERSION}"),
        "imagePullPolicy: IfNotPresent",
        "kubernetes.io/os: linux",
        "maxUnavailable: 1",
        "memory: 48Mi",
        "namespace: kube-system",
        "path: /etc/cni/net.d",
        "path: /opt/cni/bin",
        "requests:",
    ];
    assert_eq!(missing, from_values);
    let of_parts = ["storage", "devices", "devices/dra"]
        .map(|part| lines(text(&format!("{part}/agent.yaml"))));
    let of_parts: BTreeSet<String> = of_parts.into_iter().flatten().collect();
    let configuration = lines(text("devices/configuration.yaml"));
    let known: BTreeSet<String> = manifest.union(&of_parts).cloned().collect();
    let known: BTreeSet<String> = known.union(&configuration).cloned().collect();
    let more = templates.difference(&known);
    let more: Vec<_> = more.filter(|line| !line.contains("{{")).collect();
    assert_eq!(more, ["annotations:", "imagePullSecrets:"]);
    let by_values = |line: &&String| {
        let path = line.strip_prefix("path: ");
        let path = path.or_else(|| line.strip_prefix("mountPath: "));
        path.is_some_and(|path| path.starts_with("/var/lib/kubelet/"))
    };
    let missing = of_parts.difference(&templates);
    let missing: Vec<_> = missing.filter(|line| !by_values(line)).collect();
    let from_values = ["namespace: kube-system", "path: /var/lib/fairlead/volumes"];
    assert_eq!(missing, from_values);
    // Below the kubelet's folder, which is a value.
    for line in of_parts.iter().filter(by_values) {
        let line = line.replace("/var/lib/kubelet/", "{{ .Values.kubeletDir }}/");
        assert!(templates.contains(&line), "{line}");
    }
}

#[test]
fn each_option_of_the_manifests_is_one_of_the_agent() {
    use clap::{Args, Command};
    let agent = cni_agent::config::AgentArgs::augment_args(Command::new("agent"));
    let known: BTreeSet<_> = agent
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned))
        .collect();
    let all = objects(&text("fairlead.yaml"));
    let data = all["ConfigMap"]["data"].as_object().unwrap();
    let container = &all["DaemonSet"]["spec"]["template"]["spec"]["containers"][0];
    let set = container["env"].as_array().unwrap().iter();
    let set = set.map(|variable| variable["name"].as_str().unwrap());
    for name in data.keys().map(String::as_str).chain(set) {
        assert!(known.contains(name), "{name} is no option of the agent");
    }
    assert_eq!(container["args"], json!(["agent"]));
}

/// By HTTP they would end an agent whose port another process holds, or that was given another address.
#[test]
fn probes_ask_by_the_agent_s_socket() {
    let all = objects(&text("fairlead.yaml"));
    let container = &all["DaemonSet"]["spec"]["template"]["spec"]["containers"][0];
    for (probe, asked) in [
        ("startupProbe", "--live"),
        ("livenessProbe", "--live"),
        ("readinessProbe", "--ready"),
    ] {
        let probe = &container[probe];
        let command = json!(["fairlead", "health", asked]);
        assert_eq!(probe["exec"]["command"], command);
        assert!(probe["httpGet"].is_null());
        // The usual second is short for a start of a process on a busy node.
        assert!(probe["timeoutSeconds"].as_u64() > Some(1), "{probe}");
    }
    // An agent that is killed for no good reason is an outage for new pods: a minute is waited.
    let live = &container["livenessProbe"];
    let patience = live["periodSeconds"]
        .as_u64()
        .zip(live["failureThreshold"].as_u64());
    assert!(patience.is_some_and(|(period, times)| period * times >= 60));
}
