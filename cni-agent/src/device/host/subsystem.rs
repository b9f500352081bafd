//! Finds devices of a class or bus of sysfs, by their kernel's name.

use super::{
    candidate::{Candidate, Sought},
    scan::Scan,
};
use crate::device::plan::Pattern;
use std::path::{Component, Path};

pub(super) fn sought<'a>(
    scan: &'a Scan<'_>,
    subsystem: &str,
    name: Option<&'a Pattern>,
) -> Sought<'a> {
    let mut parts = Path::new(subsystem).components();
    let is_name = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    let mut candidates = Vec::new();
    if is_name {
        let class = format!("class/{subsystem}");
        let bus = format!("bus/{subsystem}/devices");
        for place in [class, bus] {
            for name in scan.sysfs.names(&place) {
                candidates.extend(scan.sysfs.folder(format!("{place}/{name}")).map(|folder| {
                    Candidate {
                        folders: vec![folder],
                        ..Candidate::default()
                    }
                }));
            }
        }
    } else {
        scan.problem(format!(
            "{subsystem:?} is no name of a class or bus of sysfs; take one of the folders in /sys/class or /sys/bus"
        ));
    }
    Sought::new(format!("devices of the subsystem {subsystem}"), candidates).whose(
        name.map(|name| format!("name {}", name.0)),
        move |candidate| {
            let own = candidate
                .folders
                .first()
                .and_then(|folder| folder.file_name()?.to_str());
            name.zip(own).is_some_and(|(name, own)| name.is_like(own))
        },
    )
}
