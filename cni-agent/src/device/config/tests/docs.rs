//! What the documentation says can be written, can be written.

use super::{super::*, file};
use crate::device::{config::entry::KEYS, presets::PRESETS, template::FIELDS};
use std::{collections::BTreeSet, fs, path::PathBuf};

fn docs(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(path)
}

/// The configurations in a page: blocks that are indented and begin with `resources:` and an entry.
fn configurations(page: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut indent = None;
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let depth = line.len() - line.trim_start().len();
        if depth >= 4
            && line.trim() == "resources:"
            && lines
                .peek()
                .is_some_and(|next| next.trim().starts_with("- "))
        {
            indent = Some(depth);
            blocks.push(String::new());
        } else if !line.is_empty() && indent.is_some_and(|indent| depth < indent) {
            indent = None;
        }
        if let (Some(indent), Some(block)) = (indent, blocks.last_mut()) {
            block.push_str(line.get(indent..).unwrap_or_default());
            block.push('\n');
        }
    }
    blocks
}

fn check(name: &str, page: &str) -> usize {
    let configurations = configurations(page);
    for text in &configurations {
        if let Err(problems) = parse(&[file("x.yaml", text)], &[]) {
            panic!("{name}: {problems:#?} of\n{text}");
        }
    }
    configurations.len()
}

#[test]
fn every_key_and_field_is_documented_and_the_examples_are_whole() {
    let page = fs::read_to_string(docs("devices-configuration.md")).unwrap();
    assert!(check("devices-configuration.md", &page) > 5);
    for key in KEYS {
        assert!(page.contains(&format!("| `{key}` |")), "{key}");
    }
    for (field, _) in FIELDS {
        assert!(page.contains(&format!("`{{{field}}}`")), "{field}");
    }
}

#[test]
fn every_preset_has_a_page_whose_pod_asks_for_it() {
    let mut pages: BTreeSet<String> = fs::read_dir(docs("devices"))
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(pages.remove("README.md"));
    let index = fs::read_to_string(docs("devices/README.md")).unwrap();
    for (preset, _) in PRESETS {
        let page = format!("{preset}.md");
        assert!(pages.remove(&page), "{page}");
        let text = fs::read_to_string(docs("devices").join(&page)).unwrap();
        check(&page, &text);
        for rule in parse(&[], &[preset.to_owned()])
            .unwrap()
            .resources
            .into_values()
        {
            let name = rule.name.as_str();
            assert!(
                index.contains(&format!("`{name}`")),
                "the index lacks {name}"
            );
            assert!(text.contains(rule.name.short()), "{page} lacks {name}");
        }
        assert!(text.contains("limits: {"), "{page} has no pod");
    }
    assert!(pages.is_empty(), "pages of no preset: {pages:?}");
}
