//! PURE: what was found on the node becomes the devices of a resource: grouped, named, shared, and with what was there
//! before, so that one that is pulled out is told as unhealthy and is itself again when it comes back.

use super::{
    found::{DeviceFile, Found, Site},
    keys::{Present, settle},
    name::DeviceId,
    plan::Rule,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

/// Most devices of one resource: what the kubelet checkpoints at each change stays small.
const MOST: usize = 10_000;

/// Something that a container is given as one; `count` containers may have it at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    /// Stable name, which it keeps as long as it is there.
    pub key: String,
    /// What it would be called if nobody else were called alike; none: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is, to be told from others that are called alike; none: by its name alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<Site>,
    pub files: Vec<DeviceFile>,
    pub numa: Vec<u32>,
    /// What templates may ask for.
    pub fields: BTreeMap<String, String>,
    pub health: Health,
    /// What it should be given with and the node hasn't: nobody gets it until it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
}

impl Item {
    /// What it is called, or would be if nobody else were called alike.
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.key)
    }

    /// Has it be called by a key, whatever its name.
    pub(super) fn call(&mut self, key: String) {
        let name = std::mem::replace(&mut self.key, key);
        let name = self.name.take().unwrap_or(name);
        self.name = (name != self.key).then_some(name);
    }

    /// Whether it is where another was.
    pub(super) fn is_at_site_of(&self, other: &Self) -> bool {
        let is_its = |site: &Site| other.sites.iter().any(|other| other.name == site.name);
        match (&*self.sites, &*other.sites) {
            ([], []) => true,
            (sites, _) => sites.iter().any(is_its),
        }
    }

    /// Whether it isn't there any more.
    pub(super) fn is_gone(&self) -> bool {
        self.health.gone_since().is_some()
    }

    /// Whether a container may get it.
    pub(super) fn is_healthy(&self) -> bool {
        self.health == Health::Healthy && self.lacks.is_none()
    }

    /// Why not.
    pub(super) fn reason(&self) -> Option<&str> {
        self.health.reason().or(self.lacks.as_deref())
    }
}

/// How an item is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub(super) enum Health {
    #[default]
    Healthy,
    /// It is there and doesn't work; since when, Unix time in seconds.
    Unhealthy { reason: String, since: u64 },
    /// It isn't there any more.
    Gone { since: u64 },
}

impl Health {
    /// Why a container may not get it.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Healthy => None,
            Self::Unhealthy { reason, .. } => Some(reason),
            Self::Gone { .. } => {
                Some("it isn't there any more: it was unplugged, or its driver let go of it")
            }
        }
    }

    /// Since when it isn't there any more.
    fn gone_since(&self) -> Option<u64> {
        match self {
            Self::Gone { since } => Some(*since),
            _ => None,
        }
    }

    /// Since when it is not, Unix time in seconds.
    pub(super) fn since(&self) -> Option<u64> {
        match self {
            Self::Healthy => None,
            Self::Unhealthy { since, .. } | Self::Gone { since } => Some(*since),
        }
    }
}

/// One resource as the kubelet is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub rule: Arc<Rule>,
    pub items: Vec<Item>,
    /// Where each device is among the items, and which share of it.
    pub devices: BTreeMap<DeviceId, Place>,
    /// Devices that were told of a moment ago: who asks for them gets them. The example's alone.
    pub passing: Vec<Item>,
}

/// Which item a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub item: usize,
    pub share: u32,
}

impl Offer {
    /// Of a resource with these items.
    pub(super) fn new(rule: Arc<Rule>, items: Vec<Item>) -> Self {
        let mut devices = BTreeMap::new();
        // By a count that has just grown they may be too many until the next look.
        let most = most(&rule);
        for (item, of) in items.iter().enumerate().take(most) {
            for share in 0..rule.count {
                let id = id_of(&rule, &of.key, share);
                devices.entry(id).or_insert(Place { item, share });
            }
        }
        Self {
            rule,
            items,
            devices,
            passing: Vec::new(),
        }
    }

    /// The item of a device.
    pub(super) fn item(&self, id: &DeviceId) -> Option<&Item> {
        let place = self.devices.get(id)?;
        self.items.get(place.item)
    }

    /// The item of a device that may be given now.
    pub(super) fn passing(&self, id: &DeviceId) -> Option<&Item> {
        let is_it = |item: &&Item| id_of(&self.rule, &item.key, 0) == *id;
        self.item(id).or_else(|| self.passing.iter().find(is_it))
    }
}

/// Most items of a resource.
fn most(rule: &Rule) -> usize {
    MOST / rule.count.max(1) as usize
}

/// The id of a share; one that isn't shared has none.
pub(super) fn id_of(rule: &Rule, key: &str, share: u32) -> DeviceId {
    DeviceId::new(key, (rule.count > 1).then_some(share))
}

/// What the node says of itself.
pub(super) struct Witness<'a> {
    /// Whether something is at a path.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// Whether what was at a place has been there all the time.
    pub is_there: &'a dyn Fn(&Site) -> bool,
}

/// What was found, as the items of a resource, and what is wrong with it, worded for people. Those that were there
/// `before` keep their keys.
pub(super) fn items(
    rule: &Rule,
    found: Vec<Found>,
    before: &[Item],
    node: &Witness<'_>,
) -> (Vec<Item>, Vec<String>) {
    let mut problems = Vec::new();
    let mut groups: BTreeMap<String, Item> = BTreeMap::new();
    for one in found {
        let (key, name) = match &rule.group_by {
            None => (one.key.clone(), one.name.clone()),
            Some(group) => match group.fill(&one.fields) {
                Ok(value) => (value.clone(), value),
                Err(field) => {
                    problems.push(format!(
                        "{} has no {field}, which groupBy asks for: it is left out; give another groupBy, or find fewer",
                        one.key
                    ));
                    continue;
                }
            },
        };
        let item = groups.entry(key.clone()).or_insert_with(|| Item {
            name: (name != key).then_some(name),
            key,
            ..Item::default()
        });
        join(item, rule, one);
    }
    let mut now: Vec<Present> = Vec::new();
    for (group, mut item) in groups {
        // The one of a group is where its members are.
        let site = item.sites.first().filter(|_| rule.group_by.is_none());
        let mut otherwise = site.map(|site| site.name.clone());
        if let Some(id) = &rule.id {
            match id.fill(&item.fields) {
                Ok(name) => {
                    item.name = None;
                    item.key = name;
                    otherwise = Some(group);
                }
                Err(field) => problems.push(format!(
                    "{group} has no {field}, which id asks for: it is called {group}"
                )),
            }
        }
        now.push(Present {
            item,
            otherwise,
            is_known: false,
        });
    }
    settle(&mut now, before, node.is_there);
    if rule.id.is_some() {
        problems.extend(alike(&now));
    }
    let most = most(rule);
    if now.len() > most {
        problems.push(format!(
            "{} devices of {} are more than the {MOST} that a resource may have: the first {most} are taken; find fewer, or lower count",
            now.len() * rule.count as usize,
            rule.name
        ));
        // Those that containers may have come first.
        now.sort_by_key(|present| !present.is_known);
        now.truncate(most);
    }
    let finish = |Present { mut item, .. }: Present| {
        let id = id_of(rule, &item.key, 0);
        item.fields.insert("id".to_owned(), id.as_str().to_owned());
        if let Some(numa) = &rule.numa {
            item.numa.clone_from(numa);
        }
        item.lacks = lacks(rule, &item, node.exists);
        item
    };
    let mut items: Vec<Item> = now.into_iter().map(finish).collect();
    items.sort_by(|a, b| a.key.cmp(&b.key));
    (items, problems)
}

/// What `id` calls alike.
fn alike(now: &[Present]) -> Vec<String> {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Present { item, .. } in now {
        names.entry(item.name()).or_default().push(&item.key);
    }
    let several = names.into_iter().filter(|(_, keys)| keys.len() > 1);
    let problem = |(name, keys): (&str, Vec<&str>)| {
        format!(
            "{} devices are called {name:?} by id: who was there first is, the others are {}; give an id that tells them apart",
            keys.len(),
            keys.into_iter()
                .filter(|key| *key != name)
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    several.map(problem).collect()
}

/// A container sees only what is mounted into it.
const SEEN: &str = "; an agent in a container has to have its folder mounted at the same path (Helm: devices.hostPaths)";

/// What has to go with it and isn't there.
fn lacks(rule: &Rule, item: &Item, exists: &dyn Fn(&Path) -> bool) -> Option<String> {
    let nodes = rule
        .give
        .nodes
        .iter()
        .map(|node| (&node.path, node.optional, ""));
    let mounts = rule
        .give
        .mounts
        .iter()
        .map(|mount| (&mount.host, mount.optional, SEEN));
    let needed = nodes.chain(mounts).filter(|(_, optional, _)| !optional);
    needed
        .map(|(path, _, seen)| match path.fill_path(&item.fields) {
            Ok(path) if exists(Path::new(&path)) => None,
            Ok(path) => Some(format!("{path}, which it is given with, isn't there{seen}")),
            Err(field) => Some(format!("it has no {field} that fits the path {path}")),
        })
        .find_map(|lack| lack)
}

/// Puts what was found into its group.
fn join(item: &mut Item, rule: &Rule, found: Found) {
    let is_given = |file: &DeviceFile| {
        let below = file.path.strip_prefix("/dev").unwrap_or(&file.path);
        let own = &rule.give.own;
        own.is_empty()
            || own
                .iter()
                .any(|pattern| pattern.is_like_path(&below.to_string_lossy()))
    };
    let files: BTreeSet<DeviceFile> = std::mem::take(&mut item.files)
        .into_iter()
        .chain(found.files.into_iter().filter(is_given))
        .collect();
    item.files = files.into_iter().collect();
    item.sites.extend(found.site);
    let numa: BTreeSet<u32> = item.numa.iter().copied().chain(found.numa).collect();
    item.numa = numa.into_iter().collect();
    for (name, value) in found.fields {
        item.fields.entry(name).or_insert(value);
    }
}

/// What was there before and what is there now. One that has gone stays, as gone, until `forget` seconds are over; how one
/// was that is still there, it stays until it is looked at. Of more than a resource may have, those are forgotten that went
/// first.
pub(super) fn merge(before: &[Item], now: Vec<Item>, at: u64, rule: &Rule) -> Vec<Item> {
    let forget = rule.health.forget.as_secs();
    let known: BTreeMap<&str, &Item> = before.iter().map(|item| (&*item.key, item)).collect();
    let here: BTreeSet<String> = now.iter().map(|item| item.key.clone()).collect();
    let mut merged: Vec<Item> = now
        .into_iter()
        .map(|mut item| {
            item.health = match known.get(&*item.key).map(|known| &known.health) {
                Some(unhealthy @ Health::Unhealthy { .. }) => unhealthy.clone(),
                _ => Health::Healthy,
            };
            item
        })
        .collect();
    let gone = before.iter().filter(|item| !here.contains(&item.key));
    let mut gone: Vec<(u64, &Item)> = gone
        .map(|item| (item.health.gone_since().unwrap_or(at), item))
        .filter(|(since, _)| at.saturating_sub(*since) < forget)
        .collect();
    gone.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
    gone.truncate(most(rule).saturating_sub(merged.len()));
    merged.extend(gone.into_iter().map(|(since, item)| Item {
        health: Health::Gone { since },
        ..item.clone()
    }));
    merged.sort_by(|a, b| a.key.cmp(&b.key));
    merged
}

#[cfg(test)]
mod tests;
