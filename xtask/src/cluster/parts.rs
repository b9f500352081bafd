//! Parts of `deploy` that are added to the Fairlead of the cluster that is up, as kustomize takes them.

use super::place::{Cluster, until};
use crate::workspace;
use anyhow::{Context, Result};
use serde_json::json;
use std::{
    fs,
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// Applies `deploy` with these parts and no others; `name` is what is remembered of it in the cluster's folder.
///
/// # Errors
/// When it is refused until the limit is over: kinds are served a moment after they are there.
pub(super) fn apply(cluster: &Cluster, name: &str, parts: &[&str], limit: Duration) -> Result<()> {
    let folder = kustomization(cluster, name, parts)?;
    let folder = folder.to_string_lossy();
    let mut last = Ok(String::new());
    let applied = until(limit, "the manifests are taken", || {
        last = cluster.ask(&["apply", "-k", &folder]);
        Ok(last.is_ok().then_some(()))
    });
    last.and(applied)
}

/// Waits until what runs is what was applied, of `daemonset/fairlead` for example.
///
/// # Errors
/// When it isn't in time.
pub(super) fn rolled_out(cluster: &Cluster, name: &str, limit: Duration) -> Result<()> {
    let limit = format!("--timeout={}s", limit.as_secs());
    cluster
        .ask(&["rollout", "status", name, "-n", "kube-system", &limit])
        .map(|_| ())
        .with_context(|| format!("{name} does not start"))
}

/// Writes what is applied: `deploy` with parts added.
fn kustomization(cluster: &Cluster, name: &str, parts: &[&str]) -> Result<PathBuf> {
    let folder = cluster.dir().join(name);
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    let deploy = fs::canonicalize(workspace::root().join("deploy"))?;
    let way = way(&folder, &deploy);
    let parts: Vec<_> = parts.iter().map(|part| way.join(part)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_goes_up_to_the_root_and_down_again() {
        let way = way(Path::new("/a/b"), Path::new("/c/deploy"));
        assert_eq!(way, Path::new("../../c/deploy"));
    }
}
