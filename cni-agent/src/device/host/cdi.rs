//! Finds what specifications of the Container Device Interface (1.1.0) describe. Who wrote them isn't trusted: a broken
//! one is a problem, and the others hold.

use super::{
    candidate::{Candidate, Files, Sought},
    scan::Scan,
    sysfs::{bounded, names},
};
use crate::device::plan::Pattern;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Most that is read of one specification: those of nodes with many divided GPUs have some 100 KiB.
const MOST_BYTES: u64 = 1 << 20;
/// Specifications of one folder.
const MOST_SPECIFICATIONS: usize = 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Option<Vec<Device>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Option<Edits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    #[serde(default)]
    device_nodes: Option<Vec<Node>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    #[serde(default)]
    host_path: Option<PathBuf>,
}

pub(super) fn sought<'a>(scan: &'a Scan<'_>, kind: &str, name: Option<&'a Pattern>) -> Sought<'a> {
    let mut devices = BTreeMap::new();
    // What a later folder says is stronger.
    for folder in &scan.host.cdi {
        devices.extend(of_folder(scan, folder, kind));
    }
    let candidates = devices
        .into_iter()
        .map(|(name, device)| candidate(scan, kind, name, device));
    Sought::new(
        format!("devices of CDI specifications of {kind}"),
        candidates.collect(),
    )
    .whose(
        name.map(|name| format!("name {}", name.0)),
        move |candidate| {
            let own = candidate.fields.get("name");
            name.zip(own).is_some_and(|(name, own)| name.is_like(own))
        },
    )
}

/// The devices of one kind that the specifications of a folder describe. What two of them describe is none, as for the
/// runtime.
fn of_folder(scan: &Scan<'_>, folder: &Path, kind: &str) -> BTreeMap<String, Device> {
    let (mut devices, mut twice) = (BTreeMap::new(), BTreeSet::new());
    let files = names(folder).into_iter().filter(|name| {
        let is_hidden = name.starts_with('.');
        !is_hidden
            && [".json", ".yaml"]
                .iter()
                .any(|ending| name.ends_with(ending))
    });
    for path in files
        .take(MOST_SPECIFICATIONS)
        .map(|name| folder.join(name))
    {
        let specification = match read(&path) {
            Ok(specification) => specification,
            Err(fault) => {
                scan.problem(format!(
                    "the CDI specification {} can't be used: {fault}; have its author mend it",
                    path.display()
                ));
                continue;
            }
        };
        if specification.kind != kind {
            continue;
        }
        for device in specification.devices.unwrap_or_default() {
            let name = device.name.clone();
            if !is_name(&name) {
                scan.problem(format!(
                    "the CDI specification {} has a device called {name:?}, which is no name in CDI",
                    path.display()
                ));
            } else if devices.insert(name.clone(), device).is_some() {
                scan.problem(format!(
                    "{kind}={name} is described twice in {}, so that no runtime gives it; remove one of the two",
                    folder.display()
                ));
                twice.insert(name);
            }
        }
    }
    devices.retain(|name, _| !twice.contains(name));
    devices
}

fn read(path: &Path) -> Result<Specification, String> {
    let bytes = bounded(path, MOST_BYTES).ok_or("it can't be read")?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MOST_BYTES) {
        return Err(format!("it has more than {} KiB", MOST_BYTES >> 10));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it isn't UTF-8")?;
    let specification: Specification = match path.extension().is_some_and(|end| end == "json") {
        true => serde_json::from_str(&text).map_err(|error| error.to_string())?,
        false => {
            let read = serde_saphyr::from_str(&text);
            read.map_err(|error| error.render().lines().next().unwrap_or_default().to_owned())?
        }
    };
    let major = specification.cdi_version.split('.').next();
    match major {
        Some("0" | "1") => Ok(specification),
        _ => Err(format!(
            "its cdiVersion {:?} is none that is known",
            specification.cdi_version
        )),
    }
}

/// As the specification has it.
fn is_name(name: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(end)
        && name.ends_with(end)
        && name
            .chars()
            .all(|c| end(c) || matches!(c, '_' | '-' | '.' | ':'))
}

fn candidate(scan: &Scan<'_>, kind: &str, name: String, device: Device) -> Candidate {
    let nodes = device
        .container_edits
        .and_then(|edits| edits.device_nodes)
        .unwrap_or_default();
    let files: BTreeSet<_> = nodes
        .iter()
        .filter_map(|node| scan.file(node.host_path.as_deref().unwrap_or(&node.path)))
        .collect();
    let whole = format!("{kind}={name}");
    Candidate {
        folders: files
            .iter()
            .filter_map(|file| scan.folder_of(file))
            .collect(),
        key: Some(whole.clone()),
        fields: [("name", name), ("cdi", whole)]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        files: match nodes.is_empty() {
            true => Files::Never,
            false => Files::These(files.into_iter().collect()),
        },
    }
}
