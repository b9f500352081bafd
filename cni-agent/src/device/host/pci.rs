//! Finds PCI functions.

use super::{
    candidate::{Candidate, Sought},
    scan::Scan,
    sysfs::Sysfs,
};
use crate::device::plan::{By, Pattern};
use std::path::Path;

pub(super) fn sought<'a>(scan: &'a Scan<'_>, by: &'a By) -> Sought<'a> {
    let By::Pci {
        vendor,
        device,
        class,
        driver,
        address,
    } = by
    else {
        return Sought::new("PCI functions", Vec::new());
    };
    let sysfs = &scan.sysfs;
    let functions = sysfs.names("bus/pci/devices").into_iter();
    let candidates = functions
        .filter_map(|name| sysfs.folder(format!("bus/pci/devices/{name}")))
        .map(|folder| Candidate {
            folders: vec![folder],
            ..Candidate::default()
        });
    let words = |what: &str, pattern: &Option<Pattern>| {
        pattern
            .as_ref()
            .map(|pattern| format!("{what} {}", pattern.0))
    };
    // A condition on a value that a function may lack.
    let like = |pattern: &'a Option<Pattern>, value: fn(&Sysfs, &Path) -> Option<String>| {
        move |candidate: &Candidate| {
            let value = candidate
                .folders
                .first()
                .and_then(|folder| value(sysfs, folder));
            pattern
                .as_ref()
                .zip(value)
                .is_some_and(|(pattern, value)| pattern.is_like(&value))
        }
    };
    Sought::new("PCI functions", candidates.collect())
        .whose(
            words("vendor", vendor),
            like(vendor, |sysfs, folder| sysfs.hexadecimal(folder, "vendor")),
        )
        .whose(
            words("device", device),
            like(device, |sysfs, folder| sysfs.hexadecimal(folder, "device")),
        )
        .whose(
            class.as_ref().map(|class| format!("class {class}")),
            move |candidate| {
                let own = candidate
                    .folders
                    .first()
                    .and_then(|folder| sysfs.hexadecimal(folder, "class"));
                class
                    .as_ref()
                    .zip(own)
                    .is_some_and(|(class, own)| own.starts_with(class.as_str()))
            },
        )
        .whose(
            words("driver", driver),
            like(driver, |sysfs, folder| sysfs.link(folder, "driver")),
        )
        .whose(
            words("address", address),
            like(address, |_, folder| {
                Some(folder.file_name()?.to_str()?.to_owned())
            }),
        )
}

/// Whether a name is the address of a function: `0000:3b:00.0`.
pub(super) fn is_address(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let mut parts = name.split([':', '.']);
    matches!(
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()),
        (Some(domain), Some(bus), Some(slot), Some(function), None)
            if domain.len() >= 4 && [domain, bus, slot, function].into_iter().all(digits)
    )
}

/// Whether a name is that of a root complex: `pci0000:3a`.
pub(super) fn is_root(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    name.strip_prefix("pci")
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(domain, bus)| domain.len() >= 4 && digits(domain) && digits(bus))
}
