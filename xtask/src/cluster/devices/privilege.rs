//! KVM, FUSE and TUN in containers that are neither privileged nor root: each is used for what it is there for.

use super::{
    super::{
        images::{self, DEVICES},
        node,
        place::Cluster,
    },
    NODE, SPACE,
    consumer::{self, phase},
    kubelet::Kubelet,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Resources of the presets, the file that each gives, and the word of `xtask device-use`.
const USED: [(&str, &str, &str); 3] = [
    ("devices.kubevirt.io/kvm", "/dev/kvm", "kvm"),
    ("devices.kubevirt.io/tun", "/dev/net/tun", "tun"),
    ("squat.ai/fuse", "/dev/fuse", "fuse"),
];
const USER: u32 = 1000;

pub(super) fn run(cluster: &Cluster) -> Result<Vec<String>> {
    node::give(cluster, &cluster.plan()?, &images::of_devices()?)?;
    let kubelet = Kubelet::of(cluster, NODE)?;
    let mut seen = Vec::new();
    let mut used_any = false;
    for (resource, file, word) in USED {
        let there = super::node::root(cluster)?.join(file.trim_start_matches('/'));
        if !there.exists() {
            seen.push(format!("{word}: not tried, the machine has no {file}"));
            continue;
        }
        ensure!(
            !kubelet.allocatable(resource)?.is_empty(),
            "the node has {file}, and no {resource}"
        );
        // Without the device it is refused: it is the device that lets it.
        let refused = used(cluster, word, None)?;
        ensure!(refused.contains("opening"), "without it: {refused}");
        let said = used(cluster, word, Some(resource))?;
        let by = format!("user {USER} group {USER}: ");
        let what = said.strip_prefix(&by);
        seen.push(format!("{word}: {}", what.context(said.clone())?));
        used_any = true;
    }
    ensure!(used_any, "nothing was tried: {}", seen.join("; "));
    seen.insert(
        0,
        format!(
            "as user {USER}, no capability, no privilege escalation; each is refused to the same container without it"
        ),
    );
    Ok(seen)
}

/// Runs the program in a pod to its end; what it said last.
fn used(cluster: &Cluster, word: &str, resource: Option<&str>) -> Result<String> {
    let name = format!("use-{word}");
    cluster.apply(&[pod(&name, word, resource)])?;
    let wanted = match resource {
        Some(_) => "Succeeded",
        None => "Failed",
    };
    let ended = phase(cluster, &name, wanted);
    let said = cluster
        .ask(&["logs", &name, "-n", SPACE])
        .unwrap_or_default();
    ended.with_context(|| said.clone())?;
    consumer::gone(cluster, &name)?;
    let last = said.lines().last().unwrap_or_default();
    Ok(last.to_owned())
}

fn pod(name: &str, word: &str, resource: Option<&str>) -> Value {
    let limits = resource.map_or_else(|| json!({}), |resource| json!({ resource: "1" }));
    // FUSE and TUN are for who rules a namespace, which a program may make for itself: the usual profile of seccomp
    // forbids that, and pods have it only if they ask for it.
    let seccomp = match word {
        "kvm" => "RuntimeDefault",
        _ => "Unconfined",
    };
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": SPACE },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": NODE },
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                "seccompProfile": { "type": seccomp },
            },
            "containers": [{
                "name": "consumer",
                "image": DEVICES,
                "command": ["xtask", "device-use", word],
                "resources": { "limits": limits },
                "securityContext": {
                    "privileged": false,
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
            }],
        } })
}
