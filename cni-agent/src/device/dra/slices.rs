//! PURE: the devices of this node as the scheduler is told of them: one pool, cut into ResourceSlices. A device has a name
//! that no other of the pool has, and what is known of it as attributes, by which classes and claims select it.

use crate::device::{
    inventory::{Item, Offer},
    name::{DeviceId, ResourceName, digest},
};
use k8s_openapi::{
    api::resource::v1::{
        CapacityRequestPolicy, CapacityRequestPolicyRange, Device, DeviceAttribute, DeviceCapacity,
        DeviceTaint,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use std::{collections::BTreeMap, sync::Arc};

/// Name of the driver: what claims, classes and the kubelet know us by.
pub(super) const DRIVER: &str = "devices.fairlead.dev";

/// The resources that are served so.
pub(in crate::device) type Offers = BTreeMap<ResourceName, Arc<Offer>>;

/// They, once the node was looked at.
pub(in crate::device) type Looked = Option<Arc<Offers>>;

/// Most devices of a slice. Kubernetes takes 128 of them, and 64 where one has a taint: with 64 none has to move to another
/// slice when its health changes.
const MOST_DEVICES: usize = 64;
/// Longest text of an attribute, in bytes.
const LONGEST_TEXT: usize = 64;
/// Longest name of a device (a label of DNS).
const LONGEST_NAME: usize = 63;
/// Digits of the digest in a name: of ten thousand devices no two have the same.
const DIGITS: usize = 12;
/// On a device that isn't healthy.
const TAINT: &str = "devices.fairlead.dev/unhealthy";
/// What a device that several may have at once has as many of; each takes one, unless it asks for more.
const SHARES: &str = "shares";
/// What is told as a text, under its own name.
const TEXTS: [&str; 13] = [
    "name",
    "path",
    "serial",
    "pci",
    "pciRoot",
    "pciSlot",
    "physfn",
    "driver",
    "vendor",
    "device",
    "subsystem",
    "usb",
    "cdi",
];

/// What the cluster's API server keeps of what it is told; what it doesn't, it drops without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Support {
    /// Taints of devices (on since Kubernetes 1.36, `DRADeviceTaints`).
    pub(super) taints: bool,
    /// Devices that several claims may have (on since Kubernetes 1.36, `DRAConsumableCapacity`).
    pub(super) shares: bool,
}

impl Support {
    pub(super) const ALL: Self = Self {
        taints: true,
        shares: true,
    };
    pub(super) const NONE: Self = Self {
        taints: false,
        shares: false,
    };

    /// What was kept of a device that has both.
    pub(super) fn of(kept: &Device) -> Self {
        Self {
            taints: kept.taints.as_ref().is_some_and(|all| !all.is_empty()),
            shares: kept.allow_multiple_allocations == Some(true),
        }
    }
}

/// A device that has everything which an API server may drop.
pub(super) fn probe() -> Device {
    Device {
        name: "probe".to_owned(),
        taints: Some(vec![taint()]),
        ..shared(Device::default(), 2)
    }
}

/// Whether what is told depends on what the API server keeps.
pub(super) fn depends_on_support(offers: &Offers) -> bool {
    offers.values().any(|offer| {
        let is_shared = offer.rule.count > 1 && !offer.items.is_empty();
        is_shared || offer.items.iter().any(|item| !item.is_healthy())
    })
}

/// The name of a device in the pool; `share` counts from 0 where each share is a device by itself.
///
/// It stays the same whatever else there is: all that tells the device from others is in its digest.
pub(super) fn name(resource: &ResourceName, key: &str, share: Option<u32>) -> String {
    let text = format!("{}-{}", resource.short(), DeviceId::new(key, share));
    let mut readable: String = text
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_lowercase(),
            false => '-',
        })
        .collect();
    readable.truncate(LONGEST_NAME - DIGITS - 1);
    // No text has a zero in it, and no number a letter.
    let share = share.map_or_else(String::new, |share| share.to_string());
    let digest = digest(&format!("{resource}\0{key}\0{share}"), DIGITS);
    format!("{}-{digest}", readable.trim_end_matches('-'))
}

/// Everything that has, had, or may have a name in the pool: also what is shared in the way that isn't in use, and what was
/// told of a moment ago. Who comes with a name gets what it means.
pub(super) fn index(offers: &Offers) -> BTreeMap<String, (&Arc<Offer>, &Item)> {
    let mut index = BTreeMap::new();
    for offer in offers.values() {
        for item in offer.items.iter().chain(&offer.passing) {
            let count = offer.rule.count;
            let shares = (0..count).filter(|_| count > 1).map(Some);
            for share in shares.chain([None]) {
                let name = name(&offer.rule.name, &item.key, share);
                index.entry(name).or_insert((offer, item));
            }
        }
    }
    index
}

/// The devices by their names with the item that each is of.
pub(super) fn named(
    offers: &Offers,
    support: Support,
) -> impl Iterator<Item = (String, &Offer, &Item)> {
    offers.values().flat_map(move |offer| {
        let count = offer.rule.count;
        let is_split = count > 1 && !support.shares;
        let shares = if is_split { count } else { 1 };
        offer.items.iter().flat_map(move |item| {
            (0..shares).map(move |share| {
                let share = is_split.then_some(share);
                (name(&offer.rule.name, &item.key, share), &**offer, item)
            })
        })
    })
}

/// The slices' devices, in order of their names, and what can't be told of, worded for people.
///
/// One that isn't healthy has a taint, so that pods that have it go on; without taints it is left out.
pub(super) fn slices(offers: &Offers, support: Support) -> (Vec<Vec<Device>>, Vec<String>) {
    let mut devices = BTreeMap::new();
    let mut problems = Vec::new();
    for name in offers.keys() {
        if name.as_str().len() > LONGEST_TEXT {
            problems.push(format!(
                "{name} is no name that claims can select by: it has more than {LONGEST_TEXT} characters; take a shorter one, or write `serve: devicePlugin`"
            ));
        }
    }
    for (name, offer, item) in named(offers, support) {
        let is_told =
            offer.rule.name.as_str().len() <= LONGEST_TEXT && (support.taints || item.is_healthy());
        if is_told {
            let device = device(name.clone(), offer, item, support);
            devices.entry(name).or_insert(device);
        }
    }
    let devices: Vec<Device> = devices.into_values().collect();
    let slices = devices.chunks(MOST_DEVICES).map(<[Device]>::to_vec);
    (slices.collect(), problems)
}

fn device(name: String, offer: &Offer, item: &Item, support: Support) -> Device {
    let device = Device {
        name,
        attributes: Some(attributes(offer, item)),
        taints: (!item.is_healthy()).then(|| vec![taint()]),
        ..Device::default()
    };
    match offer.rule.count {
        count if count > 1 && support.shares => shared(device, count),
        _ => device,
    }
}

/// The same, for so many claims at once.
fn shared(device: Device, count: u32) -> Device {
    let one = || Quantity("1".to_owned());
    let shares = DeviceCapacity {
        value: quantity(count),
        request_policy: Some(CapacityRequestPolicy {
            default: Some(one()),
            valid_range: Some(CapacityRequestPolicyRange {
                min: one(),
                max: None,
                step: Some(one()),
            }),
            valid_values: None,
        }),
    };
    Device {
        allow_multiple_allocations: Some(true),
        capacity: Some([(SHARES.to_owned(), shares)].into()),
        ..device
    }
}

/// A number as the API server writes it: else each look would find a difference.
fn quantity(number: u32) -> Quantity {
    let (mut number, mut suffixes) = (number, ["", "k", "M", "G"].into_iter());
    let mut suffix = suffixes.next().unwrap_or_default();
    while number > 0
        && number.is_multiple_of(1000)
        && let Some(next) = suffixes.next()
    {
        (number, suffix) = (number / 1000, next);
    }
    Quantity(format!("{number}{suffix}"))
}

/// Pods that have the device go on with it, as with a device plugin: what is wrong may pass, and nobody asked for their end.
/// New ones don't get it.
fn taint() -> DeviceTaint {
    DeviceTaint {
        key: TAINT.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..DeviceTaint::default()
    }
}

fn text(value: &str) -> Option<DeviceAttribute> {
    let fits = !value.is_empty() && value.len() <= LONGEST_TEXT;
    fits.then(|| DeviceAttribute {
        string: Some(value.to_owned()),
        ..DeviceAttribute::default()
    })
}

fn number(value: i64) -> DeviceAttribute {
    DeviceAttribute {
        int: Some(value),
        ..DeviceAttribute::default()
    }
}

/// What is known of a device. What doesn't fit is left out: a shortened one would be taken for another.
fn attributes(offer: &Offer, item: &Item) -> BTreeMap<String, DeviceAttribute> {
    let field = |name: &str| item.fields.get(name).and_then(|value| text(value));
    let mut attributes: BTreeMap<String, DeviceAttribute> = TEXTS
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), field(name)?)))
        .collect();
    let mut put = |name: &str, value: Option<DeviceAttribute>| {
        if let Some(value) = value {
            attributes.insert(name.to_owned(), value);
        }
    };
    put("resource", text(offer.rule.name.as_str()));
    put("id", text(DeviceId::new(&item.key, None).as_str()));
    let healthy = DeviceAttribute {
        bool: Some(item.is_healthy()),
        ..DeviceAttribute::default()
    };
    put("healthy", Some(healthy));
    // Of several nodes none is the device's.
    if let [node] = item.numa[..] {
        put("numa", Some(number(i64::from(node))));
    }
    let group = item.fields.get("iommuGroup");
    put(
        "iommuGroup",
        group.and_then(|group| group.parse().ok()).map(number),
    );
    // What all drivers call the same, so that claims can ask for devices that are near each other.
    put("resource.kubernetes.io/pcieRoot", field("pciRoot"));
    // A USB device has that of its controller, and is none itself.
    if !item.fields.contains_key("usb") {
        put("resource.kubernetes.io/pciBusID", field("pci"));
    }
    attributes
}

#[cfg(test)]
mod tests;
