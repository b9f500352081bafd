//! `cluster up`: the order of things. What needs not wait for each other goes side by side.

use super::{
    control_plane, images, node, objects, pki,
    place::{Cluster, until},
    plan::{Cni, Member, Plan},
    underlay,
};
use anyhow::{Context, Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long nodes may take to become ready, and pods of the cluster itself.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Starts a cluster, saying what it does. After an error or a signal nothing is left.
///
/// # Errors
/// When a part does not start; with the end of its log.
pub(super) fn run(cluster: &Cluster, plan: &Plan) -> Result<()> {
    cluster.begin()?;
    let mut listener = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let (signals, doomed) = (listener.handle(), cluster.clone());
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Some(signal) = listener.forever().next() {
                eprintln!("\nstopping: removing the cluster …");
                if let Err(error) = doomed.remove() {
                    eprintln!("clean-up: {error:#}");
                }
                std::process::exit(128 + signal);
            }
        })?;
    let made = Progress::start().make(cluster, plan);
    signals.close();
    if let Err(error) = made {
        if let Err(left) = cluster.remove() {
            eprintln!("clean-up: {left:#}");
        }
        return Err(error.context("starting the cluster"));
    }
    Ok(())
}

/// Says how far it is, with the seconds since the start.
struct Progress(Instant);

impl Progress {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn say(&self, what: &str) {
        eprintln!("{:5.1} s  {what}", self.0.elapsed().as_secs_f64());
    }

    fn make(&self, cluster: &Cluster, plan: &Plan) -> Result<()> {
        // What is missing is told before anything is started.
        let network = match plan.cni {
            Cni::Fairlead => Some(image_of_fairlead()?),
            Cni::Reference | Cni::None => None,
        };
        let archives = images::archives(plan)?;
        self.say("images are packed");
        pki::make(cluster)?;
        underlay::make(cluster)?;
        self.say("underlay and certificates are made");

        for node in plan.nodes() {
            machine(cluster, plan, node)?;
        }
        thread::scope(|scope| {
            let prepared = plan.nodes().map(|node| {
                let archives = &archives;
                scope.spawn(move || prepare(cluster, node, archives))
            });
            let prepared: Vec<_> = prepared.collect();
            let served = control_plane::serve(cluster, plan)
                .and_then(|()| control_plane::manage(cluster, plan));
            if served.is_ok() {
                self.say("the API server is ready");
            }
            for thread in prepared {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            served
        })?;
        self.say("containerd has the images on every node");

        let cidrs = node::pod_cidrs(cluster, plan)?;
        node::routes(cluster, plan, &cidrs)?;
        for (node, cidrs) in &cidrs {
            registered(cluster, plan, *node, cidrs)?;
        }
        self.say("nodes are registered and have podCIDRs");
        if plan.dns {
            cluster.apply(&objects::dns())?;
        }
        if let Some((archive, manifest)) = &network {
            fairlead(cluster, plan, archive, manifest)?;
            self.say("Fairlead's manifest is applied");
        }
        if plan.cni != Cni::None {
            self.wait(cluster, plan)?;
        }
        cluster.set_up(plan)?;
        match plan.cni {
            Cni::None => self.say("up; nodes get ready when you apply a network"),
            _ => self.say("up; try `cargo xtask cluster status` and `… smoke`"),
        }
        Ok(())
    }

    /// Until nodes, service accounts and cluster DNS serve.
    fn wait(&self, cluster: &Cluster, plan: &Plan) -> Result<()> {
        let limit = format!("--timeout={}s", READY_LIMIT.as_secs());
        cluster.ask(&["wait", "--for=condition=Ready", "node", "--all", &limit])?;
        self.say("nodes are ready");
        until(READY_LIMIT, "the default service account is there", || {
            Ok(cluster.ask(&["get", "serviceaccount", "default"]).ok())
        })?;
        if plan.dns {
            let words = [
                "rollout",
                "status",
                "deployment/coredns",
                "-n",
                "kube-system",
            ];
            cluster.ask(&[&words[..], &[&limit]].concat())?;
            self.say("cluster DNS serves");
        }
        Ok(())
    }
}

/// A node's certificate, link and first process.
///
/// # Errors
/// Those of making them.
pub(super) fn machine(cluster: &Cluster, plan: &Plan, node: Member) -> Result<()> {
    pki::node(cluster, node)?;
    underlay::attach(cluster, node)?;
    node::start(cluster, plan, node)
}

/// What a node gets once it is registered and has its podCIDRs.
///
/// # Errors
/// Those of starting and writing it.
pub(super) fn registered(
    cluster: &Cluster,
    plan: &Plan,
    node: Member,
    cidrs: &[String],
) -> Result<()> {
    if plan.kube_proxy {
        node::kube_proxy(cluster, plan, node)?;
    }
    if plan.cni == Cni::Reference {
        node::reference(cluster, node, cidrs)?;
    }
    Ok(())
}

/// What a node gets as soon as its containerd answers.
///
/// # Errors
/// When it does not answer, or refuses an image.
pub(super) fn prepare(cluster: &Cluster, node: Member, archives: &[PathBuf]) -> Result<()> {
    node::wait_runtime(cluster, node)?;
    node::plugins(cluster, node)?;
    for archive in archives {
        node::import(cluster, node, archive)?;
    }
    Ok(())
}

/// Loads this project's image and applies its manifest.
///
/// # Errors
/// When containerd or the API server refuses.
pub(super) fn fairlead(
    cluster: &Cluster,
    plan: &Plan,
    archive: &Path,
    manifest: &Path,
) -> Result<()> {
    node::give(cluster, plan, archive)?;
    cluster.ask(&["apply", "-f", &manifest.to_string_lossy()])?;
    // An agent can't reach the API server by a Service that it is yet to serve.
    let server = format!(
        "FAIRLEAD_API_SERVER=https://{}:6443",
        Member::ControlPlane.v4()
    );
    let words = [
        "set",
        "env",
        "daemonset/fairlead",
        "-n",
        "kube-system",
        &server,
    ];
    // Somebody has to answer the node's own processes and what comes from outside.
    let all = (!plan.kube_proxy).then_some("FAIRLEAD_SERVICES=all");
    let words: Vec<&str> = words.into_iter().chain(all).collect();
    cluster.ask(&words)?;
    Ok(())
}

/// The image's archive, packed now, and the manifest that runs it.
///
/// # Errors
/// When it can't be packed.
pub(super) fn image_of_fairlead() -> Result<(PathBuf, PathBuf)> {
    let manifest = crate::workspace::root().join("deploy/fairlead.yaml");
    if !manifest.is_file() {
        bail!(
            "deploy/fairlead.yaml is not there; take --cni reference, or --cni none and apply what you \
             want"
        );
    }
    crate::verb(&["image"]).context("packing this project's image")?;
    Ok((crate::workspace::binaries().join("image.tar"), manifest))
}
