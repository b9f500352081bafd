//! CDI specifications of ours: what a container runtime gives a container, where the kubelet's own way can't, as groups for
//! who isn't root, and with Dynamic Resource Allocation everything. (Container Device Interface 1.1.0; written at the oldest
//! version that has what is used.)

use super::{
    allocate::Given,
    inventory::{Item, Offer},
    name::{DeviceId, ResourceName, digest},
    plan::Groups,
};
use crate::private_file;
use serde::{Deserialize, Serialize};
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

/// Files of ours for claims.
const CLAIM_PREFIX: &str = "fairlead-claim-";
/// The kind of what claims are given.
const CLAIM_KIND: &str = "devices.fairlead.dev/claim";

/// A specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    cdi_version: String,
    kind: String,
    devices: Vec<SpecDevice>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecDevice {
    name: String,
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    device_nodes: Vec<DeviceNode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    /// None: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_path: Option<String>,
    permissions: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
}

impl Spec {
    fn new(kind: String, devices: Vec<SpecDevice>) -> Self {
        Self {
            cdi_version: version(&kind, &devices).to_owned(),
            kind,
            devices,
        }
    }
}

/// The oldest version that has what is used: runtimes refuse a file that says an older one.
fn version(kind: &str, devices: &[SpecDevice]) -> &'static str {
    let any = |is: fn(&SpecDevice) -> bool| devices.iter().any(is);
    let dots = kind
        .split_once('/')
        .is_some_and(|(_, class)| class.contains('.'));
    if any(|device| !device.container_edits.additional_gids.is_empty()) {
        return "0.7.0";
    }
    if dots {
        return "0.6.0";
    }
    let is_of_050 = |device: &SpecDevice| {
        let mut nodes = device.container_edits.device_nodes.iter();
        device.name.starts_with(|c: char| c.is_ascii_digit())
            || nodes.any(|node| node.host_path.is_some())
    };
    if any(is_of_050) { "0.5.0" } else { "0.3.0" }
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

/// The names of the devices that a runtime is told, each item once; none for a resource that does without, or of a device
/// that gives nothing.
pub(super) fn names(offer: &Offer, ids: &[DeviceId]) -> Vec<String> {
    if !offer.rule.give.write_cdi {
        return Vec::new();
    }
    let kind = kind(&offer.rule.name);
    let mut seen = BTreeSet::new();
    ids.iter()
        .filter_map(|id| offer.item(id))
        .filter(|item| seen.insert(&item.key) && own_edits(offer, item).is_some())
        .map(|item| format!("{kind}={}", DeviceId::new(&item.key, None)))
        .collect()
}

/// What a runtime has to know of a resource; none for one that does without, or that has no devices: a specification
/// without devices is none. One that gives nothing is not in it: a runtime refuses the whole file for it.
pub(super) fn spec(offer: &Offer) -> Option<Spec> {
    if !offer.rule.give.write_cdi {
        return None;
    }
    let devices: Vec<SpecDevice> = offer
        .items
        .iter()
        .filter_map(|item| {
            Some(SpecDevice {
                name: DeviceId::new(&item.key, None).to_string(),
                container_edits: own_edits(offer, item)?,
            })
        })
        .collect();
    (!devices.is_empty()).then(|| Spec::new(kind(&offer.rule.name), devices))
}

/// What a container gets with an item by CDI; none: nothing.
fn own_edits(offer: &Offer, item: &Item) -> Option<Edits> {
    let edits = Edits {
        device_nodes: nodes(offer, item),
        additional_gids: groups(&offer.rule.give.groups, item),
        ..Edits::default()
    };
    (edits != Edits::default()).then_some(edits)
}

fn nodes(offer: &Offer, item: &Item) -> Vec<DeviceNode> {
    item.files
        .iter()
        .map(|file| DeviceNode {
            path: file.path.to_string_lossy().into_owned(),
            host_path: None,
            permissions: offer.rule.give.permissions.letters(),
        })
        .collect()
}

/// Root's group would be a gift to who isn't root.
pub(super) fn groups(groups: &Groups, item: &Item) -> Vec<u32> {
    let groups: BTreeSet<u32> = match groups {
        Groups::OfFiles => item.files.iter().map(|file| file.group).collect(),
        Groups::These(groups) => groups.iter().copied().collect(),
    };
    groups.into_iter().filter(|group| *group != 0).collect()
}

/// What a container gets with a device of a claim.
pub(super) struct ClaimDevice {
    /// Unlike any other's, also of other claims: runtimes keep what they have read.
    pub(super) name: String,
    pub(super) given: Given,
    pub(super) groups: Vec<u32>,
}

/// What a runtime has to know of a claim, and the names that it is told by the names of its devices. One that gives
/// nothing is not in it: a runtime refuses what is empty.
pub(super) fn claim(devices: Vec<ClaimDevice>) -> (Option<Spec>, BTreeMap<String, String>) {
    let mut names = BTreeMap::new();
    let mut all = Vec::new();
    for ClaimDevice {
        name,
        given,
        groups,
    } in devices
    {
        let container_edits = edits(given, groups);
        if container_edits != Edits::default() {
            names.insert(name.clone(), format!("{CLAIM_KIND}={name}"));
            all.push(SpecDevice {
                name,
                container_edits,
            });
        }
    }
    let spec = (!all.is_empty()).then(|| Spec::new(CLAIM_KIND.to_owned(), all));
    (spec, names)
}

fn edits(given: Given, additional_gids: Vec<u32>) -> Edits {
    let nodes = given.nodes.into_iter().map(|(path, node)| {
        let host = node.host.to_string_lossy().into_owned();
        DeviceNode {
            host_path: (host != path).then_some(host),
            path,
            permissions: node.permissions.letters(),
        }
    });
    let mounts = given.mounts.into_iter().map(|(container_path, mount)| {
        let way = if mount.readonly { "ro" } else { "rw" };
        Mount {
            host_path: mount.host,
            container_path,
            // As the kubelet's own way has them.
            options: ["rbind", "rprivate", way].map(str::to_owned).into(),
        }
    });
    let env = given.environment.iter();
    Edits {
        env: env.map(|(name, value)| format!("{name}={value}")).collect(),
        device_nodes: nodes.collect(),
        mounts: mounts.collect(),
        additional_gids,
    }
}

/// Name of the file of a claim.
pub(super) fn claim_file(uid: &str) -> String {
    format!("{CLAIM_PREFIX}{uid}.json")
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
/// half of one. What can't be written keeps no other from it.
///
/// # Errors
/// The first of the disk, with the name of its file.
pub(super) fn write(folder: &Path, wanted: &BTreeMap<String, Spec>) -> io::Result<()> {
    let mut first = Ok(());
    for (name, spec) in wanted {
        let written = write_one(folder, name, spec);
        let named =
            written.map_err(|error| io::Error::new(error.kind(), format!("file {name}: {error}")));
        first = first.and(named);
    }
    first.and(remove_others(folder, PREFIX, |name| {
        wanted.contains_key(name)
    }))
}

/// Has the folder hold this one.
///
/// # Errors
/// Those of the disk.
pub(super) fn write_one(folder: &Path, name: &str, spec: &Spec) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(spec)?;
    let path = folder.join(name);
    if fs::read(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    // Runtimes read *.json and *.yaml alone.
    let fresh = path.with_extension("new");
    let mut file = private_file::create(&fresh)?;
    file.write_all(&text)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    fs::rename(&fresh, &path)
}

/// Has the folder hold no claims but these.
///
/// # Errors
/// Those of the disk.
pub(super) fn keep_claims(folder: &Path, uids: &BTreeSet<&str>) -> io::Result<()> {
    let names: BTreeSet<String> = uids.iter().map(|uid| claim_file(uid)).collect();
    remove_others(folder, CLAIM_PREFIX, |name| names.contains(name))
}

fn remove_others(folder: &Path, prefix: &str, is_wanted: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut first = Ok(());
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) && !is_wanted(&name) {
            first = first.and(fs::remove_file(folder.join(name)));
        }
    }
    first
}

#[cfg(test)]
mod tests;
