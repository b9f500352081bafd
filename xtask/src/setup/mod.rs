//! `cargo xtask setup`: makes a fresh machine able to build and to test. Every verb calls [`ensure`]
//! for what it needs, so nobody has to run it by hand.
//!
//! A step looks before it acts: when nothing is to do, all of it takes a fraction of a second. What
//! is downloaded goes into one cache folder outside the clone, under a lock, and appears there by a
//! rename; only Debian packages are installed into the system, and only by root.

mod cross;
mod go_programs;
mod go_tools;
mod guest_kernel;
mod programs;
mod rust;
mod rust_src;
mod shim_target;

pub(crate) use guest_kernel::{DEFAULT as DEFAULT_KERNEL, GuestKernel};
pub(crate) use shim_target::shim_target;

use crate::{ebpf_object, lab};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

/// Make this machine able to build and, with --test, to run demo, tests and benchmarks. Other verbs
/// do this by themselves.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what the demo, the tests and the benchmark need.
    #[arg(long)]
    test: bool,
}

/// For what the machine is to be made ready; each group holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Compiling everything.
    Build,
    /// Labs of network namespaces.
    Lab,
    /// The reference plugins, which the bench compares with.
    Bench,
    /// Everything that `cargo xtask test` runs.
    Test,
    /// A Kubernetes of network namespaces.
    Cluster,
}

/// One thing that has to be there.
struct Step {
    group: Group,
    name: &'static str,
    /// Says what is there, `None` when it is not. Has to be quick.
    ready: fn(&Path) -> Result<Option<String>>,
    /// Makes it, or says what a person has to do.
    make: fn(&Path) -> Result<()>,
}

const CHECKERS: Step = Step {
    group: Group::Test,
    name: "checkers",
    ready: rust::checkers,
    make: rust::add_checkers,
};

#[rustfmt::skip] // one step, one line
const EXTRAS: [(Extra, Step); 15] = [
    (Extra::Aarch64, Step { group: Group::Build, name: "aarch64", ready: |_| cross::AARCH64.ready(), make: |_| cross::AARCH64.make() }),
    (Extra::X86, Step { group: Group::Build, name: "x86_64", ready: |_| cross::X86_64.ready(), make: |_| cross::X86_64.make() }),
    (Extra::Dns, Step { group: Group::Cluster, name: "CoreDNS", ready: |cache| go_programs::COREDNS.ready(cache), make: |cache| go_programs::COREDNS.make(cache) }),
    (Extra::KubeProxy, Step { group: Group::Cluster, name: "Kubernetes", ready: |cache| go_programs::KUBERNETES.ready(cache), make: |cache| go_programs::KUBERNETES.make(cache) }),
    (Extra::KubeProxy, Step { group: Group::Cluster, name: "iptables", ready: |_| programs::PROXY.ready(), make: |_| programs::PROXY.make() }),
    (Extra::Iptables, Step { group: Group::Bench, name: "iptables", ready: |_| programs::PROXY.ready(), make: |_| programs::PROXY.make() }),
    (Extra::Multus, Step { group: Group::Cluster, name: "Multus", ready: |cache| go_programs::MULTUS.ready(cache), make: |cache| go_programs::MULTUS.make(cache) }),
    (Extra::EndToEnd, Step { group: Group::Cluster, name: "e2e.test", ready: |cache| go_programs::END_TO_END.ready(cache), make: |cache| go_programs::END_TO_END.make(cache) }),
    (Extra::EndToEnd, Step { group: Group::Cluster, name: "ginkgo", ready: |cache| go_programs::GINKGO.ready(cache), make: |cache| go_programs::GINKGO.make(cache) }),
    (Extra::Guest, Step { group: Group::Lab, name: "guests", ready: |_| programs::GUEST.ready(), make: |_| programs::GUEST.make() }),
    (Extra::FileSystems, Step { group: Group::Build, name: "file systems", ready: |_| programs::FILE_SYSTEMS.ready(), make: |_| programs::FILE_SYSTEMS.make() }),
    (Extra::Sidecars, Step { group: Group::Cluster, name: "CSI provisioner", ready: |cache| go_programs::PROVISIONER.ready(cache), make: |cache| go_programs::PROVISIONER.make(cache) }),
    (Extra::Sidecars, Step { group: Group::Cluster, name: "CSI sidecars", ready: |cache| go_programs::SIDECARS.ready(cache), make: |cache| go_programs::SIDECARS.make(cache) }),
    (Extra::Storage, Step { group: Group::Bench, name: "disk tools", ready: |_| programs::STORAGE.ready(), make: |_| programs::STORAGE.make() }),
    (Extra::NetworkPolicy, Step { group: Group::Cluster, name: "network-policy-api", ready: |cache| go_programs::NETWORK_POLICY.ready(cache), make: |cache| go_programs::NETWORK_POLICY.make(cache) }),
];

/// What only some verbs need, and is not small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// Building for aarch64 on another processor.
    Aarch64,
    /// Building for x86_64 on another processor.
    X86,
    /// CoreDNS.
    Dns,
    /// Multus, the meta plugin.
    Multus,
    /// Kubernetes' end-to-end tests.
    EndToEnd,
    /// Guests: machines within this one.
    Guest,
    /// What volumes are measured with.
    Storage,
    /// The conformance tests of cluster-wide policies.
    NetworkPolicy,
    /// What makes, checks and grows the file systems of volumes.
    FileSystems,
    /// Kubernetes' own helpers of CSI drivers.
    Sidecars,
    /// An API server, and kube-proxy in each of its modes.
    KubeProxy,
    /// iptables without kube-proxy.
    Iptables,
}

#[rustfmt::skip] // one step, one line
const STEPS: [Step; 13] = [
    Step { group: Group::Build, name: "C compiler", ready: rust::cc, make: rust::no_cc },
    Step { group: Group::Build, name: "nightly Rust", ready: rust::nightly, make: rust::add_nightly },
    Step { group: Group::Build, name: "Rust's source", ready: rust_src::ready, make: rust_src::make },
    Step { group: Group::Build, name: "bpf-linker", ready: rust::linker, make: rust::add_linker },
    Step { group: Group::Build, name: "C library", ready: shim_target::ready, make: shim_target::add },
    Step { group: Group::Lab, name: "network tools", ready: |_| programs::LAB.ready(), make: |_| programs::LAB.make() },
    Step { group: Group::Bench, name: "CNI tools", ready: go_tools::ready, make: go_tools::make },
    CHECKERS,
    Step { group: Group::Test, name: "test tools", ready: |_| programs::TEST.ready(), make: |_| programs::TEST.make() },
    Step { group: Group::Test, name: "csi-sanity", ready: |cache| go_programs::CSI.ready(cache), make: |cache| go_programs::CSI.make(cache) },
    Step { group: Group::Cluster, name: "cluster tools", ready: |_| programs::CLUSTER.ready(), make: |_| programs::CLUSTER.make() },
    Step { group: Group::Cluster, name: "containerd 2", ready: |cache| go_programs::CONTAINERD.ready(cache), make: |cache| go_programs::CONTAINERD.make(cache) },
    Step { group: Group::Cluster, name: "Kubernetes", ready: |cache| go_programs::KUBERNETES.ready(cache), make: |cache| go_programs::KUBERNETES.make(cache) },
];

/// Runs every step and says what is there.
///
/// # Errors
/// The first thing that cannot be made, with what to do about it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = if args.test { Group::Test } else { Group::Build };
    let steps = STEPS.iter().filter(|step| step.group <= wanted);
    for (step, found) in make_ready(steps)? {
        println!("{:14} {found}", step.name);
    }
    match wanted {
        Group::Test => println!("ready to build and to test"),
        _ => println!("ready to build; `cargo xtask setup --test` adds what demo and tests need"),
    }
    Ok(())
}

/// Makes the machine ready for a group. Says nothing when it already is. For labs, it looks first at
/// what no set-up can give: rights and the kernel.
///
/// # Errors
/// Everything that the kernel or our rights lack, or the first thing that cannot be made; with what to
/// do about it.
pub(crate) fn ensure(wanted: Group) -> Result<()> {
    if wanted >= Group::Lab {
        lab::ensure_able()?;
    }
    make_ready(STEPS.iter().filter(|step| step.group <= wanted)).map(|_| ())
}

/// Makes ready what the source is checked with.
///
/// # Errors
/// When it cannot be made, with what to do about it.
pub(crate) fn ensure_checkers() -> Result<()> {
    make_ready(std::iter::once(&CHECKERS)).map(|_| ())
}

/// Makes ready what one verb needs beyond its group.
///
/// # Errors
/// When it cannot be made, with what to do about it.
pub(crate) fn ensure_extra(wanted: Extra) -> Result<()> {
    let steps = EXTRAS.iter().filter(|(extra, _)| *extra == wanted);
    make_ready(steps.map(|(_, step)| step)).map(|_| ())
}

/// Makes ready what building for another processor needs, and returns the target and its C compiler.
///
/// # Errors
/// When nothing is known about the processor, or it cannot be made.
pub(crate) fn ensure_cross(arch: &str) -> Result<(String, String)> {
    let (extra, cross) = match arch {
        "aarch64" => (Extra::Aarch64, cross::AARCH64),
        "x86_64" => (Extra::X86, cross::X86_64),
        other => bail!("nothing is known about building for {other}: x86_64 or aarch64"),
    };
    ensure_extra(extra)?;
    Ok((cross.target(), cross.compiler()))
}

/// The folders of the cluster's programs, filled for [`Group::Cluster`]: containerd's, Kubernetes' with
/// etcd and, where built, `e2e.test`, and CoreDNS'.
///
/// # Errors
/// When a list of modules cannot be read or there is no cache folder.
pub(crate) fn cluster_programs() -> Result<[PathBuf; 3]> {
    let cache = cache()?;
    Ok([
        go_programs::CONTAINERD.folder(&cache)?,
        go_programs::KUBERNETES.folder(&cache)?,
        go_programs::COREDNS.folder(&cache)?,
    ])
}

/// The meta plugin, there after [`Extra::Multus`].
///
/// # Errors
/// When the list of modules cannot be read or there is no cache folder.
pub(crate) fn multus() -> Result<PathBuf> {
    Ok(go_programs::MULTUS.folder(&cache()?)?.join("multus"))
}

/// The tests of CSI drivers, there after [`Group::Test`].
///
/// # Errors
/// When the list of modules cannot be read or there is no cache folder.
#[cfg(test)]
pub(crate) fn csi_sanity() -> Result<PathBuf> {
    Ok(go_programs::CSI.folder(&cache()?)?.join("csi-sanity"))
}

/// The kernel of a guest, of a Debian package; got when it isn't there.
///
/// # Errors
/// When it can't be had, with what to do.
pub(crate) fn guest_kernel(package: &str) -> Result<GuestKernel> {
    guest_kernel::guest_kernel(&cache()?, package)
}

/// The folders of Kubernetes' helpers of CSI drivers, filled for [`Extra::Sidecars`].
///
/// # Errors
/// When the list of modules cannot be read or there is no cache folder.
pub(crate) fn sidecars() -> Result<[PathBuf; 2]> {
    let cache = cache()?;
    Ok([
        go_programs::PROVISIONER.folder(&cache)?,
        go_programs::SIDECARS.folder(&cache)?,
    ])
}

/// The module that pins all of them but the provisioner, and the snapshot kinds with them.
pub(crate) fn sidecars_module() -> PathBuf {
    go_programs::SIDECARS.source()
}

/// The conformance tests of cluster-wide policies, there after [`Extra::NetworkPolicy`].
///
/// # Errors
/// When the list of modules cannot be read or there is no cache folder.
pub(crate) fn conformance() -> Result<PathBuf> {
    Ok(go_programs::NETWORK_POLICY
        .folder(&cache()?)?
        .join("conformance.test"))
}

/// The runner of the end-to-end tests, there after [`Extra::EndToEnd`].
///
/// # Errors
/// When a list of modules cannot be read or there is no cache folder.
pub(crate) fn ginkgo() -> Result<PathBuf> {
    Ok(go_programs::GINKGO.folder(&cache()?)?.join("ginkgo"))
}

/// Every step with what is there now.
fn make_ready(steps: impl Iterator<Item = &'static Step>) -> Result<Vec<(&'static Step, String)>> {
    let cache = cache()?;
    let mut lock = None;
    let mut all = Vec::new();
    for step in steps {
        let mut found = (step.ready)(&cache)?;
        if found.is_none() && lock.is_none() {
            lock = Some(take_lock(&cache)?);
            // Another process may have made it while we waited.
            found = (step.ready)(&cache)?;
        }
        let found = match found {
            Some(found) => found,
            None => make(step, &cache)?,
        };
        all.push((step, found));
    }
    Ok(all)
}

fn make(step: &Step, cache: &Path) -> Result<String> {
    let name = step.name;
    eprintln!("setup: {name}: not there yet");
    let start = Instant::now();
    (step.make)(cache).with_context(|| format!("set-up of {name}"))?;
    let found = (step.ready)(cache)?;
    let found = found.with_context(|| format!("{name} was set up and is still not there"))?;
    eprintln!(
        "setup: {name}: {found} ({:.1} s)",
        start.elapsed().as_secs_f64()
    );
    Ok(found)
}

/// The folder of reference plugins and `cnitool`, filled for [`Group::Bench`].
///
/// # Errors
/// When the list of tools cannot be read or there is no cache folder.
pub(crate) fn go_tools() -> Result<PathBuf> {
    go_tools::folder(&cache()?)
}

/// Where everything is kept that outlives the clone.
///
/// # Errors
/// When there is no home folder.
pub(crate) fn cache() -> Result<PathBuf> {
    ebpf_object::cache().map_err(|fault| anyhow!(fault))
}

/// One set-up at a time on a machine; given back when the file is closed, however a process ends.
fn take_lock(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    let file = File::create(cache.join("setup.lock"))?;
    if file.try_lock().is_err() {
        eprintln!("setup: waiting for another set-up on this machine");
        file.lock()?;
    }
    Ok(file)
}

/// A folder that is filled and then appears at once at its place.
struct Staging {
    folder: tempfile::TempDir,
}

impl Staging {
    fn new(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache)?;
        Ok(Self {
            folder: tempfile::Builder::new().prefix(".new-").tempdir_in(cache)?,
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces `place`.
    fn publish(self, from: &Path, place: &Path) -> Result<()> {
        ensure!(
            from.starts_with(self.path()),
            "only a staged folder is published"
        );
        if place.exists() {
            fs::rename(place, self.path().join("replaced"))?;
        }
        fs::rename(from, place).with_context(|| format!("putting {} in place", place.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_holds_the_ones_before_it() {
        assert!(
            Group::Build < Group::Lab && Group::Lab < Group::Bench && Group::Bench < Group::Test
        );
        assert!(
            STEPS.is_sorted_by_key(|step| step.group),
            "told in the order of the groups"
        );
    }

    #[test]
    fn a_staged_folder_replaces_the_old_one_whole() {
        let cache = tempfile::tempdir().unwrap();
        let place = cache.path().join("tool");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("old"), "").unwrap();
        let staging = Staging::new(cache.path()).unwrap();
        let made = staging.path().join("made");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("new"), "").unwrap();
        staging.publish(&made, &place).unwrap();
        let names: Vec<_> = fs::read_dir(&place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["new"]);
        let left: Vec<_> = fs::read_dir(cache.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "the staging folder is gone");
    }
}
