//! Programs of the cluster, each built from a Go module of ours that pins it, into a folder of the
//! cache named by what is pinned. A program appears there when it is built: a build that is stopped
//! goes on where it was.

use super::{Staging, go_tools};
use crate::workspace::{self, in_path};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Programs of one of our Go modules.
pub(super) struct Programs {
    /// The module's folder below `xtask`.
    module: &'static str,
    /// Name and package of each.
    programs: &'static [(&'static str, &'static str)],
    /// Go's build tags.
    tags: &'static str,
    /// `go test -c` instead of `go build`.
    test: bool,
}

pub(super) const CONTAINERD: Programs = Programs {
    module: "go-containerd",
    programs: &[
        (
            "containerd",
            "github.com/containerd/containerd/v2/cmd/containerd",
        ),
        (
            "containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        ),
        ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    ],
    tags: "no_btrfs,no_zfs,no_devmapper", // what needs C libraries
    test: false,
};

pub(super) const KUBERNETES: Programs = Programs {
    module: "go-kubernetes",
    programs: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        (
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
    ],
    tags: "",
    test: false,
};

pub(super) const END_TO_END: Programs = Programs {
    module: "go-kubernetes",
    programs: &[("e2e.test", "k8s.io/kubernetes/test/e2e")],
    tags: "",
    test: true,
};

/// Runs `e2e.test` in several processes; of the version that `e2e.test` is built with.
pub(super) const GINKGO: Programs = Programs {
    module: "go-kubernetes",
    programs: &[("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo")],
    tags: "",
    test: false,
};

pub(super) const COREDNS: Programs = Programs {
    module: "go-coredns",
    programs: &[("coredns", "github.com/coredns/coredns")],
    tags: "",
    test: false,
};

/// The meta plugin, which calls other plugins.
pub(super) const MULTUS: Programs = Programs {
    module: "go-multus",
    programs: &[(
        "multus",
        "gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus",
    )],
    tags: "",
    test: false,
};

/// The conformance tests of cluster-wide policies.
pub(super) const NETWORK_POLICY: Programs = Programs {
    module: "go-network-policy",
    programs: &[(
        "conformance.test",
        "sigs.k8s.io/network-policy-api/conformance",
    )],
    tags: "",
    test: true,
};

/// What the specification asks of a CSI driver, as tests.
pub(super) const CSI: Programs = Programs {
    module: "go-csi",
    programs: &[(
        "csi-sanity",
        "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity",
    )],
    tags: "",
    test: false,
};

/// The first of Kubernetes' helpers of CSI drivers: it doesn't build with the others' version of client-go.
pub(super) const PROVISIONER: Programs = Programs {
    module: "go-csi-provisioner",
    programs: &[(
        "csi-provisioner",
        "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
    )],
    tags: "",
    test: false,
};

/// The others, as they are.
pub(super) const SIDECARS: Programs = Programs {
    module: "go-csi-sidecars",
    programs: &[
        (
            "csi-attacher",
            "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher",
        ),
        (
            "csi-resizer",
            "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer",
        ),
        (
            "csi-snapshotter",
            "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
        ),
        (
            "snapshot-controller",
            "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
        ),
    ],
    tags: "",
    test: false,
};

impl Programs {
    /// Where the programs are, built or not.
    pub(super) fn folder(&self, cache: &Path) -> Result<PathBuf> {
        go_tools::pinned(&cache.join(self.module), &self.source())
    }

    pub(super) fn ready(&self, cache: &Path) -> Result<Option<String>> {
        let folder = self.folder(cache)?;
        let mut names = self.programs.iter().map(|(name, _)| *name);
        let there = names.clone().all(|name| folder.join(name).is_file());
        let first = names.next().unwrap_or_default();
        Ok(there.then(|| match self.programs.len() {
            1 => format!("{first}, in the cache"),
            all => format!("{first} and {} more programs, in the cache", all - 1),
        }))
    }

    pub(super) fn make(&self, cache: &Path) -> Result<()> {
        ensure!(
            in_path("go"),
            "Go is not there; install it from https://go.dev/dl (the version that xtask/{}/go.mod \
             names or a later one)",
            self.module
        );
        let folder = self.folder(cache)?;
        fs::create_dir_all(&folder)?;
        let flags = format!("-s -w {}", self.version()?);
        for (name, package) in self.programs {
            let place = folder.join(name);
            if place.is_file() {
                continue;
            }
            eprint!("  go builds {name} (at first up to some minutes) …");
            let start = Instant::now();
            let staging = Staging::new(cache)?;
            let made = staging.path().join(name);
            let mut go = Command::new("go");
            match self.test {
                true => go.args(["test", "-c"]),
                false => go.arg("build"),
            };
            go.args(["-trimpath", "-tags", self.tags, "-ldflags", &flags, "-o"])
                .arg(&made)
                .arg(package)
                .current_dir(self.source())
                // They also run in images without a C library.
                .env("CGO_ENABLED", "0");
            let built = workspace::output(&mut go);
            eprintln!(" {:.1} s", start.elapsed().as_secs_f64());
            built?;
            staging.publish(&made, &place)?;
        }
        Ok(())
    }

    /// What tells Kubernetes' programs their version; others have no such variables, and the linker
    /// passes over them.
    fn version(&self) -> Result<String> {
        let path = self.source().join("go.mod");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(version_flags(&text).unwrap_or_default())
    }

    pub(super) fn source(&self) -> PathBuf {
        workspace::root().join("xtask").join(self.module)
    }
}

/// The linker's flags for the version of Kubernetes that a `go.mod` requires.
fn version_flags(module: &str) -> Option<String> {
    let version = module
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))?;
    let version = version.split(' ').next()?; // without `// indirect`
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    let flags = [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ]
    .map(|package| {
        format!(
            "-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X \
             {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
        )
    });
    Some(flags.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_kubernetes_is_the_one_that_is_pinned() {
        let flags =
            version_flags("require (\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n").unwrap();
        assert!(flags.contains("version.gitVersion=v1.36.3 "), "{flags}");
        assert!(flags.contains("version.gitMinor=36 "), "{flags}");
        assert_eq!(version_flags("require k8s.io/api v0.36.3\n"), None);
    }
}
