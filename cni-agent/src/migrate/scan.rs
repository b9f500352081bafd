//! Reads the node: files below a root, links, routes and chains of this process's network namespace.

use super::{finding::Finding, recognise};
use crate::netlink::foreign;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Everything found, in the order of removal.
///
/// # Errors
/// What can't be read, with its path: half a look would be taken for a clean node.
pub fn scan(root: &Path) -> Result<Vec<Finding>, String> {
    let mut found = Vec::new();
    for path in entries(&root.join("etc/cni/net.d"))? {
        if path.is_file() {
            // One that is no text is no configuration.
            let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            found.extend(recognise::config(&path, &String::from_utf8_lossy(&text)));
        }
    }
    for path in entries(&root.join("opt/cni/bin"))? {
        found.extend(recognise::binary(&path));
    }
    for path in entries(&root.join("var/lib/cni/networks"))? {
        found.extend(recognise::records(&path));
    }
    found.extend(folders(root)?);
    let fault = |error: crate::netlink::NetlinkError| error.to_string();
    let links = foreign::links().map_err(fault)?;
    found.extend(links.values().filter_map(recognise::link));
    for route in foreign::routes().map_err(fault)? {
        let device = route.ifindex.and_then(|index| links.get(&index));
        found.extend(recognise::route(&route, device.map(|l| l.name.as_str())));
    }
    let chains = foreign::chains().map_err(fault)?;
    found.extend(chains.iter().filter_map(|(t, c)| recognise::chain(t, c)));
    // Absent where the kernel has no legacy iptables.
    let legacy = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    let untold = recognise::untold(&found, &legacy);
    found.extend(untold);
    found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(found)
}

fn folders(root: &Path) -> Result<Vec<Finding>, String> {
    let root = root
        .canonicalize()
        .map_err(|e| format!("--root {}: {e}", root.display()))?;
    let (mut found, mut seen) = (Vec::new(), Vec::new());
    for (folder, made_by) in recognise::FOLDERS {
        let path = root.join(folder);
        // /var/run is /run on most nodes. Where the root is a mount, such a link leads out of it: what is
        // there is not the node's.
        let Ok(real) = path.canonicalize() else {
            continue;
        };
        if real.starts_with(&root) && !seen.contains(&real) {
            found.push(recognise::folder(&real, made_by));
            seen.push(real);
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let fault = |e: io::Error| format!("{}: {e}", folder.display());
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(fault(e)),
        Ok(list) => list
            .map(|entry| entry.map(|e| e.path()).map_err(fault))
            .collect(),
    }
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
        let found = folders(root.path()).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].name.ends_with("/run/calico"), "{found:?}");
        let error = folders(Path::new("/nowhere")).unwrap_err();
        assert!(error.starts_with("--root /nowhere"), "{error}");
    }
}
