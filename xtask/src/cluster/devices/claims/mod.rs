//! Devices for claims (Dynamic Resource Allocation) with the real kubelet, scheduler and API server. What Kubernetes' own tests
//! ask for (test/e2e/dra, whose driver is a part of them) has their names, with our driver in place of theirs.

mod extended;
mod given;
mod gone;
mod held;
mod holder;
mod lives;
mod objects;
mod slices;

use super::{
    super::place::Cluster,
    LIMIT, SPACE, consumer,
    install::{SHARED_FILE, names},
    node::{self, Configured},
    scenarios::{self, Scenario},
};
use anyhow::{Context, Result};
use serde_json::Value;

const SCENARIOS: [Scenario; 27] = [
    (
        "registers plugin: slices say what the configuration finds",
        slices::say_what_there_is,
    ),
    (
        "must manage ResourceSlices: what somebody changes or deletes is mended",
        slices::are_mended,
    ),
    (
        "must apply per-node permission checks",
        slices::are_of_the_node_alone,
    ),
    (
        "supports simple pod referencing inline resource claim, chosen by an attribute",
        given::inline,
    ),
    (
        "supports external claim referenced by multiple containers of multiple pods",
        given::shared_claim,
    ),
    (
        "must map configs and devices to the right containers; supports init containers",
        given::by_request,
    ),
    (
        "must call NodePrepareResources even if not used by any container",
        given::unused,
    ),
    (
        "must allow multiple allocations and consume capacity",
        given::capacity,
    ),
    ("admin access beside who uses it", given::admin),
    (
        "removes reservation from claim when pod is done; deletes generated claims when pod is done",
        given::done,
    ),
    (
        "must run a pod with explicit extended resource with one container one resource; must accurately populate \
         ExtendedResourceClaimStatus",
        extended::explicit,
    ),
    (
        "must run a pod with implicit extended resource with one container one resource",
        extended::implicit,
    ),
    (
        "must run a pod with explicit extended resource with three containers; must prevent overcommitment of extended resources",
        extended::several,
    ),
    (
        "must cleanup extended resource claims when pods complete",
        extended::done,
    ),
    ("keeps a claim over its container's end", lives::container),
    (
        "keeps a claim over the kubelet's end, which deletes the slices",
        lives::kubelet,
    ),
    ("keeps a claim over the agent's end", lives::agent),
    ("keeps a claim over the ends of both", lives::both),
    (
        "runs pod after driver starts; an agent that is away for long",
        lives::away,
    ),
    (
        "agent killed between the claim's preparation and the container's start",
        lives::between,
    ),
    (
        "agent killed while a pod can't start, which is deleted by force then",
        lives::never_started,
    ),
    (
        "must unprepare resources for force-deleted pod",
        lives::by_force,
    ),
    ("blocks new pod after force-delete", lives::held_by_the_dead),
    ("NoSchedule keeps pod pending", gone::not_scheduled),
    (
        "NoSchedule can be tolerated; must retry NodePrepareResources",
        gone::tolerated,
    ),
    (
        "should report device health with custom messages",
        gone::told_in_status,
    ),
    ("keeps a claim over the node's end", lives::reboot),
];

/// All of them, or those with these words in their name.
pub(super) fn run(cluster: &Cluster, words: Option<&str>) -> Result<Vec<String>> {
    let _classes = Classes::begin(cluster)?;
    let quick = Configured::quick(cluster)?;
    slices::are_whole(cluster)?;
    let seen = scenarios::run(cluster, &SCENARIOS, words, clear)?;
    quick.end(cluster)?;
    Ok(seen)
}

/// The node's slices of our driver.
pub(super) fn slices(cluster: &Cluster) -> Result<Vec<Value>> {
    slices::all(cluster)
}

/// No pod and no claim is there, nothing is prepared, and each device is free and well.
fn clear(cluster: &Cluster) -> Result<()> {
    for file in names("claimed").chain([SHARED_FILE.to_owned()]) {
        node::plug(cluster, &file)?;
    }
    consumer::none(cluster)?;
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let kinds = "resourceclaimtemplate,resourceclaim";
    cluster.ask(&["delete", kinds, "--all", "-n", SPACE, &limit])?;
    held::is_prepared(cluster, &[]).context("without pods")?;
    slices::are_whole(cluster).map(|_| ())
}

/// The classes are the whole cluster's, and go with the step.
struct Classes<'a>(&'a Cluster);

impl<'a> Classes<'a> {
    fn begin(cluster: &'a Cluster) -> Result<Self> {
        let classes = Self(cluster);
        cluster.apply(&objects::classes())?;
        Ok(classes)
    }
}

impl Drop for Classes<'_> {
    fn drop(&mut self) {
        let names = [objects::CLASS, objects::SHARES];
        let words = ["delete", "deviceclass", "--ignore-not-found"];
        if let Err(error) = self.0.ask(&[&words[..], &names].concat()) {
            eprintln!("clean-up: classes of devices stay: {error:#}");
        }
    }
}
