//! The objects, by their number; each about as large as a busy cluster has it.

use super::Size;
use serde_json::{Value, json};

/// Where Pods and Services are.
pub(crate) const SPACE: &str = "fairlead-populate";
/// Of all objects whose time is of no interest.
const TIME: &str = "2026-01-01T00:00:00Z";
/// Pods that have an address on one Node.
const PODS_OF_A_NODE: u32 = 250;

/// `sim-N`, beside the addresses 172.28.0.0/16 and podCIDRs from 10.128.0.0/24 on.
fn node_name(number: u32) -> String {
    format!("sim-{number}")
}

fn node_address(number: u32) -> String {
    format!("172.28.{}.{}", number / 250, number % 250 + 1)
}

fn pod_prefix(number: u32) -> String {
    format!("10.{}.{}", 128 + number / 256, number % 256)
}

pub(crate) fn pod_name(number: u32) -> String {
    format!("web-{}-7d4b9c6f5d-{number:06}", number % 1000)
}

fn pod_address(number: u32, nodes: u32) -> String {
    let place = number / nodes % PODS_OF_A_NODE;
    format!("{}.{}", pod_prefix(number % nodes), place + 2)
}

pub(crate) fn node(number: u32) -> Value {
    let (name, address) = (node_name(number), node_address(number));
    let cidr = format!("{}.0/24", pod_prefix(number));
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({ "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": TIME, "lastTransitionTime": TIME })
    };
    let images: Vec<_> = (0..50)
        .map(|image| {
            let digest = format!("{:064x}", u64::from(number) << 8 | image);
            let name = format!("registry.example.com/team-{}/service-{image}", image % 7);
            json!({ "names": [format!("{name}@sha256:{digest}"), format!("{name}:v1.{image}.0")],
                "sizeBytes": 50_000_000 + image * 1_000_003 })
        })
        .collect();
    let capacity = json!({ "cpu": "16", "memory": "65808284Ki", "pods": "110",
        "ephemeral-storage": "101430960Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0" });
    json!({
        "metadata": {
            "name": name,
            "labels": {
                "beta.kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": "m6i.4xlarge",
                "topology.kubernetes.io/region": "eu-central-1",
                "topology.kubernetes.io/zone": format!("eu-central-1{}", ["a", "b", "c"][number as usize % 3]),
            },
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "15",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                "csi.volume.kubernetes.io/nodeid": format!("{{\"ebs.csi.aws.com\":\"i-{number:017x}\"}}"),
            },
        },
        "spec": { "podCIDR": cidr, "podCIDRs": [cidr], "providerID": format!("aws:///eu-central-1a/i-{number:017x}") },
        "status": {
            "addresses": [
                { "type": "InternalIP", "address": address },
                { "type": "Hostname", "address": name },
            ],
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("NetworkUnavailable", "False", "FairleadReady", "Fairlead serves this node"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
            "nodeInfo": {
                "machineID": format!("{number:032x}"),
                "systemUUID": format!("ec2{number:05x}-0000-0000-0000-000000000000"),
                "bootID": "0b5a6c1e-2f8d-4c7b-9e63-5d1f0a7c4b92",
                "kernelVersion": "6.12.0", "osImage": "Debian GNU/Linux 13 (trixie)",
                "containerRuntimeVersion": "containerd://2.1.4", "kubeletVersion": "v1.36.3",
                "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
            },
            "images": images,
        },
    })
}

pub(crate) fn pod(number: u32, nodes: u32) -> Value {
    let app = format!("web-{}", number % 1000);
    let environment: Vec<_> = (0..20)
        .map(|n| json!({ "name": format!("SETTING_NUMBER_{n}"), "value": format!("the value of setting {n} of {app}") }))
        .collect();
    json!({
        "metadata": {
            "name": pod_name(number),
            "labels": { "app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "shop",
                "app.kubernetes.io/version": "v1.24.3", "pod-template-hash": "7d4b9c6f5d", "team": "checkout" },
            "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "8080",
                "checksum/config": format!("{number:064x}") },
        },
        "spec": {
            "nodeName": node_name(number % nodes),
            "automountServiceAccountToken": false,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{
                "name": "web",
                "image": format!("registry.example.com/shop/{app}:v1.24.3"),
                "ports": [{ "containerPort": 8080, "name": "http" }, { "containerPort": 9090, "name": "metrics" }],
                "env": environment,
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
                "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 5 },
                "livenessProbe": { "httpGet": { "path": "/healthz", "port": "http" }, "periodSeconds": 10 },
                "volumeMounts": [{ "name": "config", "mountPath": "/etc/web" }, { "name": "cache", "mountPath": "/var/cache/web" }],
            }],
            "volumes": [
                { "name": "config", "configMap": { "name": format!("{app}-config") } },
                { "name": "cache", "emptyDir": { "sizeLimit": "1Gi" } },
            ],
        },
    })
}

pub(crate) fn pod_status(number: u32, nodes: u32) -> Value {
    let address = pod_address(number, nodes);
    let kinds = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    let conditions =
        kinds.map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": TIME }));
    let host = node_address(number % nodes);
    json!({
        "phase": "Running", "startTime": TIME, "qosClass": "Burstable",
        "hostIP": host, "hostIPs": [{ "ip": host }],
        "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": conditions,
        "containerStatuses": [{
            "name": "web", "ready": true, "started": true, "restartCount": 0,
            "image": format!("registry.example.com/shop/web-{}:v1.24.3", number % 1000),
            "imageID": format!("registry.example.com/shop/web@sha256:{number:064x}"),
            "containerID": format!("containerd://{number:064x}"),
            "state": { "running": { "startedAt": TIME } }, "lastState": {},
        }],
    })
}

fn service_name(number: u32) -> String {
    format!("service-{number}")
}

pub(crate) fn service(number: u32) -> Value {
    let app = format!("web-{number}");
    json!({
        "metadata": { "name": service_name(number), "labels": { "app.kubernetes.io/name": app } },
        "spec": { "selector": { "app.kubernetes.io/name": app },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }] },
    })
}

pub(crate) fn slice_name(service: u32) -> String {
    format!("{}-x7k2p", service_name(service))
}

/// All Pods of the Service, as one slice; `turn` is another in each version of it.
pub(crate) fn slice(service: u32, size: Size, turn: u32) -> Value {
    let pods = (service..size.pods).step_by(size.services.max(1) as usize);
    let endpoints: Vec<_> = pods
        .map(|pod| {
            json!({
                "addresses": [pod_address(pod, size.nodes)],
                "conditions": { "ready": pod + 1 != turn, "serving": true, "terminating": false },
                "nodeName": node_name(pod % size.nodes),
                "targetRef": { "kind": "Pod", "namespace": SPACE, "name": pod_name(pod) },
                "zone": format!("eu-central-1{}", ["a", "b", "c"][(pod % size.nodes) as usize % 3]),
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": slice_name(service),
            "labels": { "kubernetes.io/service-name": service_name(service),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}
