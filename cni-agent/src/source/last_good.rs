//! Copies of each manifest's last whole content: a file that is broken when the agent starts still
//! has one, so that an upgrade beside a typo removes nothing that worked.

use crate::private_file;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

/// The folder of copies, root's alone: manifests may hold secrets.
#[derive(Debug)]
pub(super) struct LastGood {
    folder: PathBuf,
}

impl LastGood {
    pub(super) fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder }
    }

    /// Keeps the content of a manifest, unless it is kept already.
    ///
    /// # Errors
    /// Those of the disk; the copy before is still there then.
    pub(super) fn keep(&self, manifest: &Path, content: &[u8]) -> io::Result<()> {
        if self.recall(manifest).is_some_and(|kept| kept == content) {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let copy = self.folder.join(name(manifest));
        let fresh = copy.with_extension("tmp");
        let mut file = private_file::create(&fresh)?;
        file.write_all(content)?;
        // A copy that a power cut emptied would be a whole file without objects.
        file.sync_all()?;
        fs::rename(fresh, copy)
    }

    /// The last whole content of a manifest.
    pub(super) fn recall(&self, manifest: &Path) -> Option<Vec<u8>> {
        fs::read(self.folder.join(name(manifest))).ok()
    }

    /// Forgets all manifests but these: a removed file's objects are meant to go.
    pub(super) fn retain(&self, manifests: &BTreeSet<PathBuf>) {
        let names: BTreeSet<String> = manifests.iter().map(|path| name(path)).collect();
        let copies = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for copy in copies {
            let is_kept = copy.file_name().to_str().is_some_and(|n| names.contains(n));
            if !is_kept && let Err(error) = fs::remove_file(copy.path()) {
                tracing::debug!(%error, copy = %copy.path().display(), "the copy stays for now");
            }
        }
    }
}

/// No manifest's name becomes part of a path.
fn name(manifest: &Path) -> String {
    let digest = Sha256::digest(manifest.as_os_str().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
