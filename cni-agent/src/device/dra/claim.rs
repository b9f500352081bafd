//! PURE: what a ResourceClaim asks of this node's devices, and what its containers get with them.

use super::slices::{self, DRIVER, Offers};
use crate::device::{
    allocate::{self, Node, Refused},
    cdi::{self, ClaimDevice, Spec},
    inventory::{Health, Item, Offer},
    name::DeviceId,
    plan::{Give, Program, Rule},
};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Most devices of one claim; Kubernetes allocates no more than 32.
const MOST_DEVICES: usize = 1024;
/// Longest uid: it is part of the name of a file.
const LONGEST_UID: usize = 64;

/// One device that the scheduler gave to a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Wanted {
    /// The request that it is for.
    pub(super) request: String,
    /// Its name in the pool.
    pub(super) device: String,
    /// Which share of it, where several claims may have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) share: Option<String>,
    /// It is looked at beside who has it.
    pub(super) is_admin: bool,
}

impl Wanted {
    /// Whether nobody else may have it meanwhile.
    pub(super) fn is_alone(&self) -> bool {
        self.share.is_none() && !self.is_admin
    }
}

/// A device as the kubelet gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Given {
    #[serde(flatten)]
    pub(super) wanted: Wanted,
    /// Names of CDI devices.
    pub(super) cdi: Vec<String>,
}

/// Whether a text is a uid: nothing else becomes part of a path.
pub(super) fn is_uid(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=LONGEST_UID).contains(&text.len()) && text.chars().all(fits)
}

/// What a claim has of this node's devices.
///
/// # Errors
/// When it isn't the claim that was meant, or asks for what can't be had: worded for people.
pub(super) fn wanted(claim: &ResourceClaim, uid: &str, node: &str) -> Result<Vec<Wanted>, String> {
    let found = claim.metadata.uid.as_deref().unwrap_or_default();
    if found != uid {
        return Err(format!(
            "the claim was deleted and made anew: it has the uid {found} now"
        ));
    }
    let status = claim.status.as_ref();
    let allocation = status
        .and_then(|status| status.allocation.as_ref())
        .ok_or("no devices are allocated to the claim")?;
    let Some(devices) = &allocation.devices else {
        return Ok(Vec::new());
    };
    let configs = devices.config.iter().flatten();
    for opaque in configs.filter_map(|config| config.opaque.as_ref()) {
        let is_empty = match &opaque.parameters.0 {
            serde_json::Value::Null => true,
            serde_json::Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        if opaque.driver == DRIVER && !is_empty {
            return Err(format!(
                "the claim or its class has parameters for {DRIVER} ({}), and there are none: what a container gets says the node's configuration; remove them",
                opaque.parameters.0
            ));
        }
    }
    let results = devices.results.iter().flatten();
    let own: Vec<_> = results.filter(|result| result.driver == DRIVER).collect();
    if own.len() > MOST_DEVICES {
        return Err(format!(
            "the claim has {} devices, which are more than {MOST_DEVICES}",
            own.len()
        ));
    }
    let wanted = own.into_iter().map(|result| {
        if result.pool != node {
            return Err(format!(
                "the claim has device {} of {}, and this is {node}: a pod runs where its claim is allocated",
                result.device, result.pool
            ));
        }
        // A subrequest is of no concern to the kubelet.
        let request = result.request.split('/').next().unwrap_or_default();
        Ok(Wanted {
            request: request.to_owned(),
            device: result.device.clone(),
            share: result.share_id.clone(),
            is_admin: result.admin_access == Some(true),
        })
    });
    wanted.collect()
}

/// The devices of a claim with what a container gets, before anything is written.
pub(super) struct Plan {
    pub(super) given: Vec<Given>,
    /// None: nothing is given but what others describe.
    pub(super) spec: Option<Spec>,
    /// What resets the devices, each with its fields.
    pub(super) resets: Vec<(Program, BTreeMap<String, String>)>,
    /// The resources that they are of.
    pub(super) resources: BTreeSet<String>,
}

/// What a claim's containers get.
///
/// # Errors
/// A device that isn't known or isn't healthy, or lacks what it should be given with: worded for people.
pub(super) fn plan(
    uid: &str,
    wanted: &[Wanted],
    offers: &Offers,
    node: &Node<'_>,
) -> Result<Plan, String> {
    let index = slices::index(offers);
    let mut found = Vec::new();
    for one in wanted {
        let (offer, item) = index.get(&one.device).ok_or_else(|| {
            format!(
                "device {} isn't known on this node any more: it was unplugged, or the configuration doesn't find it",
                one.device
            )
        })?;
        let mut item = Item::clone(item);
        if one.is_admin && matches!(item.health, Health::Unhealthy { .. }) {
            // To find out why is what it is looked at for.
            item.health = Health::Healthy;
        }
        found.push((one, *offer, item));
    }
    let mut devices: BTreeMap<&str, (allocate::Given, Vec<u32>)> = BTreeMap::new();
    let mut resets = Vec::new();
    for (one, offer, item) in &found {
        if devices.contains_key(&*one.device) {
            continue;
        }
        let mut given = give(offer, &[item], node)?;
        // A variable tells of all devices of the request: of several texts a container would have the last.
        let together: Vec<&Item> = found
            .iter()
            .filter(|(other, of, _)| {
                other.request == one.request && of.rule.name == offer.rule.name
            })
            .map(|(_, _, item)| item)
            .collect();
        given.environment = give(offer, &together, node)?.environment;
        let groups = cdi::groups(&offer.rule.give.groups, item);
        devices.insert(&one.device, (given, groups));
        // Who only looks at it has nothing of others' reset.
        let is_given = found
            .iter()
            .any(|(other, ..)| other.device == one.device && !other.is_admin);
        if let Some(program) = offer.rule.before_start.as_ref().filter(|_| is_given) {
            resets.push((program.clone(), item.fields.clone()));
        }
    }
    let others: BTreeMap<&str, Vec<String>> = devices
        .iter()
        .map(|(device, (given, _))| (*device, given.cdi.clone()))
        .collect();
    let described = devices
        .into_iter()
        .map(|(device, (given, groups))| ClaimDevice {
            name: name(uid, device),
            given,
            groups,
        });
    let (spec, names) = cdi::claim(described.collect());
    let given = found.iter().map(|(one, ..)| {
        let own = names.get(&name(uid, &one.device)).cloned();
        let others = others.get(&*one.device).cloned().unwrap_or_default();
        Given {
            wanted: Wanted::clone(one),
            cdi: own.into_iter().chain(others).collect(),
        }
    });
    Ok(Plan {
        given: given.collect(),
        spec,
        resets,
        resources: found
            .iter()
            .map(|(_, offer, _)| offer.rule.name.to_string())
            .collect(),
    })
}

/// The name of a device in the CDI specification of a claim.
fn name(uid: &str, device: &str) -> String {
    format!("{uid}-{device}")
}

/// What a container gets with these items, as by a device plugin; files too, which a claim has no other way for.
fn give(offer: &Offer, items: &[&Item], node: &Node<'_>) -> Result<allocate::Given, String> {
    let rule = Rule {
        count: 1,
        give: Give {
            write_cdi: false,
            ..offer.rule.give.clone()
        },
        ..Rule::clone(&offer.rule)
    };
    let items: Vec<Item> = items.iter().copied().cloned().collect();
    let ids: Vec<DeviceId> = items
        .iter()
        .map(|item| DeviceId::new(&item.key, None))
        .collect();
    let offer = Offer::new(Arc::new(rule), items);
    allocate::plan(&offer, &ids, node).map_err(|refused| match refused {
        Refused::Unknown(why) | Refused::NotNow(why) => why,
    })
}

#[cfg(test)]
mod tests;
