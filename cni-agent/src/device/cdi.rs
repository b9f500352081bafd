//! CDI specifications of ours: what a container runtime gives a container, where the kubelet's own way can't, as groups for
//! who isn't root. (Container Device Interface 1.1.0; written at the oldest version that has what is used.)

use super::{
    inventory::{Item, Offer},
    name::{DeviceId, ResourceName, digest},
    plan::Groups,
};
use crate::private_file;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Domain of all of our kinds: nobody else describes them.
const VENDOR: &str = "fairlead.dev";
/// Files of ours in the folder of specifications.
const PREFIX: &str = "fairlead-device-";

/// A specification.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    cdi_version: &'static str,
    kind: String,
    devices: Vec<SpecDevice>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecDevice {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    device_nodes: Vec<DeviceNode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    permissions: String,
}

/// The kind of a resource's devices: `fairlead.dev/<name>-<digest>`.
fn kind(resource: &ResourceName) -> String {
    let short = resource.short();
    let lead = match short.starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => "",
        false => "r",
    };
    format!("{VENDOR}/{lead}{short}-{}", digest(resource.as_str(), 8))
}

/// The names of the devices that a runtime is told, each item once; none for a resource that does without.
pub(super) fn names(offer: &Offer, ids: &[DeviceId]) -> Vec<String> {
    if !offer.rule.give.write_cdi {
        return Vec::new();
    }
    let kind = kind(&offer.rule.name);
    let mut seen = BTreeSet::new();
    ids.iter()
        .filter_map(|id| offer.item(id))
        .filter(|item| seen.insert(&item.key))
        .map(|item| format!("{kind}={}", DeviceId::new(&item.key, None)))
        .collect()
}

/// What a runtime has to know of a resource; none for one that does without, or that has no devices: a specification
/// without devices is none.
pub(super) fn spec(offer: &Offer) -> Option<Spec> {
    if !offer.rule.give.write_cdi || offer.items.is_empty() {
        return None;
    }
    let devices: Vec<SpecDevice> = offer
        .items
        .iter()
        .map(|item| SpecDevice {
            name: DeviceId::new(&item.key, None).to_string(),
            container_edits: Edits {
                device_nodes: nodes(offer, item),
                additional_gids: groups(&offer.rule.give.groups, item),
            },
        })
        .collect();
    let has_groups = devices
        .iter()
        .any(|device| !device.container_edits.additional_gids.is_empty());
    Some(Spec {
        // Groups came with 0.7.0.
        cdi_version: if has_groups { "0.7.0" } else { "0.3.0" },
        kind: kind(&offer.rule.name),
        devices,
    })
}

fn nodes(offer: &Offer, item: &Item) -> Vec<DeviceNode> {
    item.files
        .iter()
        .map(|file| DeviceNode {
            path: file.path.to_string_lossy().into_owned(),
            permissions: offer.rule.give.permissions.letters(),
        })
        .collect()
}

/// Root's group would be a gift to who isn't root.
fn groups(groups: &Groups, item: &Item) -> Vec<u32> {
    let groups: BTreeSet<u32> = match groups {
        Groups::OfFiles => item.files.iter().map(|file| file.group).collect(),
        Groups::These(groups) => groups.iter().copied().collect(),
    };
    groups.into_iter().filter(|group| *group != 0).collect()
}

/// The specifications by the names of their files.
pub(super) fn files<'a>(offers: impl Iterator<Item = &'a Offer>) -> BTreeMap<String, Spec> {
    offers
        .filter_map(|offer| {
            let name = digest(offer.rule.name.as_str(), 16);
            Some((format!("{PREFIX}{name}.json"), spec(offer)?))
        })
        .collect()
}

/// Has the folder hold these and no others of ours; writes only what differs, by renaming, so that a runtime never reads
/// half of one.
///
/// # Errors
/// Those of the disk.
pub(super) fn write(folder: &Path, wanted: &BTreeMap<String, Spec>) -> io::Result<()> {
    if !wanted.is_empty() {
        fs::create_dir_all(folder)?;
    }
    for (name, spec) in wanted {
        let text = serde_json::to_vec_pretty(spec)?;
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|there| there == text) {
            continue;
        }
        // Runtimes read *.json and *.yaml alone.
        let fresh = path.with_extension("new");
        let mut file = private_file::create(&fresh)?;
        file.write_all(&text)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
    }
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && !wanted.contains_key(&name) {
            fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
