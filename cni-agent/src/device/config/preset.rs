//! PURE: presets in the entries of `resources`: what an entry says is in place of what the preset says of it.

use super::{Entry, documents, entry, reader::At, words};
use crate::{
    device::{
        nearest::nearest,
        presets::{self, PRESETS},
    },
    yaml::{Branch, Tree},
};

/// The rules of an entry: one, or those of a preset with several.
pub(super) fn entry(at: &At<'_>, entries: &mut Vec<Entry>) {
    let Branch::Map(own) = &at.tree().branch else {
        // Says what is to be written in its place.
        at.fields(&entry::KEYS);
        return;
    };
    let Some((_, preset)) = own.iter().find(|(key, _)| key == "preset") else {
        return take(at, at.place(), entries);
    };
    let line = preset.named;
    let Some(name) = at
        .fields(&entry::KEYS)
        .and_then(|fields| fields.get("preset"))
    else {
        return;
    };
    // Keys that nobody knows are told above; they would be told again for each document of the preset.
    let own: Vec<(String, Tree)> = own
        .iter()
        .filter(|(key, _)| entry::KEYS.contains(&key.as_str()))
        .cloned()
        .collect();
    let Some(word) = name.text(words::LONGEST_NAME) else {
        return;
    };
    let Some(bases) = name.sound(find(word)) else {
        return;
    };
    let has_name = own.iter().any(|(key, _)| key == "name");
    if bases.len() > 1 && has_name {
        let each: Vec<String> = bases
            .iter()
            .map(|base| format!("{word}/{}", short(base)))
            .collect();
        name.fault(format!("{word} has several resources, and one name is written; write preset: {}, or remove the name", each.join(" or ")));
        return;
    }
    let origin = match at.line() {
        Some(_) => format!("{} (preset {word})", at.place()),
        None => format!("{} {word}", at.place()),
    };
    for base in bases {
        let tree = written_over(&base, &own, line);
        take(&at.with(&tree), origin.clone(), entries);
    }
}

fn take(at: &At<'_>, origin: String, entries: &mut Vec<Entry>) {
    if let Some(rule) = entry::rule(at, &origin) {
        entries.push(Entry {
            rule,
            name: at.named(),
        });
    }
}

/// The documents of a preset: all, or one by `preset/short-name`.
fn find(word: &str) -> Result<Vec<Tree>, String> {
    let (preset, one) = match word.split_once('/') {
        Some((preset, one)) => (preset, Some(one)),
        None => (word, None),
    };
    let Some(text) = presets::text(preset) else {
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        let near = nearest(preset, &names).map(|near| format!("write {near}; "));
        return Err(format!(
            "{preset:?} is no preset; {}there are {}",
            near.unwrap_or_default(),
            names.join(", ")
        ));
    };
    let all: Vec<Tree> = documents(text).into_iter().filter_map(Result::ok).collect();
    let Some(one) = one else {
        return Ok(all);
    };
    let shorts: Vec<String> = all
        .iter()
        .map(|tree| format!("{preset}/{}", short(tree)))
        .collect();
    let found: Vec<Tree> = all.into_iter().filter(|tree| short(tree) == one).collect();
    match found.is_empty() {
        true => Err(format!(
            "preset {preset} has no {one:?}; write {}",
            shorts.join(" or ")
        )),
        false => Ok(found),
    }
}

/// The name of a preset's resource without its domain.
fn short(base: &Tree) -> &str {
    let name = base.text("name").unwrap_or_default();
    name.rsplit('/').next().unwrap_or_default()
}

/// The preset, with each key that the entry has in place of its own. What is of the preset stands where it is named.
fn written_over(base: &Tree, own: &[(String, Tree)], line: u64) -> Tree {
    let mut keys = Vec::new();
    if let Branch::Map(map) = &base.branch {
        let kept = map
            .iter()
            .filter(|(key, _)| !own.iter().any(|(name, _)| name == key));
        keys.extend(kept.map(|(key, tree)| (key.clone(), placed(tree, line))));
    }
    keys.extend(own.iter().filter(|(key, _)| key != "preset").cloned());
    Tree {
        line,
        named: line,
        branch: Branch::Map(keys),
    }
}

fn placed(tree: &Tree, line: u64) -> Tree {
    let branch = match &tree.branch {
        Branch::Map(map) => Branch::Map(
            map.iter()
                .map(|(key, tree)| (key.clone(), placed(tree, line)))
                .collect(),
        ),
        Branch::List(items) => Branch::List(items.iter().map(|tree| placed(tree, line)).collect()),
        Branch::Leaf(value) => Branch::Leaf(value.clone()),
    };
    Tree {
        line,
        named: line,
        branch,
    }
}
