//! Configuration files and Kubernetes objects of a cluster.

use super::{
    pki,
    place::Cluster,
    plan::{DNS_SERVICE, Member},
};
use crate::workspace;
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What every pod's namespaces hang on: the name that containerd and the kubelet look for.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
/// What Kubernetes' end-to-end tests call their images, as of the pinned version: nothing is pulled.
pub(super) const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
pub(super) const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
pub(super) const DNS_CLIENT: &str = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0";
/// A node's folder of pods that its kubelet runs without being asked by the API server.
pub(super) const STATIC_PODS: &str = "/etc/kubernetes/manifests";
/// CoreDNS, packed here.
pub(super) const COREDNS: &str = "fairlead.test/coredns:1";

/// containerd's configuration.
///
/// # Errors
/// When there is no runc.
pub(super) fn containerd() -> Result<String> {
    let runc = workspace::find("runc").context("there is no runc: cargo xtask setup --test")?;
    // Not every root may lower its processes' OOM score.
    Ok(format!(
        "version = 3\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
         sandbox = '{PAUSE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\n\
         restrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
         runtime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n\
         BinaryName = '{}'\n\
         SystemdCgroup = false\n",
        runc.display()
    ))
}

/// A kubelet's configuration.
pub(super) fn kubelet(cluster: &Cluster, node: Member) -> Value {
    let file = |name: &str| pki::path(cluster, name);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": file("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": file(&format!("{}.crt", node.name())),
        "tlsPrivateKeyFile": file(&format!("{}.key", node.name())),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "staticPodPath": STATIC_PODS,
        // The machine is not the cluster's alone; images that are here can't be pulled again.
        "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "enforceNodeAllocatable": ["pods"],
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
    })
}

/// The reference plugin's network: a bridge on each node.
pub(super) fn reference(cidrs: &[String]) -> Value {
    let ranges: Vec<_> = cidrs
        .iter()
        .map(|cidr| json!([{ "subnet": cidr }]))
        .collect();
    let default = |cidr: &String| match cidr.contains(':') {
        true => json!({ "dst": "::/0" }),
        false => json!({ "dst": "0.0.0.0/0" }),
    };
    let routes: Vec<_> = cidrs.iter().map(default).collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "reference",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            },
            // Also where iptables is installed: what is left of it is looked for by name.
            { "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } },
        ],
    })
}

/// CoreDNS with what it may read, and its Service.
pub(super) fn dns() -> Vec<Value> {
    let (name, space) = ("coredns", "kube-system");
    let role = "system:coredns";
    let labels = json!({ "k8s-app": "kube-dns" });
    let corefile = ".:53 {\n errors\n health\n ready\n kubernetes cluster.local in-addr.arpa \
                    ip6.arpa {\n  pods insecure\n  ttl 5\n }\n cache 5\n}\n";
    let read = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["list", "watch"] });
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": space } }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": role },
            "rules": [
                read("", &["services", "pods", "namespaces"]),
                read("discovery.k8s.io", &["endpointslices"]),
            ] }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": space }] }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": space },
            "data": { "Corefile": corefile } }),
        json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "namespace": space, "labels": labels },
            "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "serviceAccountName": name,
                    "dnsPolicy": "Default",
                    "tolerations": [{ "key": "node-role.kubernetes.io/control-plane", "operator": "Exists" }],
                    "containers": [{
                        "name": name,
                        "image": COREDNS,
                        "args": ["-conf", "/etc/coredns/Corefile"],
                        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8181 }, "periodSeconds": 1 },
                        "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns" }],
                    }],
                    "volumes": [{ "name": "config", "configMap": { "name": name } }],
                },
            } } }),
        json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "kube-dns", "namespace": space,
                "labels": { "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS" } },
            "spec": { "clusterIP": DNS_SERVICE, "selector": labels, "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ] } }),
    ]
}
