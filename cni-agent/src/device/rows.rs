//! PURE: what `fairlead device` is answered.

use super::{
    found::Look,
    inventory::{Health, Item, Offer},
    name::{DeviceId, ResourceName},
    pods::Holders,
    registration::Standing,
    slot::{Shown, ShownResource},
};
use crate::query::{DeviceAnswer, DeviceLook, DeviceRow, DeviceStep, HolderRow, ResourceRow};
use std::collections::BTreeMap;

/// Everything, with who holds what as far as the kubelet says.
pub(super) fn answer(shown: &Shown, holders: &Result<Holders, String>) -> DeviceAnswer {
    let none = Holders::new();
    let (held, kubelet) = match holders {
        Ok(held) => (held, None),
        Err(why) => (&none, Some(why.clone())),
    };
    let resources = shown.resources.iter();
    DeviceAnswer {
        resources: resources
            .map(|(name, of)| resource(name, of, held.get(name)))
            .collect(),
        problems: shown.problems.clone(),
        warnings: shown.warnings.clone(),
        kubelet,
    }
}

fn resource(
    name: &ResourceName,
    of: &ShownResource,
    held: Option<&BTreeMap<DeviceId, Vec<super::pods::Holder>>>,
) -> ResourceRow {
    let offer = of.offers.borrow().clone();
    let mut devices: Vec<DeviceRow> = offer
        .devices
        .iter()
        .filter_map(|(id, place)| {
            let item = offer.items.get(place.item)?;
            Some(device(id, item, held))
        })
        .collect();
    // Held and not known any more: a pod has it still.
    let known = |id: &DeviceId| offer.devices.contains_key(id);
    for (id, _) in held.into_iter().flatten().filter(|(id, _)| !known(id)) {
        let gone = Item {
            key: id.to_string(),
            health: Health::Gone { since: 0 },
            ..Item::default()
        };
        devices.push(device(id, &gone, held));
    }
    let standing = of.standing.borrow().clone();
    let (registered, why_not) = match standing {
        Standing::Taken => (true, None),
        Standing::Starting => (false, Some("it is being told of it".to_owned())),
        Standing::NotTaken(why) => (false, Some(why)),
    };
    ResourceRow {
        name: name.to_string(),
        origin: offer.rule.origin.clone(),
        description: offer.rule.description.clone(),
        registered,
        why_not,
        count: offer.rule.count,
        devices,
        problems: of.findings.problems.clone(),
        looks: of.findings.looks.iter().map(look).collect(),
        gives: gives(&offer),
    }
}

fn device(
    id: &DeviceId,
    item: &Item,
    held: Option<&BTreeMap<DeviceId, Vec<super::pods::Holder>>>,
) -> DeviceRow {
    let holders = held.and_then(|held| held.get(id));
    DeviceRow {
        id: id.to_string(),
        key: item.key.clone(),
        healthy: item.is_healthy(),
        reason: item.reason().map(str::to_owned),
        since: item.health.since().filter(|since| *since > 0),
        numa: item.numa.clone(),
        files: item.files.iter().map(|file| file.path.clone()).collect(),
        fields: item.fields.clone(),
        holders: holders
            .into_iter()
            .flatten()
            .map(|holder| HolderRow {
                namespace: holder.namespace.clone(),
                pod: holder.pod.clone(),
                container: holder.container.clone(),
            })
            .collect(),
    }
}

fn look(look: &Look) -> DeviceLook {
    DeviceLook {
        finder: look.finder.clone(),
        candidates: look.candidates,
        steps: look
            .left
            .iter()
            .map(|(condition, left)| DeviceStep {
                condition: condition.clone(),
                left: *left,
            })
            .collect(),
    }
}

/// What a container gets with each, in words.
fn gives(offer: &Offer) -> Vec<String> {
    let give = &offer.rule.give;
    let mut lines = Vec::new();
    let permissions = give.permissions.letters();
    match give.write_cdi {
        true => lines.push(format!("its files ({permissions}), by CDI")),
        false => lines.push(format!("its files ({permissions})")),
    }
    for node in &give.nodes {
        lines.push(format!("{} ({})", node.path, node.permissions.letters()));
    }
    for mount in &give.mounts {
        let way = if mount.readonly {
            "read-only"
        } else {
            "writable"
        };
        lines.push(format!("{} at {}, {way}", mount.host, mount.container));
    }
    for (name, value) in &give.environment {
        lines.push(format!("{name}={value}"));
    }
    lines.extend(give.cdi.iter().map(|name| format!("CDI device {name}")));
    lines
}
