//! etcd, API server, controller manager and scheduler, in the control plane's network namespace.

use super::{
    pki,
    place::{Cluster, kubernetes, until},
    plan::{Member, Plan},
};
use anyhow::{Result, bail};
use std::{path::Path, process::Command, time::Duration};

/// How long the API server may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Starts etcd and the API server and returns when it is ready.
///
/// # Errors
/// When one of them does not start; with the end of its log.
pub(super) fn serve(cluster: &Cluster, plan: &Plan) -> Result<()> {
    let mut etcd = program(cluster, "etcd")?;
    etcd.arg("--data-dir")
        .arg(cluster.dir().join("etcd"))
        .args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync", // the data go with the cluster
            "--log-level=warn",
        ]);
    cluster.daemon("etcd", &mut etcd)?;

    let mut server = program(cluster, "kube-apiserver")?;
    server.args([
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        // The API server reaches webhooks by their pods' addresses.
        "--enable-aggregator-routing=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
    ]);
    server.arg(format!("--advertise-address={}", Member::ControlPlane.v4()));
    server.arg(format!("--service-cluster-ip-range={}", plan.services()));
    for (flag, file) in [
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("service-account-key-file", "accounts.pub"),
        ("service-account-signing-key-file", "accounts.key"),
        ("kubelet-certificate-authority", "ca.crt"),
        ("kubelet-client-certificate", "kubelet-client.crt"),
        ("kubelet-client-key", "kubelet-client.key"),
        ("requestheader-client-ca-file", "ca.crt"),
        ("proxy-client-cert-file", "front-proxy.crt"),
        ("proxy-client-key-file", "front-proxy.key"),
    ] {
        server.arg(flag_of(flag, &pki::path(cluster, file)));
    }
    let pid = cluster.daemon("kube-apiserver", &mut server)?;
    until(START_LIMIT, "the API server is ready", || {
        if ended(pid) {
            bail!("{}", cluster.log_end("kube-apiserver"));
        }
        Ok(cluster.ask(&["get", "--raw", "/readyz"]).ok())
    })
    .map(|_| ())
}

/// Starts what works on the objects.
///
/// # Errors
/// When a program cannot be started.
pub(super) fn manage(cluster: &Cluster, plan: &Plan) -> Result<()> {
    let mut manager = program(cluster, "kube-controller-manager")?;
    as_client(cluster, &mut manager, "controller-manager");
    manager.args([
        "--allocate-node-cidrs=true",
        "--use-service-account-credentials=true",
        "--controllers=*,bootstrapsigner,tokencleaner",
    ]);
    match plan.ipv6 {
        true => manager.args([
            "--node-cidr-mask-size-ipv4=24",
            "--node-cidr-mask-size-ipv6=64",
        ]),
        false => manager.arg("--node-cidr-mask-size=24"),
    };
    manager.arg(format!("--cluster-cidr={}", plan.pods()));
    manager.arg(format!("--service-cluster-ip-range={}", plan.services()));
    for (flag, file) in [
        ("root-ca-file", "ca.crt"),
        ("service-account-private-key-file", "accounts.key"),
        ("cluster-signing-cert-file", "ca.crt"),
        ("cluster-signing-key-file", "ca.key"),
    ] {
        manager.arg(flag_of(flag, &pki::path(cluster, file)));
    }
    cluster.daemon("kube-controller-manager", &mut manager)?;

    let mut scheduler = program(cluster, "kube-scheduler")?;
    as_client(cluster, &mut scheduler, "scheduler");
    cluster.daemon("kube-scheduler", &mut scheduler)?;
    Ok(())
}

/// As another user, who may read root's files: a user has few inotify instances (usually 128), and root's
/// are for the nodes.
fn program(cluster: &Cluster, name: &str) -> Result<Command> {
    let mut command = cluster.inside(Member::ControlPlane, "setpriv");
    command
        .args(["--reuid=65534", "--inh-caps=+dac_override"])
        .args(["--ambient-caps=+dac_override", "--"])
        .arg(kubernetes(name)?);
    Ok(command)
}

fn as_client(cluster: &Cluster, command: &mut Command, file: &str) {
    let file = cluster.dir().join(format!("{file}.json"));
    for flag in [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ] {
        command.arg(flag_of(flag, &file));
    }
    command.arg("--leader-elect=false");
}

fn flag_of(flag: &str, path: &Path) -> String {
    format!("--{flag}={}", path.display())
}

/// Whether a child of this command has ended; it stays as a zombie, since nobody waits for it.
pub(super) fn ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
