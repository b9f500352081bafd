//! Claims over the ends of containers, kubelets, agents, pods and the node: what is prepared stays, and is had once.

use super::{
    super::{
        super::{
            members,
            place::{Cluster, until},
            processes,
        },
        LIMIT, NODE, SPACE,
        consumer::{mark, phase},
        lives::Away,
        node::{self, process, restart_agent, restart_kubelet},
    },
    held,
    holder::{self, Holder, event, field},
    objects::{CLASS, From, one, pod, template, with_file},
    slices,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

/// How often an agent is killed as soon as it has prepared a claim.
const TIMES: usize = 5;

/// A pod with any device.
fn any(cluster: &Cluster, name: &str) -> Result<Value> {
    cluster.apply(&[template("any", &[one("device", CLASS)])])?;
    Ok(pod(name, From::Template("any")))
}

/// Another pod gets another device, and both are prepared; then it goes.
fn has_room_beside(cluster: &Cluster, holder: &Holder) -> Result<()> {
    let beside = Holder::run(cluster, &any(cluster, "claim-beside")?)?;
    ensure!(beside.file != holder.file, "both have {}", holder.file);
    held::is_prepared(cluster, &[&holder.claim, &beside.claim])?;
    beside.end(cluster)
}

/// Which slices there are, of all that the API server ever had.
fn uids(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let slices = slices::all(cluster)?;
    let uids = slices
        .iter()
        .filter_map(|slice| slice["metadata"]["uid"].as_str());
    Ok(uids.map(str::to_owned).collect())
}

pub(super) fn container(cluster: &Cluster) -> Result<String> {
    let mut holder = Holder::run(cluster, &any(cluster, "claim-container")?)?;
    holder.restart(cluster)?;
    held::is_prepared(cluster, &[&holder.claim])?;
    Ok(format!("{} before and after", holder.file))
}

pub(super) fn kubelet(cluster: &Cluster) -> Result<String> {
    let mut holder = Holder::run(cluster, &any(cluster, "claim-kubelet")?)?;
    let before = uids(cluster)?;
    restart_kubelet(cluster)?;
    until(
        LIMIT,
        "the kubelet has deleted the slices of before",
        || Ok(uids(cluster)?.is_disjoint(&before).then_some(())),
    )?;
    let begin = Instant::now();
    slices::are_whole(cluster)?;
    let back = begin.elapsed().as_millis();
    holder.keeps(cluster)?;
    has_room_beside(cluster, &holder)?;
    holder.restart(cluster)?;
    Ok(format!(
        "the same container with {}; the slices that the kubelet deletes at its start are back {back} ms after that was seen",
        holder.file
    ))
}

pub(super) fn agent(cluster: &Cluster) -> Result<String> {
    let mut holder = Holder::run(cluster, &any(cluster, "claim-agent")?)?;
    let before = uids(cluster)?;
    restart_agent(cluster)?;
    holder.keeps(cluster)?;
    has_room_beside(cluster, &holder)?;
    holder.restart(cluster)?;
    ensure!(uids(cluster)? == before, "the slices are others");
    Ok(format!(
        "the same container with {}, the same slices",
        holder.file
    ))
}

pub(super) fn both(cluster: &Cluster) -> Result<String> {
    let mut holder = Holder::run(cluster, &any(cluster, "claim-both")?)?;
    restart_agent(cluster)?;
    restart_kubelet(cluster)?;
    restart_agent(cluster)?;
    slices::are_whole(cluster)?;
    holder.keeps(cluster)?;
    has_room_beside(cluster, &holder)?;
    holder.restart(cluster)?;
    Ok(format!("the same container with {}", holder.file))
}

/// The agent is away for so long that the kubelet deletes its slices.
pub(super) fn away(cluster: &Cluster) -> Result<String> {
    // In the node's network, which is not ready meanwhile for pods with one of their own.
    let on_host = |mut pod: Value| {
        pod["spec"]["hostNetwork"] = true.into();
        pod["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
        pod
    };
    let mut holder = Holder::run(cluster, &on_host(any(cluster, "claim-away")?))?;
    let away = Away::begin(cluster)?;
    let begin = Instant::now();
    holder.restart(cluster)?;
    until(LIMIT, "the kubelet has deleted the slices", || {
        Ok(uids(cluster)?.is_empty().then_some(()))
    })?;
    let gone = begin.elapsed().as_secs();
    cluster.apply(&[on_host(any(cluster, "claim-later")?)])?;
    holder::has_no_place(cluster, "claim-later")?;
    away.end()?;
    slices::are_whole(cluster)?;
    let later = Holder::running(cluster, "claim-later")?;
    holder.keeps(cluster)?;
    held::is_prepared(cluster, &[&holder.claim, &later.claim])?;
    Ok(format!(
        "slices deleted after {gone} s; a container that ended meanwhile was started anew with its device; a pod that was made \
         meanwhile runs when the agent is back"
    ))
}

/// The agent ends as soon as a claim is prepared, before the pod's container has started.
pub(super) fn between(cluster: &Cluster) -> Result<String> {
    let mut early = 0;
    for _ in 0..TIMES {
        let before = node::born(cluster, node::AGENT)?;
        cluster.apply(&[any(cluster, "claim-between")?])?;
        let end = Instant::now() + LIMIT;
        // Not `until`: what is to be met is over soon.
        while held::prepared(cluster)?.is_empty() {
            ensure!(Instant::now() < end, "nothing is prepared in {LIMIT:?}");
            thread::sleep(Duration::from_millis(2));
        }
        processes::kill(cluster, NODE, "fairlead")?;
        early += usize::from(process(&mark("claim-between"))?.is_none());
        node::anew(cluster, node::AGENT, before)?;
        let holder = Holder::running(cluster, "claim-between")?;
        held::is_prepared(cluster, &[&holder.claim])?;
        holder.end(cluster)?;
    }
    ensure!(
        early > 0,
        "each of {TIMES} times its container was there already"
    );
    Ok(format!(
        "{TIMES} times, {early} of them before the container was there: the pod runs with one device, prepared once"
    ))
}

/// A claim is prepared for a pod that never starts; the agent ends, and the pod is deleted by force.
pub(super) fn never_started(cluster: &Cluster) -> Result<String> {
    let file = super::super::install::names("claimed").next();
    let file = file.context("a device")?;
    cluster.apply(&[template("first", &[with_file("device", &file)])])?;
    let mut never = pod("claim-never", From::Template("first"));
    let container = &mut never["spec"]["containers"][0];
    container["image"] = "fairlead.test/there-is-none:1".into();
    container["imagePullPolicy"] = "Never".into();
    cluster.apply(&[never])?;
    until(LIMIT, "its claim is prepared", || {
        Ok((!held::prepared(cluster)?.is_empty()).then_some(()))
    })?;
    let claim = held::of_pod(cluster, "claim-never")?;
    restart_agent(cluster)?;
    held::is_prepared(cluster, &[&claim])?;
    delete_by_force(cluster, "claim-never")?;
    let next = Holder::run(cluster, &pod("claim-next", From::Template("first")))?;
    held::is_prepared(cluster, &[&next.claim])?;
    Ok(format!("{file} is taken back, and the next pod has it"))
}

fn delete_by_force(cluster: &Cluster, pod: &str) -> Result<()> {
    let words = ["delete", "pod", pod, "-n", SPACE, "--force"];
    cluster
        .ask(&[&words[..], &["--grace-period=0"]].concat())
        .map(|_| ())
}

/// A pod that is deleted by force loses its device.
pub(super) fn by_force(cluster: &Cluster) -> Result<String> {
    let holder = Holder::run(cluster, &any(cluster, "claim-force")?)?;
    delete_by_force(cluster, "claim-force")?;
    held::is_prepared(cluster, &[])?;
    ensure!(!holder.is_there()?, "its container is still there");
    Ok(format!("{} is taken back", holder.file))
}

/// A pod was deleted by force, and its container does not end: who is given its device meanwhile waits.
pub(super) fn held_by_the_dead(cluster: &Cluster) -> Result<String> {
    let file = super::super::install::names("claimed").nth(1);
    let file = file.context("a second device")?;
    cluster.apply(&[template("second", &[with_file("device", &file)])])?;
    let mut stays = pod("claim-dead", From::Template("second"));
    stays["spec"]["terminationGracePeriodSeconds"] = LIMIT.as_secs().into();
    let script = &mut stays["spec"]["containers"][0]["command"][2];
    *script = format!("trap '' TERM; {}", script.as_str().context("a script")?).into();
    let dead = Holder::run(cluster, &stays)?;
    delete_by_force(cluster, "claim-dead")?;
    cluster.apply(&[pod("claim-heir", From::Template("second"))])?;
    let why = event(cluster, "claim-heir", "is still held for claim")?;
    ensure!(dead.is_there()?, "the first one has ended already");
    held::is_prepared(cluster, &[&dead.claim])?;
    ensure!(
        field(cluster, "claim-heir", ".status.phase")? == "Pending",
        "the second one runs beside it"
    );
    dead.kill()?;
    let heir = Holder::running(cluster, "claim-heir")?;
    ensure!(
        !dead.is_there()? && heir.file == file,
        "{heir:?} beside {dead:?}"
    );
    held::is_prepared(cluster, &[&heir.claim])?;
    let why = why.find("device ").map_or(&*why, |at| &why[at..]);
    Ok(format!(
        "\"{}\"; it runs with {file} when that has ended",
        why.trim()
    ))
}

/// The node's power goes and comes back.
pub(super) fn reboot(cluster: &Cluster) -> Result<String> {
    let holder = Holder::run(cluster, &any(cluster, "claim-reboot")?)?;
    let plan = cluster.plan()?;
    let member = plan.node(NODE).context("the node is there")?;
    members::reboot(cluster, &plan, member)?;
    until(LIMIT, "its container is another one", || {
        let now = super::super::consumer::life(cluster, "claim-reboot")?;
        Ok(holder.is_another(&now).then_some(()))
    })?;
    phase(cluster, "claim-reboot", "Running")?;
    let now = Holder::running(cluster, "claim-reboot")?;
    ensure!(
        now.file == holder.file && now.claim.uid == holder.claim.uid,
        "it was {holder:?}, and is {now:?}"
    );
    slices::are_whole(cluster)?;
    has_room_beside(cluster, &now)?;
    Ok(format!("another container with {}", now.file))
}
