//! What makes a cluster have volumes: the parts of `deploy/storage`, images of the helpers, the snapshot kinds.

use super::{
    super::{
        images, node, parts,
        place::{Cluster, until},
    },
    Helpers, LIMIT,
};
use crate::{
    setup::{self, Extra},
    workspace,
};
use anyhow::{Result, ensure};
use std::{path::PathBuf, process::Command};

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
    parts::apply(cluster, "storage", &helpers.parts(), LIMIT)?;
    let sidecars: &[&str] = match helpers {
        Helpers::Sidecars => &[
            "daemonset/fairlead-storage-node",
            "deployment/fairlead-storage-controller",
        ],
        Helpers::Agent => &[],
    };
    let all = ["daemonset/fairlead", "deployment/snapshot-controller"];
    for name in all.iter().chain(sidecars) {
        parts::rolled_out(cluster, name, LIMIT)?;
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
