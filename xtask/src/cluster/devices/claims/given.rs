//! What containers get by claims: the device that was asked for, and no other.

use super::{
    super::{
        super::{place::Cluster, pods},
        SPACE,
        consumer::{self, gone, phase, stays},
        install::{SHARED_FILE, SHARES, TOLD, names},
    },
    held,
    holder::{self, Holder, files, has_no_place},
    objects::{self, CLASS, From, claim, container, one, pod, template, with_file},
    slices,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeSet;

/// A pod with a claim of its own, made for it, gets the one device that its expression is true for.
pub(super) fn inline(cluster: &Cluster) -> Result<String> {
    let file = names("claimed").nth(2).context("a third device")?;
    let template = template("third", &[with_file("device", &file)]);
    cluster.apply(&[template])?;
    let holder = Holder::run(cluster, &pod("claim-inline", From::Template("third")))?;
    ensure!(
        holder.file == file,
        "it asked for {file}, and has {}",
        holder.file
    );
    let slices = slices::are_whole(cluster)?;
    let device = &holder.claim.devices[0].device;
    ensure!(
        slices.get(device).is_some_and(|of| of.path == file),
        "{device} is not {file}: {slices:?}"
    );
    held::is_prepared(cluster, &[&holder.claim])?;
    // The next one that asks for it waits.
    cluster.apply(&[pod("claim-late", From::Template("third"))])?;
    let why = has_no_place(cluster, "claim-late")?;
    holder.end(cluster)?;
    let late = Holder::running(cluster, "claim-late")?;
    ensure!(late.file == file, "the next one has {}", late.file);
    Ok(format!(
        "{file} is {device} in claim {}, is open in the container, and {TOLD} says it; a second pod that asks for it waits \
         ({why}) and has it when the first is gone",
        holder.claim.name
    ))
}

/// Containers of several pods with one claim have its device; it is taken back with the last pod.
pub(super) fn shared_claim(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[claim("common", &[one("device", CLASS)])])?;
    let first = Holder::run(cluster, &pod("claim-first", From::Claim("common")))?;
    let mut object = pod("claim-second", From::Claim("common"));
    let second = container("claim-second", "second", None);
    object["spec"]["containers"]
        .as_array_mut()
        .context("containers")?
        .push(second);
    let second = Holder::run(cluster, &object)?;
    ensure!(
        first.file == second.file && first.claim.uid == second.claim.uid,
        "one has {first:?}, the other {second:?}"
    );
    let beside = files(cluster, "claim-second", "second")?;
    ensure!(
        beside == [&*first.file],
        "its second container has {beside:?}"
    );
    let claim = held::of_pod(cluster, "claim-first")?;
    held::is_prepared(cluster, &[&claim])?;
    gone(cluster, "claim-first")?;
    second.keeps(cluster)?;
    second.end(cluster)?;
    Ok(format!(
        "{} in three containers of two pods by claim common; it stays while one of them runs",
        first.file
    ))
}

/// Each container has the device of the request that it names, and an init container hands it on.
pub(super) fn by_request(cluster: &Cluster) -> Result<String> {
    let wanted: Vec<_> = names("claimed").take(2).collect();
    let requests = [
        with_file("left", &wanted[0]),
        with_file("right", &wanted[1]),
    ];
    cluster.apply(&[template("two", &requests)])?;
    let mut object = pod("claim-two", From::Template("two"));
    object["spec"]["containers"] = json!([
        container("claim-two", "left", Some("left")),
        container("claim-two", "right", Some("right")),
        container("claim-two", "both", None),
    ]);
    let mut before = container("claim-two", "before", Some("left"));
    before["command"] = json!(["sh", "-c", format!("echo told ${TOLD}")]);
    object["spec"]["initContainers"] = json!([before]);
    cluster.apply(&[object])?;
    phase(cluster, "claim-two", "Running")?;
    let has = |name: &str| files(cluster, "claim-two", name);
    let (left, right, both) = (has("left")?, has("right")?, has("both")?);
    ensure!(
        left == wanted[..1] && right == wanted[1..] && both == wanted,
        "left has {left:?}, right {right:?}, both {both:?}"
    );
    let init = consumer::log(cluster, "claim-two", "before")?;
    ensure!(init == wanted[0], "the init container had {init}");
    held::is_prepared(cluster, &[&held::of_pod(cluster, "claim-two")?])?;
    Ok(format!(
        "left and its init container {left:?}, right {right:?}, both {both:?}"
    ))
}

/// A claim is prepared that no container uses.
pub(super) fn unused(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[template("any", &[one("device", CLASS)])])?;
    let mut object = pod("claim-unused", From::Template("any"));
    object["spec"]["containers"] = json!([stays("claim-unused", &[]).container("consumer")]);
    object["spec"]["containers"][0]["command"] = json!(["sleep", "1000000"]);
    cluster.apply(&[object])?;
    phase(cluster, "claim-unused", "Running")?;
    held::is_prepared(cluster, &[&held::of_pod(cluster, "claim-unused")?])?;
    let has = files(cluster, "claim-unused", "consumer")?;
    ensure!(has.is_empty(), "its container has {has:?}");
    Ok("prepared, and the container has no device".to_owned())
}

/// Claims of their own for one device: each takes a share of it, and who wants more takes more.
pub(super) fn capacity(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[
        template("share", &[one("device", objects::SHARES)]),
        template("two-shares", &[objects::shares("device", 2)]),
    ])?;
    let big = Holder::run(cluster, &pod("claim-big", From::Template("two-shares")))?;
    let small = Holder::run(cluster, &pod("claim-small", From::Template("share")))?;
    let (one, other) = (&big.claim.devices[0], &small.claim.devices[0]);
    ensure!(
        big.file == SHARED_FILE && small.file == SHARED_FILE && one.device == other.device,
        "they have {big:?} and {small:?}"
    );
    ensure!(
        one.share.is_some() && other.share.is_some() && one.share != other.share,
        "their shares are {one:?} and {other:?}"
    );
    let taken = [one, other].map(|of| of.shares.as_deref().unwrap_or_default());
    ensure!(taken == ["2", "1"], "they took {taken:?} shares");
    held::is_prepared(cluster, &[&big.claim, &small.claim])?;
    cluster.apply(&[pod("claim-full", From::Template("share"))])?;
    let why = has_no_place(cluster, "claim-full")?;
    small.end(cluster)?;
    let next = Holder::running(cluster, "claim-full")?;
    big.keeps(cluster)?;
    held::is_prepared(cluster, &[&big.claim, &next.claim])?;
    Ok(format!(
        "{SHARED_FILE} has {SHARES} shares: 2 and 1 of them are taken by two claims, a third waits ({why}) until one is free"
    ))
}

/// Who looks after devices has one beside who uses it.
pub(super) fn admin(cluster: &Cluster) -> Result<String> {
    let label = "resource.kubernetes.io/admin-access=true";
    cluster.ask(&["label", "namespace", SPACE, label, "--overwrite"])?;
    let file = names("claimed").next().context("a device")?;
    cluster.apply(&[template("own", &[with_file("device", &file)])])?;
    let user = Holder::run(cluster, &pod("claim-user", From::Template("own")))?;
    let mut look = with_file("device", &file);
    look["exactly"]["adminAccess"] = true.into();
    cluster.apply(&[template("look", &[look])])?;
    let admin = Holder::run(cluster, &pod("claim-admin", From::Template("look")))?;
    ensure!(
        admin.file == user.file,
        "one has {user:?}, the other {admin:?}"
    );
    admin.end(cluster)?;
    user.keeps(cluster)?;
    held::is_prepared(cluster, &[&user.claim])?;
    Ok(format!(
        "{file} in both pods, and in its own one after the other is gone"
    ))
}

/// A pod that is done gives its device back, and a claim that was made for it goes.
pub(super) fn done(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[
        claim("stays", &[one("device", CLASS)]),
        template("goes", &[one("device", CLASS)]),
    ])?;
    let mut files = BTreeSet::new();
    for (name, from) in [
        ("claim-done-stays", From::Claim("stays")),
        ("claim-done-goes", From::Template("goes")),
    ] {
        cluster.apply(&[objects::ends(name, from)])?;
        phase(cluster, name, "Succeeded")?;
        files.insert(consumer::log(cluster, name, "consumer")?);
    }
    held::is_prepared(cluster, &[])?;
    holder::until_claims_are(cluster, &["stays"])?;
    let left = held::claim(cluster, "stays")?.context("it stays")?;
    ensure!(
        left.devices.is_empty() && left.pods.is_empty(),
        "of nobody: {left:?}"
    );
    let still = pods::field(cluster, SPACE, "claim-done-stays", ".status.phase")?;
    Ok(format!(
        "{files:?} were used; the pods stay {still}, nothing is prepared; the claim made for one is deleted, the other is no one's"
    ))
}
