//! The plugin `loopback`, which containerd runs for each pod: a copy of ours under that name, where the
//! node has none. One of others is never replaced nor removed.

use super::folder::Folder;
use std::io;

/// The file's name, by which a runtime calls it.
pub(super) const LOOPBACK: &str = "loopback";
/// What the plugin says of itself, in every release: a copy of it is known by that. A link would not need
/// it, but installers that write through a link would write into our plugin.
const MARK: &[u8] = b"CNI plugin fairlead-cni v";

fn is_ours(program: &[u8]) -> bool {
    program.windows(MARK.len()).any(|words| words == MARK)
}

/// Whether the folder holds one: ours, somebody else's, or none.
fn found(folder: &Folder) -> io::Result<Option<bool>> {
    match folder.read(LOOPBACK) {
        Ok(Some((program, _))) => Ok(Some(is_ours(&program))),
        // Ours can always be read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Some(false)),
        Err(error) => Err(error),
        // A link is somebody else's, wherever it leads.
        Ok(None) => {
            let there = folder.names()?.iter().any(|name| name == LOOPBACK);
            Ok(there.then_some(false))
        }
    }
}

/// Puts `plugin` there as loopback, unless there is one of others. Tells whether there was anything to
/// do.
///
/// # Errors
/// Those of the folder.
pub(super) fn put(folder: &Folder, plugin: &[u8]) -> io::Result<bool> {
    // What could not be known again would never be removed.
    if !is_ours(plugin) || found(folder)? == Some(false) {
        return Ok(false);
    }
    folder.put(LOOPBACK, plugin, 0o755)
}

/// Removes ours. Tells whether it was (with `dry_run`: is) there.
///
/// # Errors
/// Those of the folder.
pub(super) fn remove(folder: &Folder, dry_run: bool) -> io::Result<bool> {
    if found(folder)? != Some(true) {
        return Ok(false);
    }
    if dry_run {
        return Ok(true);
    }
    folder.remove(LOOPBACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    const OURS: &[u8] = b"\x7fELF CNI plugin fairlead-cni v0.2.0: hands";

    #[test]
    fn ours_comes_is_renewed_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(put(&folder, OURS).unwrap());
        assert!(!put(&folder, OURS).unwrap());
        let newer = [OURS, b" of a new release"].concat();
        assert!(put(&folder, &newer).unwrap());
        assert!(remove(&folder, true).unwrap() && remove(&folder, false).unwrap());
        assert!(!remove(&folder, false).unwrap());
    }

    #[test]
    fn one_of_others_stays_as_it_is_also_as_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let path = dir.path().join(LOOPBACK);
        fs::write(&path, "of the distribution").unwrap();
        assert!(!put(&folder, OURS).unwrap() && !remove(&folder, false).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"of the distribution");
        fs::remove_file(&path).unwrap();
        symlink("/usr/lib/cni/loopback", &path).unwrap();
        assert!(!put(&folder, OURS).unwrap() && !remove(&folder, false).unwrap());
        assert!(path.is_symlink());
    }

    #[test]
    fn the_plugin_still_says_what_a_copy_is_known_by() {
        let source = include_str!("../../../cni-shim/src/main.rs");
        assert!(is_ours(source.as_bytes()));
        assert!(!is_ours(b"CNI loopback plugin v1.9.1"));
    }
}
