//! Who has which device: as the claims in the API server say it, and as the node has it on its disk.

use super::super::{
    super::place::{Cluster, until},
    LIMIT, SPACE, consumer, node,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

/// Where the agent keeps what it has prepared.
const PREPARED: &str = "var/lib/fairlead/dra-claims.json";
/// Where the container runtime reads what containers get.
const CDI: &str = "run/cdi";

/// A device that a claim was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allocated {
    pub(super) request: String,
    pub(super) device: String,
    pub(super) share: Option<String>,
    /// How many shares of it.
    pub(super) shares: Option<String>,
}

/// A claim as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) devices: Vec<Allocated>,
    /// The pods that may use it.
    pub(super) pods: BTreeSet<String>,
}

/// A claim by its name; none: there is no such one.
pub(super) fn claim(cluster: &Cluster, name: &str) -> Result<Option<Claim>> {
    let words = ["get", "resourceclaim", name, "-n", SPACE, "-o", "json"];
    let text = cluster.ask(&[&words[..], &["--ignore-not-found"]].concat())?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let claim: Value = serde_json::from_str(&text)?;
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let results = list(&claim["status"]["allocation"]["devices"]["results"]);
    let devices = results.iter().map(|result| {
        ensure!(
            result["driver"] == "devices.fairlead.dev" && result["pool"] == super::super::NODE,
            "the claim was given {result}"
        );
        Ok(Allocated {
            request: word(&result["request"]).unwrap_or_default(),
            device: word(&result["device"]).unwrap_or_default(),
            share: word(&result["shareID"]),
            shares: word(&result["consumedCapacity"]["shares"]),
        })
    });
    let pods = list(&claim["status"]["reservedFor"]);
    let pods = pods.iter().filter_map(|pod| word(&pod["name"]));
    Ok(Some(Claim {
        name: name.to_owned(),
        uid: word(&claim["metadata"]["uid"]).context("a uid")?,
        devices: devices.collect::<Result<_>>()?,
        pods: pods.collect(),
    }))
}

/// The one claim of a pod, whatever way it asked.
///
/// # Errors
/// When it has none.
pub(super) fn of_pod(cluster: &Cluster, pod: &str) -> Result<Claim> {
    let object = consumer::get(cluster, pod)?;
    let (spec, status) = (&object["spec"], &object["status"]);
    let ways = [
        &status["resourceClaimStatuses"][0]["resourceClaimName"],
        &status["extendedResourceClaimStatus"]["resourceClaimName"],
        &spec["resourceClaims"][0]["resourceClaimName"],
    ];
    let name = ways.into_iter().find_map(Value::as_str);
    let name = name.with_context(|| format!("pod {pod} has no claim: {status}"))?;
    claim(cluster, name)?.with_context(|| format!("there is no claim {name}"))
}

/// Claims that the node has prepared, by their uids, each with its devices.
pub(super) fn prepared(cluster: &Cluster) -> Result<BTreeMap<String, Vec<String>>> {
    let text = match fs::read(node::root(cluster)?.join(PREPARED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text?,
    };
    let kept: Value = serde_json::from_slice(&text)?;
    let all = kept["claims"].as_object().context("claims are kept")?;
    let devices = |claim: &Value| {
        let given = claim["given"].as_array().into_iter().flatten();
        let names = given.filter_map(|given| given["device"].as_str());
        names.map(str::to_owned).collect()
    };
    let claims = all.iter().map(|(uid, claim)| (uid.clone(), devices(claim)));
    Ok(claims.collect())
}

/// Uids of claims that the container runtime is told of.
pub(super) fn described(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut uids = BTreeSet::new();
    for entry in fs::read_dir(node::root(cluster)?.join(CDI))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let uid = name.strip_prefix("fairlead-claim-");
        uids.extend(
            uid.and_then(|uid| uid.strip_suffix(".json"))
                .map(str::to_owned),
        );
    }
    Ok(uids)
}

/// Waits until the node has prepared these claims, and no others; no device is had by two of them, unless it is shared.
///
/// # Errors
/// When it isn't so in time.
pub(super) fn is_prepared(cluster: &Cluster, claims: &[&Claim]) -> Result<()> {
    let wanted: BTreeMap<String, Vec<String>> = claims
        .iter()
        .map(|claim| {
            let devices = claim.devices.iter().map(|of| of.device.clone());
            (claim.uid.clone(), devices.collect())
        })
        .collect();
    let uids: BTreeSet<String> = wanted.keys().cloned().collect();
    let mut last = None;
    let done = until(LIMIT, "the node has prepared these claims alone", || {
        let now = (prepared(cluster)?, described(cluster)?);
        let same = now.0 == wanted && now.1 == uids;
        last = Some(now);
        Ok(same.then_some(()))
    });
    done.with_context(|| format!("wanted {wanted:?}, got {last:?}"))?;
    let mut seen = BTreeSet::new();
    for of in claims.iter().flat_map(|claim| &claim.devices) {
        ensure!(
            of.share.is_some() || seen.insert(&of.device),
            "{} is had twice: {claims:?}",
            of.device
        );
    }
    Ok(())
}
