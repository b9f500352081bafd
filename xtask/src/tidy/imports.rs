//! The wall between decisions and effects: what the pure folders may not use.

use super::{File, Finding, source};
use std::collections::BTreeMap;

/// Folders and files whose code turns values into values.
const PURE: [&str; 51] = [
    "cni-ebpf-common/src/",
    "cni-agent/src/balancer/duty.rs",
    "cni-agent/src/balancer/pool.rs",
    "cni-agent/src/csi/backend/choice.rs",
    "cni-agent/src/csi/cluster/attachment.rs",
    "cni-agent/src/csi/cluster/capacity.rs",
    "cni-agent/src/csi/cluster/claim.rs",
    "cni-agent/src/csi/cluster/content.rs",
    "cni-agent/src/csi/cluster/growth.rs",
    "cni-agent/src/csi/cluster/modification.rs",
    "cni-agent/src/csi/cluster/plan.rs",
    "cni-agent/src/csi/cluster/quantity.rs",
    "cni-agent/src/csi/cluster/reclaim.rs",
    "cni-agent/src/csi/cluster/source.rs",
    "cni-agent/src/csi/cluster/words.rs",
    "cni-agent/src/csi/cluster/work.rs",
    "cni-agent/src/csi/limits.rs",
    "cni-agent/src/csi/records.rs",
    "cni-agent/src/csi/request.rs",
    "cni-agent/src/csi/trouble.rs",
    "cni-agent/src/device/allocate.rs",
    "cni-agent/src/device/config/entry.rs",
    "cni-agent/src/device/config/fields.rs",
    "cni-agent/src/device/config/finder.rs",
    "cni-agent/src/device/config/give.rs",
    "cni-agent/src/device/config/mod.rs",
    "cni-agent/src/device/config/preset.rs",
    "cni-agent/src/device/config/problem.rs",
    "cni-agent/src/device/config/reader.rs",
    "cni-agent/src/device/config/words.rs",
    "cni-agent/src/device/damping.rs",
    "cni-agent/src/device/dra/claim.rs",
    "cni-agent/src/device/dra/diff.rs",
    "cni-agent/src/device/dra/slices.rs",
    "cni-agent/src/device/found.rs",
    "cni-agent/src/device/inventory.rs",
    "cni-agent/src/device/name.rs",
    "cni-agent/src/device/nearest.rs",
    "cni-agent/src/device/pattern.rs",
    "cni-agent/src/device/plan.rs",
    "cni-agent/src/device/prefer.rs",
    "cni-agent/src/device/presets/",
    "cni-agent/src/device/rows.rs",
    "cni-agent/src/device/template.rs",
    "cni-agent/src/model/",
    "cni-agent/src/ipam/",
    "cni-agent/src/install/conflist.rs",
    "cni-agent/src/network/desired.rs",
    "cni-agent/src/service/",
    "cni-agent/src/source/convert/",
    "cni-agent/src/yaml.rs",
];

/// What reaches the kernel, the disk, the clock, other processes or the cluster.
const EFFECTS: [&str; 22] = [
    "aya",
    "kube",
    "libc",
    "notify",
    "redb",
    "rtnetlink",
    "rustix",
    "tokio",
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime",
    "crate::datapath",
    "crate::netlink",
    "crate::store",
];

/// `aya::Pod` is only a promise about bytes.
const ALLOWED: [(&str, &str); 1] = [("cni-ebpf-common/src/", "aya::Pod")];

pub(super) fn check(file: &File, findings: &mut Vec<Finding>) {
    if !PURE.iter().any(|pure| file.path.starts_with(pure)) || !source::is_product(&file.path) {
        return;
    }
    for (line, path) in paths(source::without_tests(&file.text)) {
        let allowed = ALLOWED
            .iter()
            .any(|(folder, one)| file.path.starts_with(folder) && begins_with(&path, one));
        let effect = EFFECTS.iter().find(|effect| begins_with(&path, effect));
        if let (Some(effect), false) = (effect, allowed) {
            let what = format!("pure code uses {effect} ({path}); effects belong to the rims");
            findings.push(Finding::new(&file.path, line, what));
        }
    }
}

/// The list of pure places must not outlive them.
pub(super) fn check_list(files: &[File], findings: &mut Vec<Finding>) {
    for pure in PURE {
        if !files.iter().any(|file| file.path.starts_with(pure)) {
            let what = format!("{pure} is listed as pure and is not there");
            let place = "xtask/src/tidy/imports.rs";
            findings.push(Finding {
                mild: true,
                ..Finding::new(place, 1, what)
            });
        }
    }
}

fn begins_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// All paths in the code with their lines: those of `use` trees spelt out, and those in between, which
/// may begin with an imported name.
fn paths(code: &str) -> Vec<(usize, String)> {
    let (mut found, mut imports, mut inlines) = (Vec::new(), BTreeMap::new(), Vec::new());
    let mut tree: Option<(usize, String)> = None;
    for (index, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if tree.is_none() {
            match use_tree(line) {
                Some(start) => tree = Some((index + 1, start.to_owned())),
                None => inlines.extend(inline(line).map(|path| (index + 1, path))),
            }
        } else if let Some((_, text)) = &mut tree {
            text.push_str(line);
        }
        if tree.as_ref().is_some_and(|(_, text)| text.contains(';'))
            && let Some((line, text)) = tree.take()
        {
            let text = text.split(';').next().unwrap_or_default();
            expand("", text, &mut |path, name| {
                imports.insert(name.to_owned(), path.clone());
                found.push((line, path));
            });
        }
    }
    found.extend(inlines.into_iter().map(|(line, path)| {
        let (first, rest) = path.split_once("::").unwrap_or((path, ""));
        let whole = match imports.get(first) {
            Some(import) => format!("{import}::{rest}"),
            None => path.to_owned(),
        };
        (line, whole)
    }));
    found.sort_by_key(|(line, _)| *line);
    found
}

/// What follows `use`, when the line begins an import.
fn use_tree(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) => match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1.trim_start(),
            None => rest.trim_start(),
        },
        None => line,
    };
    line.strip_prefix("use ")
}

/// Paths of at least two segments in a line of code.
fn inline(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c))
        .filter(|p| p.contains("::"))
}

/// Spells out `a::{b, c::d as e}` as `a::b` and `a::c::d`, with the names `b` and `e`.
fn expand(prefix: &str, tree: &str, found: &mut impl FnMut(String, &str)) {
    let tree = tree.trim();
    let (head, group) = match tree.split_once('{') {
        Some((head, group)) => (head, group.trim_end().trim_end_matches('}')),
        None => {
            let (path, alias) = match tree.split_once(" as ") {
                Some((path, alias)) => (path, Some(alias.trim())),
                None => (tree, None),
            };
            if !path.is_empty() {
                let whole = format!("{prefix}{path}");
                let whole = whole.trim_end_matches("::*").trim_end_matches("::self");
                let last = whole.rsplit("::").next().unwrap_or_default();
                found(whole.to_owned(), alias.unwrap_or(last));
            }
            return;
        }
    };
    // `group` lost all closing braces at its end; those of inner groups are put back.
    let open = group
        .matches('{')
        .count()
        .saturating_sub(group.matches('}').count());
    let group = format!("{group}{}", "}".repeat(open));
    let prefix = format!("{prefix}{head}");
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&prefix, &group[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    expand(&prefix, &group[start..], found);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_spelt_out() {
        for (code, expected) in [
            ("use std::fs;", &["std::fs"][..]),
            (
                "pub(crate) use std::{io as x, fs::File};",
                &["std::io", "std::fs::File"],
            ),
            (
                "use a::{\n    b::{c, d},\n    e::{f, g::{h}},\n};",
                &["a::b::c", "a::b::d", "a::e::f", "a::e::g::h"],
            ),
            ("let x = tokio::spawn(y);", &["tokio::spawn"]),
            ("// tokio::spawn would be wrong", &[]),
            (
                "use std::time::{self, Instant as Clock};\nlet a = Clock::now();\ntime::sleep();",
                &[
                    "std::time",
                    "std::time::Instant",
                    "std::time::Instant::now",
                    "std::time::sleep",
                ],
            ),
        ] {
            let found: Vec<_> = paths(code).into_iter().map(|(_, path)| path).collect();
            assert_eq!(found, expected, "{code}");
        }
    }

    #[test]
    fn an_effect_in_a_pure_file_is_found_with_its_line() {
        let file = |path: &str, text: &str| File {
            path: path.into(),
            text: text.into(),
        };
        let check = |path: &str, text: &str| {
            let mut findings = Vec::new();
            check(&file(path, text), &mut findings);
            findings.len()
        };
        let effect = "//! x\nuse std::{collections::BTreeMap, fs};\n";
        assert_eq!(check("cni-agent/src/ipam/pool.rs", effect), 1);
        assert_eq!(
            check("cni-agent/src/netlink/link.rs", effect),
            0,
            "a rim may"
        );
        assert_eq!(check("cni-agent/src/ipam/tests.rs", effect), 0, "tests may");
        let clock = "//! x\nuse std::time::Instant;\nfn a() { Instant::now(); }\n";
        assert_eq!(check("cni-agent/src/ipam/pool.rs", clock), 1);
        let handed_in = "//! x\nuse std::time::Instant;\nfn a(now: Instant) {}\n";
        assert_eq!(check("cni-agent/src/ipam/pool.rs", handed_in), 0);
        let in_tests = "//! x\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(check("cni-agent/src/ipam/pool.rs", in_tests), 0);
        assert_eq!(
            check("cni-ebpf-common/src/node.rs", "impl aya::Pod for X {}"),
            0
        );
        assert_eq!(
            check(
                "cni-agent/src/model/node.rs",
                "fn a(x: std::net::IpAddr) {}"
            ),
            0
        );
        assert_eq!(
            check("cni-agent/src/model/node.rs", "ayab::c();"),
            0,
            "only whole names"
        );
    }
}
