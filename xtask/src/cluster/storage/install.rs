//! What makes a cluster have volumes: the parts of `deploy/storage`, images of the helpers, the snapshot kinds.

use super::{
    super::{
        images, node,
        place::{Cluster, until},
    },
    Helpers, LIMIT,
};
use crate::{
    setup::{self, Extra},
    workspace,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

/// The module that has the snapshot kinds.
const KINDS: &str = "github.com/kubernetes-csi/external-snapshotter/client/v8";

impl Helpers {
    /// Parts of `deploy`.
    fn parts(self) -> Vec<&'static str> {
        let all = [
            "storage",
            "storage/snapshots",
            "storage/snapshot-controller",
            "storage/example-names",
        ];
        let own: &[_] = match self {
            Self::Sidecars => &["storage/sidecars", "storage/attach-required"],
            Self::Agent => &["storage/claims"],
        };
        all.into_iter().chain(own.iter().copied()).collect()
    }
}

/// Installs it and waits until each node's driver is known.
///
/// # Errors
/// When something can't be built, is refused, or doesn't start in time.
pub(super) fn run(cluster: &Cluster, helpers: Helpers) -> Result<()> {
    setup::ensure_extra(Extra::Sidecars)?;
    let plan = cluster.plan()?;
    for archive in images::of_sidecars()? {
        node::give(cluster, &plan, &archive)?;
    }
    let kinds = sources()?.join("config/crd");
    let kinds = kinds.to_string_lossy();
    cluster.ask(&["apply", "--server-side", "-k", &kinds])?;
    // Whether volumes are attached can't be changed.
    cluster.ask(&[
        "delete",
        "csidriver",
        "csi.fairlead.dev",
        "--ignore-not-found",
    ])?;
    let folder = kustomization(cluster, helpers)?;
    // The kinds are served a moment after they are there.
    let folder = folder.to_string_lossy();
    let mut last = Ok(String::new());
    let applied = until(LIMIT, "the manifests are taken", || {
        last = cluster.ask(&["apply", "-k", &folder]);
        Ok(last.is_ok().then_some(()))
    });
    last.and(applied)?;
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let sidecars: &[&str] = match helpers {
        Helpers::Sidecars => &[
            "daemonset/fairlead-storage-node",
            "deployment/fairlead-storage-controller",
        ],
        Helpers::Agent => &[],
    };
    let all = ["daemonset/fairlead", "deployment/snapshot-controller"];
    for name in all.iter().chain(sidecars) {
        cluster
            .ask(&["rollout", "status", name, "-n", "kube-system", &limit])
            .with_context(|| format!("{name} does not start"))?;
    }
    for member in cluster.plan()?.nodes() {
        let name = member.name();
        until(
            LIMIT,
            &format!("the kubelet of {name} knows the driver"),
            || {
                let form = "jsonpath={.spec.drivers[*].name}";
                let known = cluster.ask(&["get", "csinode", &name, "-o", form])?;
                Ok(known
                    .split(' ')
                    .any(|name| name == "csi.fairlead.dev")
                    .then_some(()))
            },
        )?;
    }
    println!("installed: {}", helpers.parts().join(", "));
    Ok(())
}

/// Writes what is applied: `deploy` with parts added.
fn kustomization(cluster: &Cluster, helpers: Helpers) -> Result<PathBuf> {
    let folder = cluster.dir().join("storage");
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    let deploy = fs::canonicalize(workspace::root().join("deploy"))?;
    let way = way(&folder, &deploy);
    let parts: Vec<_> = helpers.parts().iter().map(|part| way.join(part)).collect();
    let all = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [way], "components": parts,
    });
    fs::write(
        folder.join("kustomization.yaml"),
        serde_json::to_vec_pretty(&all)?,
    )?;
    Ok(folder)
}

/// The relative way from a folder to another one: kustomize takes no other.
fn way(from: &Path, to: &Path) -> PathBuf {
    let up = from
        .components()
        .filter(|part| matches!(part, Component::Normal(_)));
    let up: PathBuf = up.map(|_| Component::ParentDir).collect();
    up.join(to.strip_prefix("/").unwrap_or(to))
}

/// Where Go keeps the module of the snapshot kinds.
fn sources() -> Result<PathBuf> {
    let module = setup::sidecars_module();
    let go =
        |words: &[&str]| workspace::output(Command::new("go").args(words).current_dir(&module));
    go(&["mod", "download", KINDS])?;
    let folder: PathBuf = go(&["list", "-m", "-f", "{{.Dir}}", KINDS])?.trim().into();
    ensure!(folder.is_dir(), "Go doesn't say where {KINDS} is");
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_goes_up_to_the_root_and_down_again() {
        let way = way(Path::new("/a/b"), Path::new("/c/deploy"));
        assert_eq!(way, Path::new("../../c/deploy"));
    }
}
