//! Devices over the ends of containers, kubelets, agents and of the node.

use super::{
    super::{
        members,
        objects::BUSYBOX,
        place::{Cluster, until},
    },
    LIMIT, NODE, SPACE, beside,
    consumer::{self, Consumer, gone, life, log, mark, phase, stays, who},
    install::{COUNT, NULL, names},
    kubelet::{Held, Kubelet, distinct},
    node::{self, Stopped, process, restart_agent, restart_kubelet},
    watch::{Numbers, Watch},
};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{fs, time::Instant};

const ONE: [(&str, usize); 1] = [(NULL, 1)];

/// A pod with a device, and what is known of it.
pub(super) struct Subject<'a> {
    cluster: &'a Cluster,
    kubelet: Kubelet,
    name: &'static str,
    told: String,
    held: Held,
    life: (String, u64),
}

impl<'a> Subject<'a> {
    fn begin(cluster: &'a Cluster, name: &'static str) -> Result<Self> {
        Self::of(cluster, name, stays(name, &ONE).object())
    }

    /// In the node's network: the kubelet starts nothing in one of a pod's own while the node's agent is away.
    pub(super) fn on_host(cluster: &'a Cluster, name: &'static str) -> Result<Self> {
        let mut pod = stays(name, &ONE).object();
        pod["spec"]["hostNetwork"] = true.into();
        Self::of(cluster, name, pod)
    }

    fn of(cluster: &'a Cluster, name: &'static str, pod: Value) -> Result<Self> {
        let kubelet = Kubelet::of(cluster, NODE)?;
        kubelet.has(NULL, COUNT)?;
        cluster.apply(&[pod])?;
        phase(cluster, name, "Running")?;
        let told = log(cluster, name, "consumer")?;
        kubelet.given(NULL, &who(name))?;
        let held = kubelet.held(NULL)?;
        Ok(Self {
            cluster,
            name,
            told,
            held,
            life: life(cluster, name)?,
            kubelet,
        })
    }

    /// Ends its container, and waits until another one is there.
    pub(super) fn restart(&mut self) -> Result<()> {
        let pid = process(&mark(self.name))?
            .context("its process is there")?
            .pid;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
        kill_process(pid, Signal::KILL)?;
        self.life = until(LIMIT, "its container is another one", || {
            let now = life(self.cluster, self.name)?;
            Ok((now.1 > self.life.1 && now.0 != self.life.0).then_some(now))
        })?;
        phase(self.cluster, self.name, "Running").map(|_| ())
    }

    /// Its device is the same for the container, for the kubelet and on the node; its container is the same one.
    pub(super) fn keeps(&self) -> Result<()> {
        self.kubelet.holds(NULL, &self.held)?;
        let told = log(self.cluster, self.name, "consumer")?;
        ensure!(
            told == self.told,
            "it was told {}, and then {told}",
            self.told
        );
        let now = life(self.cluster, self.name)?;
        ensure!(
            now == self.life,
            "its container was {:?}, and is {now:?}",
            self.life
        );
        let process = process(&mark(self.name))?.context("its process has ended")?;
        let path = node::root(self.cluster)?.join(self.told.trim_start_matches('/'));
        let device = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(path)?);
        ensure!(process.device == device, "it has another device open");
        Ok(())
    }

    /// Another pod gets another device.
    fn has_room_beside(&self) -> Result<()> {
        stays("beside", &ONE).run(self.cluster)?;
        self.kubelet.given(NULL, &who("beside"))?;
        let held = self.kubelet.held(NULL)?;
        ensure!(held.len() == 2, "two pods have {held:?}");
        distinct(&held)?;
        let other = log(self.cluster, "beside", "consumer")?;
        ensure!(other != self.told, "both were told {other}");
        gone(self.cluster, "beside")
    }

    /// All devices are the kubelet's to give again, and the Node's object says so.
    fn is_whole(&self) -> Result<()> {
        self.kubelet.has(NULL, COUNT)?;
        let whole = Numbers::new(COUNT as u64, COUNT as u64);
        Watch::begin(self.cluster, NULL)?.until(whole).map(|_| ())
    }
}

pub(super) fn pod(cluster: &Cluster) -> Result<String> {
    let mut subject = Subject::begin(cluster, "pod")?;
    subject.restart()?;
    subject.keeps()?;
    subject.has_room_beside()?;
    Ok(format!("{} before and after", subject.told))
}

pub(super) fn kubelet(cluster: &Cluster) -> Result<String> {
    let subject = Subject::begin(cluster, "kubelet")?;
    restart_kubelet(cluster)?;
    subject.is_whole()?;
    subject.keeps()?;
    subject.has_room_beside()?;
    Ok(format!("{}, the same container", subject.told))
}

pub(super) fn pod_and_kubelet(cluster: &Cluster) -> Result<String> {
    let mut subject = Subject::begin(cluster, "pod-and-kubelet")?;
    subject.restart()?;
    subject.keeps()?;
    restart_kubelet(cluster)?;
    subject.is_whole()?;
    subject.keeps()?;
    Ok(format!("{} before and after", subject.told))
}

pub(super) fn plugin(cluster: &Cluster) -> Result<String> {
    let mut subject = Subject::begin(cluster, "plugin")?;
    restart_agent(cluster)?;
    subject.is_whole()?;
    subject.keeps()?;
    subject.restart()?;
    subject.keeps()?;
    subject.has_room_beside()?;
    Ok(format!("{} before and after", subject.told))
}

pub(super) fn kubelet_and_plugin(cluster: &Cluster) -> Result<String> {
    let subject = Subject::begin(cluster, "kubelet-and-plugin")?;
    restart_kubelet(cluster)?;
    subject.keeps()?;
    restart_agent(cluster)?;
    subject.is_whole()?;
    subject.keeps()?;
    Ok(format!("{}, the same container", subject.told))
}

pub(super) fn orphaned(cluster: &Cluster) -> Result<String> {
    let subject = Subject::begin(cluster, "orphaned")?;
    let stopped = Stopped::begin(cluster)?;
    let words = ["delete", "pod", "orphaned", "-n", SPACE];
    cluster.ask(&[&words[..], &["--force", "--grace-period=0"]].concat())?;
    ensure!(process(&mark("orphaned"))?.is_some(), "nobody ended it yet");
    stopped.end(cluster)?;
    until(LIMIT, "its container is gone", || {
        Ok(process(&mark("orphaned"))?.is_none().then_some(()))
    })?;
    subject.kubelet.holds(NULL, &Held::new())?;
    subject.is_whole()?;
    // All of them can be had.
    let all = [(NULL, COUNT)];
    stays("all", &all).run(cluster)?;
    Ok(format!("{} is free again", subject.told))
}

/// Where the agents' one is made.
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets";

/// The agent of the node goes, and its DaemonSet brings none until this ends.
pub(super) struct Away<'a> {
    cluster: &'a Cluster,
    file: std::path::PathBuf,
}

impl<'a> Away<'a> {
    pub(super) fn begin(cluster: &'a Cluster) -> Result<Self> {
        let place = ["-n", "kube-system"];
        let get = ["get", "daemonset", "fairlead", "-o", "json"];
        let mut set: Value = serde_json::from_str(&cluster.ask(&[&get[..], &place].concat())?)?;
        for of in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            set["metadata"][of].take();
        }
        set["status"].take();
        let file = cluster.dir().join("daemonset.json");
        fs::write(&file, serde_json::to_vec(&set)?)?;
        let away = Self { cluster, file };
        // Those of other nodes stay, and it takes them back.
        let delete = ["delete", "daemonset", "fairlead", "--cascade=orphan"];
        cluster.ask(&[&delete[..], &place].concat())?;
        let on = format!("spec.nodeName={NODE}");
        let label = "app.kubernetes.io/name=fairlead";
        let words = ["delete", "pod", "-l", label, "--field-selector", &on];
        cluster.ask(&[&words[..], &place].concat())?;
        Ok(away)
    }

    pub(super) fn end(self) -> Result<()> {
        let cluster = self.cluster;
        drop(self);
        super::super::parts::rolled_out(cluster, "daemonset/fairlead", LIMIT)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let file = self.file.to_string_lossy();
        // As it was: else kubectl would note down all of it as applied, and the next `apply` would take from it what others
        // set, as the API server's address.
        let words = ["create", "--raw", DAEMON_SETS, "-f", &file];
        if let Err(error) = self.cluster.ask(&words) {
            eprintln!("clean-up: the agents' DaemonSet is not back: {error:#}");
        }
    }
}

pub(super) fn succeeded(cluster: &Cluster) -> Result<String> {
    let done = Consumer {
        script: "echo told $DEVICE".to_owned(),
        ..stays("done", &ONE)
    };
    let mut object = done.object();
    object["spec"]["restartPolicy"] = "Never".into();
    cluster.apply(&[object])?;
    phase(cluster, "done", "Succeeded")?;
    let away = Away::begin(cluster)?;
    let none = Numbers::new(0, COUNT as u64);
    Watch::begin(cluster, NULL)?.until(none)?;
    restart_kubelet(cluster)?;
    // When a later pod runs, the kubelet has looked at all that were there.
    let later = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "later", "namespace": SPACE },
        "spec": { "nodeName": NODE, "hostNetwork": true, "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "busybox", "image": BUSYBOX, "command": ["sleep", "1000000"] }] } });
    cluster.apply(&[later])?;
    phase(cluster, "later", "Running")?;
    let pod = phase(cluster, "done", "Succeeded")?;
    ensure!(pod["status"]["reason"].is_null(), "{}", pod["status"]);
    away.end()?;
    Kubelet::of(cluster, NODE)?.has(NULL, COUNT)?;
    Ok("it stays Succeeded".to_owned())
}

/// How a pod without a controller is after its node has started again.
fn alone(cluster: &Cluster, before: &str) -> Result<String> {
    let pod = until(LIMIT, "the pod that is alone runs or was refused", || {
        let pod = consumer::get(cluster, "alone")?;
        let status = &pod["status"];
        let anew = status["containerStatuses"][0]["containerID"] != before;
        let runs = anew && status["containerStatuses"][0]["ready"] == true;
        Ok((runs || status["phase"] == "Failed").then_some(pod))
    })?;
    let status = &pod["status"];
    match status["phase"].as_str() {
        Some("Running") => Ok("a bare pod runs again".to_owned()),
        _ if status["reason"] == "UnexpectedAdmissionError" => Ok(format!(
            "a bare pod was before the agent, and Kubernetes ends such: {}",
            status["message"]
        )),
        _ => bail!("a bare pod is {status}"),
    }
}

pub(super) fn reboot(cluster: &Cluster) -> Result<String> {
    const REPLICAS: usize = 2;
    let kubelet = Kubelet::of(cluster, NODE)?;
    cluster.apply(&[beside::deployment("several", REPLICAS)])?;
    stays("alone", &ONE).run(cluster)?;
    let (before, _) = life(cluster, "alone")?;
    let available = || {
        until(LIMIT, "the Deployment's pods are available", || {
            let form = "jsonpath={.status.availableReplicas}";
            let words = ["get", "deployment", "several", "-n", SPACE, "-o", form];
            Ok((cluster.ask(&words)? == REPLICAS.to_string()).then_some(()))
        })
    };
    available()?;
    let old: Vec<String> = containers(cluster)?;
    let plan = cluster.plan()?;
    let member = plan.node(NODE).context("the node is there")?;
    let since = Instant::now();
    members::reboot(cluster, &plan, member)?;
    let alone = alone(cluster, &before)?;
    kubelet.has(NULL, COUNT)?;
    let told = since.elapsed().as_secs_f64();
    until(LIMIT, "the Deployment's containers are others", || {
        let now = containers(cluster)?;
        let new = now.iter().filter(|id| !id.is_empty() && !old.contains(id));
        Ok((new.count() >= REPLICAS).then_some(()))
    })?;
    available()?;
    let back = since.elapsed().as_secs_f64();
    let held = kubelet.held(NULL)?;
    distinct(&held)?;
    ensure!(held.len() >= REPLICAS, "after it {held:?} have devices");
    let files: Vec<_> = names("null").collect();
    ensure!(files.len() == COUNT, "{files:?}");
    Ok(format!(
        "all {COUNT} devices known {told:.1} s after the power was back, {REPLICAS} pods of a Deployment with one each \
         after {back:.1} s; {alone}"
    ))
}

/// Of the Deployment's pods.
fn containers(cluster: &Cluster) -> Result<Vec<String>> {
    let form = "jsonpath={range .items[*]}{.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
    let words = ["get", "pods", "-l", "app=several", "-n", SPACE, "-o", form];
    Ok(cluster.ask(&words)?.lines().map(str::to_owned).collect())
}
