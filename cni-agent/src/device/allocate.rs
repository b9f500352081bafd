//! PURE: what a container is given with the devices that it got.

use super::{
    found::DeviceFile,
    inventory::{Item, Offer},
    name::DeviceId,
    plan::Permissions,
    template::Template,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// In the name of a variable: which of the container's devices it is about, from 0.
const INDEX: &str = "{index}";

/// What the container gets; the same paths in it are there once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub environment: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// By path in the container.
    pub nodes: BTreeMap<String, GivenNode>,
    /// By path in the container.
    pub mounts: BTreeMap<String, GivenMount>,
    /// Names of CDI devices, in order, each once.
    pub cdi: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenNode {
    pub host: PathBuf,
    pub permissions: Permissions,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenMount {
    pub host: String,
    pub readonly: bool,
}

/// Why it can't be given, worded for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Unknown(String),
    /// It is known, and can't be had now.
    NotNow(String),
}

/// What is there on the node, asked while a container waits.
pub(super) struct Node<'a> {
    pub exists: &'a dyn Fn(&Path) -> bool,
    pub random: &'a dyn Fn() -> String,
}

/// What a container gets with these devices of a resource.
///
/// # Errors
/// An id that isn't known, a device that isn't healthy, one that lacks what it should be given with.
pub(super) fn plan(offer: &Offer, ids: &[DeviceId], node: &Node<'_>) -> Result<Given, Refused> {
    let mut given = Given::default();
    let mut done: Vec<&str> = Vec::new();
    for id in ids {
        let name = &offer.rule.name;
        let item = offer.passing(id).ok_or_else(|| {
            Refused::Unknown(format!(
                "{name} has no device {id}: it isn't known on this node any more"
            ))
        })?;
        if let Some(reason) = item.reason() {
            return Err(Refused::NotNow(format!("device {id} of {name}: {reason}")));
        }
        // Another share of the same.
        if done.contains(&&*item.key) {
            continue;
        }
        done.push(&item.key);
        give(&mut given, offer, item, done.len() - 1, node)
            .map_err(|reason| Refused::NotNow(format!("device {id} of {name}: {reason}")))?;
    }
    Ok(given)
}

/// `index` counts the container's devices from 0.
fn give(
    given: &mut Given,
    offer: &Offer,
    item: &Item,
    index: usize,
    node: &Node<'_>,
) -> Result<(), String> {
    let give = &offer.rule.give;
    let fill = |template: &Template| fill(template, item, node);
    let path = |template: &Template| path(template, item);
    if !give.write_cdi {
        for DeviceFile { path, .. } in &item.files {
            let within = path.to_string_lossy().into_owned();
            add_node(given, within, path.clone(), give.permissions)?;
        }
    }
    for rule in &give.nodes {
        let Some(host) = there(path(&rule.path), rule.optional, node)? else {
            continue;
        };
        let within = match &rule.within {
            Some(within) => path(within)?,
            None => host.clone(),
        };
        add_node(given, within, host.into(), rule.permissions)?;
    }
    for rule in &give.mounts {
        let Some(host) = there(path(&rule.host), rule.optional, node)? else {
            continue;
        };
        let within = path(&rule.container)?;
        let mount = GivenMount {
            host,
            readonly: rule.readonly,
        };
        match given.mounts.get(&within) {
            Some(other) if *other != mount => {
                return Err(format!(
                    "{} and {} would both be mounted at {within}",
                    other.host, mount.host
                ));
            }
            _ => drop(given.mounts.insert(within, mount)),
        }
    }
    for (into, from) in [
        (&mut given.environment, &give.environment),
        (&mut given.annotations, &give.annotations),
    ] {
        for (name, template) in from {
            let (name, value) = (name.replace(INDEX, &index.to_string()), fill(template)?);
            // Several devices are told one after the other.
            into.entry(name)
                .and_modify(|text| {
                    if !text.split(',').any(|part| part == value) {
                        text.push(',');
                        text.push_str(&value);
                    }
                })
                .or_insert(value);
        }
    }
    for template in &give.cdi {
        let name = fill(template)?;
        if !given.cdi.contains(&name) {
            given.cdi.push(name);
        }
    }
    Ok(())
}

/// A path of the node; none where it may be missing and is.
fn there(
    path: Result<String, String>,
    optional: bool,
    node: &Node<'_>,
) -> Result<Option<String>, String> {
    match path {
        Ok(path) if (node.exists)(Path::new(&path)) => Ok(Some(path)),
        _ if optional => Ok(None),
        Ok(path) => Err(format!("{path} isn't there")),
        Err(why) => Err(why),
    }
}

/// What a device says of itself leads to no other place than the template's.
fn path(template: &Template, item: &Item) -> Result<String, String> {
    let unfit = |field| format!("it has no {field} that fits the path {template}");
    template.fill_path(&item.fields).map_err(unfit)
}

fn fill(template: &Template, item: &Item, node: &Node<'_>) -> Result<String, String> {
    let missing = |field| format!("it has no {field}, which {template} asks for");
    if !template.asks_for("random") {
        return template.fill(&item.fields).map_err(missing);
    }
    let mut fields = item.fields.clone();
    fields.insert("random".to_owned(), (node.random)());
    template.fill(&fields).map_err(missing)
}

fn add_node(
    given: &mut Given,
    within: String,
    host: PathBuf,
    permissions: Permissions,
) -> Result<(), String> {
    let node = GivenNode { host, permissions };
    match given.nodes.get(&within) {
        Some(other) if other.host != node.host => Err(format!(
            "{} and {} would both be {within} in the container",
            other.host.display(),
            node.host.display()
        )),
        _ => {
            given.nodes.insert(within, node);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
