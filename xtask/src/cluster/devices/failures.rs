//! Devices that fail and agents that are away: what the Node's object says, and what it keeps.

use super::{
    super::place::{Cluster, until},
    LIMIT, NODE,
    consumer::{self, stays},
    install::{COUNT, NULL, SINGLE, SINGLE_FILE, names},
    kubelet::Kubelet,
    lives::{Away, Subject},
    node,
    watch::{Numbers, Watch},
};
use anyhow::{Result, ensure};

pub(super) fn single(cluster: &Cluster) -> Result<String> {
    let watch = Watch::begin(cluster, SINGLE)?;
    watch.until(Numbers::new(1, 1))?;
    node::unplug(cluster, SINGLE_FILE)?;
    let gone = watch.until(Numbers::new(0, 1))?;
    node::plug(cluster, SINGLE_FILE)?;
    let back = watch.until(Numbers::new(1, 1))?;
    Ok(format!(
        "1/1, 0/1 after {:.1} s, 1/1 after {:.1} s",
        gone.as_secs_f64(),
        back.as_secs_f64()
    ))
}

pub(super) fn single_in_use(cluster: &Cluster) -> Result<String> {
    let asks = [(SINGLE, 1)];
    let watch = Watch::begin(cluster, SINGLE)?;
    watch.until(Numbers::new(1, 1))?;
    stays("single", &asks).run(cluster)?;
    let before = consumer::life(cluster, "single")?;
    ensure!(
        super::watch::now(cluster, SINGLE)? == Numbers::new(1, 1),
        "a pod changes what the node has"
    );
    node::unplug(cluster, SINGLE_FILE)?;
    watch.until(Numbers::new(0, 1))?;
    let after = consumer::life(cluster, "single")?;
    ensure!(before == after, "its container is another one");
    consumer::gone(cluster, "single")?;
    let left = super::watch::now(cluster, SINGLE)?;
    ensure!(left == Numbers::new(0, 1), "without the pod {left:?}");
    node::plug(cluster, SINGLE_FILE)?;
    watch.until(Numbers::new(1, 1))?;
    Ok("0/1 while its pod runs on and when it is gone".to_owned())
}

pub(super) fn several(cluster: &Cluster) -> Result<String> {
    let watch = Watch::begin(cluster, NULL)?;
    let all = COUNT as u64;
    let files: Vec<_> = names("null").collect();
    let mut seen = Vec::new();
    let mut is = |left: u64| -> Result<()> {
        watch.until(Numbers::new(left, all))?;
        seen.push(left);
        Ok(())
    };
    is(all)?;
    node::unplug(cluster, &files[3])?;
    is(all - 1)?;
    node::plug(cluster, &files[3])?;
    is(all)?;
    node::unplug(cluster, &files[1])?;
    node::unplug(cluster, &files[3])?;
    is(all - 2)?;
    node::plug(cluster, &files[3])?;
    is(all - 1)?;
    node::plug(cluster, &files[1])?;
    is(all)?;
    Ok(format!("allocatable {seen:?}, capacity always {all}"))
}

/// `allocatedResourcesStatus` of the pod's container.
pub(super) fn told_in_status(cluster: &Cluster) -> Result<String> {
    let asks = [(SINGLE, 1)];
    Kubelet::of(cluster, NODE)?.has(SINGLE, 1)?;
    stays("health", &asks).run(cluster)?;
    let is = |health: &str| {
        until(LIMIT, &format!("the pod's status says {health}"), || {
            let pod = consumer::get(cluster, "health")?;
            let told = &pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"][0];
            let same = told["name"] == SINGLE && told["resources"][0]["health"] == health;
            Ok(same.then_some(()))
        })
    };
    is("Healthy")?;
    node::unplug(cluster, SINGLE_FILE)?;
    let sick = is("Unhealthy");
    node::plug(cluster, SINGLE_FILE)?;
    sick?;
    is("Healthy")?;
    Ok("Healthy, Unhealthy, Healthy".to_owned())
}

pub(super) fn stopped(cluster: &Cluster) -> Result<String> {
    let watch = Watch::begin(cluster, NULL)?;
    let whole = Numbers::new(COUNT as u64, COUNT as u64);
    watch.until(whole)?;
    let mut subject = Subject::on_host(cluster, "stopped")?;
    let away = Away::begin(cluster)?;
    let gone = watch.until(Numbers::new(0, COUNT as u64))?;
    // What a container has needs no agent, also when it is started anew.
    subject.restart()?;
    subject.keeps()?;
    away.end()?;
    let back = watch.until(whole)?;
    subject.keeps()?;
    Ok(format!(
        "0/{COUNT} {:.1} s after the agent's end, {COUNT}/{COUNT} {:.1} s after the next one was ready; a container that ended \
         meanwhile was started anew with its device",
        gone.as_secs_f64(),
        back.as_secs_f64()
    ))
}
