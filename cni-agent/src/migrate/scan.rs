//! Reads the node: files below a root, links, routes and chains of this process's network namespace.

use super::{
    finding::{Finding, Removal},
    place::{Root, mounts_in},
    recognise,
};
use crate::netlink::foreign;
use std::{fs, path::Path};

/// Everything found, in the order of removal.
///
/// # Errors
/// What can't be read, with its path: half a look would be taken for a clean node.
pub fn scan(root: &Path) -> Result<Vec<Finding>, String> {
    let (mut found, root) = (Vec::new(), Root::open(root)?);
    let mut host_ports_are_ours = false;
    for path in root.entries("etc/cni/net.d")? {
        if let Some(text) = root.text(&path)? {
            found.extend(recognise::config(&path, &text));
            host_ports_are_ours |= recognise::chains_portmap(&path, &text);
        }
    }
    for path in root.entries("opt/cni/bin")? {
        found.extend(recognise::binary(&path));
    }
    for path in root.entries("var/lib/cni/networks")? {
        found.extend(recognise::records(&path));
    }
    found.extend(folders(&root)?);
    let fault = |error: crate::netlink::NetlinkError| error.to_string();
    let links = foreign::links().map_err(fault)?;
    found.extend(links.values().filter_map(recognise::link));
    for route in foreign::routes().map_err(fault)? {
        let device = route.ifindex.and_then(|index| links.get(&index));
        found.extend(recognise::route(&route, device.map(|l| l.name.as_str())));
    }
    let chains = foreign::chains().map_err(fault)?;
    let others = chains
        .iter()
        .filter(|chain| !(host_ports_are_ours && recognise::is_of_portmap(chain)));
    found.extend(others.filter_map(recognise::chain));
    // Absent where the kernel has no legacy iptables.
    let legacy = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    let untold = recognise::untold(&found, &legacy);
    found.extend(untold);
    found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    // A table that goes as a whole is told once.
    found.dedup();
    Ok(found)
}

fn folders(root: &Root) -> Result<Vec<Finding>, String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    let (mut found, mut seen) = (Vec::new(), Vec::new());
    for (folder, made_by) in recognise::FOLDERS {
        // /var/run is /run on most nodes.
        let Some(real) = root.real(folder)? else {
            continue;
        };
        if seen.contains(&real) {
            continue;
        }
        let mut finding = recognise::folder(&real, made_by);
        // What is mounted there is not the folder's: control groups, maps, a disk of its own.
        let inside = mounts_in(&mounts, &real);
        if !inside.is_empty() {
            let command = format!("umount {}; then clean again", inside.join(" "));
            finding.removal = Removal::ByHand(command);
        }
        found.push(finding);
        seen.push(real);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_out_of_the_root_is_not_followed_and_one_inside_counts_once() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path().join("run/calico")).unwrap();
        fs::create_dir_all(other.path().join("calico")).unwrap();
        fs::create_dir(root.path().join("var")).unwrap();
        symlink("../run", root.path().join("var/run")).unwrap();
        symlink(other.path(), root.path().join("etc")).unwrap();
        let found = folders(&Root::open(root.path()).unwrap()).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].name.ends_with("/run/calico"), "{found:?}");
    }
}
