//! Certificates and kubeconfigs of a cluster, by openssl. They live as long as the cluster.

use super::{
    place::Cluster,
    plan::{API_SERVICE, Member},
};
use crate::workspace;
use anyhow::Result;
use serde_json::json;
use std::{fs, path::PathBuf, process::Command};

/// Nothing but what openssl insists on; its default file would add extensions of its own.
const SETTINGS: &str = "[req]\ndistinguished_name = dn\n[dn]\n";

/// Who a certificate is for.
struct Subject {
    file: String,
    user: String,
    group: Option<&'static str>,
    /// `IP:…` and `DNS:…`, for servers.
    names: String,
}

/// Makes the cluster's authority, the key of service accounts and a certificate for each client and
/// server but the nodes, and a kubeconfig for each client.
///
/// # Errors
/// When openssl fails.
pub(super) fn make(cluster: &Cluster) -> Result<()> {
    fs::create_dir_all(folder(cluster))?;
    fs::write(path(cluster, "openssl.cnf"), SETTINGS)?;
    request(
        cluster,
        &["-subj", "/CN=fairlead-cluster"],
        &["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign"],
        "ca",
    )?;
    workspace::output(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-out"])
            .arg(path(cluster, "accounts.key")),
    )?;
    workspace::output(
        Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(path(cluster, "accounts.key"))
            .arg("-out")
            .arg(path(cluster, "accounts.pub")),
    )?;
    let subjects = [
        Subject {
            names: format!(
                "IP:{},IP:127.0.0.1,IP:{API_SERVICE},DNS:kubernetes,DNS:kubernetes.default,\
                 DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local",
                Member::ControlPlane.v4()
            ),
            ..client("apiserver", "kube-apiserver", None)
        },
        client("admin", "admin", Some("system:masters")),
        client("kubelet-client", "kube-apiserver", Some("system:masters")),
        client("front-proxy", "front-proxy", None),
        client("controller-manager", "system:kube-controller-manager", None),
        client("scheduler", "system:kube-scheduler", None),
        client("proxy", "system:kube-proxy", None),
    ];
    for subject in &subjects {
        sign(cluster, subject)?;
    }
    for file in ["admin", "controller-manager", "scheduler", "proxy"] {
        fs::write(
            cluster.dir().join(format!("{file}.json")),
            kubeconfig(cluster, file)?,
        )?;
    }
    Ok(())
}

/// Makes a node's certificate, by which it is client and server.
///
/// # Errors
/// When openssl fails.
pub(super) fn node(cluster: &Cluster, node: Member) -> Result<()> {
    let name = node.name();
    let subject = Subject {
        names: format!("IP:{},DNS:{name}", node.v4()),
        ..client(&name, &format!("system:node:{name}"), Some("system:nodes"))
    };
    sign(cluster, &subject)
}

fn client(file: &str, user: &str, group: Option<&'static str>) -> Subject {
    Subject {
        file: file.to_owned(),
        user: user.to_owned(),
        group,
        names: String::new(),
    }
}

/// A kubeconfig for the client of that certificate.
///
/// # Errors
/// Never but for want of memory.
pub(super) fn kubeconfig(cluster: &Cluster, file: &str) -> Result<Vec<u8>> {
    let server = format!("https://{}:6443", Member::ControlPlane.v4());
    let authority = path(cluster, "ca.crt");
    let (certificate, key) = (
        path(cluster, &format!("{file}.crt")),
        path(cluster, &format!("{file}.key")),
    );
    Ok(serde_json::to_vec_pretty(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "here", "cluster": { "server": server, "certificate-authority": authority } }],
        "users": [{ "name": "me", "user": { "client-certificate": certificate, "client-key": key } }],
        "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "me" } }],
        "current-context": "here",
    }))?)
}

/// Path of a file of the authority.
pub(super) fn path(cluster: &Cluster, file: &str) -> PathBuf {
    folder(cluster).join(file)
}

fn folder(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("pki")
}

fn sign(cluster: &Cluster, subject: &Subject) -> Result<()> {
    let mut name = String::new();
    if let Some(group) = subject.group {
        name += &format!("/O={group}");
    }
    name += &format!("/CN={}", subject.user);
    let alternative = format!("subjectAltName={}", subject.names);
    let mut extensions = vec!["extendedKeyUsage=clientAuth,serverAuth"];
    if !subject.names.is_empty() {
        extensions.push(&alternative);
    }
    let (authority, key) = (path(cluster, "ca.crt"), path(cluster, "ca.key"));
    let signer = [
        "-CA",
        &authority.to_string_lossy(),
        "-CAkey",
        &key.to_string_lossy(),
        "-subj",
        &name,
    ]
    .map(str::to_owned);
    let signer: Vec<_> = signer.iter().map(|word| &**word).collect();
    request(cluster, &signer, &extensions, &subject.file)
}

fn request(cluster: &Cluster, words: &[&str], extensions: &[&str], file: &str) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-noenc", "-days", "3650", "-config"])
        .arg(path(cluster, "openssl.cnf"))
        .args(words);
    for extension in extensions {
        openssl.args(["-addext", extension]);
    }
    openssl
        .arg("-keyout")
        .arg(path(cluster, &format!("{file}.key")))
        .arg("-out")
        .arg(path(cluster, &format!("{file}.crt")));
    workspace::output(&mut openssl).map(|_| ())
}
