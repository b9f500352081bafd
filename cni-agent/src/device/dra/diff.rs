//! PURE: what has to be written, so that the API server has this node's slices as they should be.
//!
//! Who reads a pool takes it for whole when it has seen as many slices of the newest generation as each of them says there
//! are. So a change of several slices raises the generation of all; a change within one of several is whole by itself.

use super::slices::DRIVER;
use crate::device::name::digest;
use k8s_openapi::{
    api::resource::v1::{Device, ResourcePool, ResourceSlice, ResourceSliceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::collections::BTreeMap;

/// Longest name of an object.
const LONGEST_NAME: usize = 253;

/// Slices by their names.
pub(super) type Slices = BTreeMap<String, ResourceSlice>;

/// One write; they are to be made in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    Create(ResourceSlice),
    /// In place of what was seen, and of nothing else: it has its version.
    Replace(ResourceSlice),
    Delete(ResourceSlice),
}

/// What is to be done about a node's slices where these were `seen`. The generation grows beyond `before`, also when all
/// slices were deleted meanwhile.
pub(super) fn plan(node: &str, before: i64, seen: &Slices, wanted: &[Vec<Device>]) -> Vec<Write> {
    let names: Vec<String> = (0..wanted.len()).map(|n| name(node, n)).collect();
    let is_wanted = |slice: &&ResourceSlice| {
        let name = slice.metadata.name.as_ref();
        name.is_some_and(|name| names.contains(name)) && slice.spec.pool.name == node
    };
    // First: if what comes is refused, what isn't there any more is told to nobody all the same.
    let mut writes: Vec<Write> = seen
        .values()
        .filter(|slice| !is_wanted(slice))
        .map(|slice| Write::Delete(slice.clone()))
        .collect();
    let mut pool = ResourcePool {
        name: node.to_owned(),
        generation: newest(node, seen).max(before),
        resource_slice_count: i64::try_from(wanted.len()).unwrap_or(i64::MAX),
    };
    let found: Vec<Option<&ResourceSlice>> = names
        .iter()
        .map(|name| seen.get(name).filter(is_wanted))
        .collect();
    let same = |found: &ResourceSlice, pool: &ResourcePool, devices: &[Device]| {
        found.spec.pool == *pool && same_devices(found.spec.devices.as_deref(), devices)
    };
    let changed = found
        .iter()
        .zip(wanted)
        .filter(|(found, devices)| !found.is_some_and(|found| same(found, &pool, devices)))
        .count();
    let is_whole = found.iter().all(Option::is_some) && changed == 1 && wanted.len() > 1;
    let stays = found
        .iter()
        .flatten()
        .all(|found| found.spec.pool.generation == pool.generation);
    if changed > 0 && !(is_whole && stays) {
        pool.generation = pool.generation.saturating_add(1);
    }
    let mut creates = Vec::new();
    for ((name, found), devices) in names.iter().zip(found).zip(wanted) {
        match found {
            Some(found) if same(found, &pool, devices) => {}
            Some(found) => {
                let mut slice = found.clone();
                let devices = with_times(devices, found.spec.devices.as_deref());
                slice.spec = spec(node, pool.clone(), devices);
                writes.push(Write::Replace(slice));
            }
            None => creates.push(Write::Create(ResourceSlice {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    ..ObjectMeta::default()
                },
                spec: spec(node, pool.clone(), devices.clone()),
            })),
        }
    }
    writes.extend(creates);
    writes
}

/// The newest generation of the node's pool.
pub(super) fn newest(node: &str, seen: &Slices) -> i64 {
    let of_pool = seen.values().filter(|slice| slice.spec.pool.name == node);
    let newest = of_pool.map(|slice| slice.spec.pool.generation).max();
    newest.unwrap_or_default()
}

/// A slice of the node by its number: the scheduler tries devices in the order of the names.
fn name(node: &str, number: usize) -> String {
    let name = format!("{number:03}-{DRIVER}-{node}");
    match name.len() <= LONGEST_NAME {
        true => name,
        false => format!("{number:03}-{DRIVER}-{}", digest(node, 32)),
    }
}

/// What a slice of these devices says.
pub(super) fn spec(node: &str, pool: ResourcePool, devices: Vec<Device>) -> ResourceSliceSpec {
    ResourceSliceSpec {
        devices: Some(devices),
        driver: DRIVER.to_owned(),
        node_name: Some(node.to_owned()),
        pool,
        ..ResourceSliceSpec::default()
    }
}

/// When a taint came, the API server says.
fn same_devices(found: Option<&[Device]>, wanted: &[Device]) -> bool {
    let found = found.unwrap_or_default();
    let without_times = |device: &Device| {
        let mut device = device.clone();
        for taint in device.taints.iter_mut().flatten() {
            taint.time_added = None;
        }
        device
    };
    found.len() == wanted.len()
        && found
            .iter()
            .zip(wanted)
            .all(|(found, wanted)| without_times(found) == *wanted)
}

/// A taint that stays keeps its time.
fn with_times(wanted: &[Device], found: Option<&[Device]>) -> Vec<Device> {
    let found: BTreeMap<&str, &Device> = found
        .unwrap_or_default()
        .iter()
        .map(|device| (&*device.name, device))
        .collect();
    let mut devices = wanted.to_vec();
    for device in &mut devices {
        let before = found.get(&*device.name).and_then(|one| one.taints.as_ref());
        for taint in device.taints.iter_mut().flatten() {
            let same = before.into_iter().flatten().find(|before| {
                (&before.key, &before.effect, &before.value)
                    == (&taint.key, &taint.effect, &taint.value)
            });
            taint.time_added = same.and_then(|same| same.time_added.clone());
        }
    }
    devices
}

#[cfg(test)]
mod tests;
