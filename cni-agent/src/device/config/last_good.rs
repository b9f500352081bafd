//! RIM: a copy of the texts of the configuration that was whole last: an agent that starts beside a faulty one goes on
//! with what worked.

use super::Text;
use crate::private_file;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Largest copy that is read: the texts as JSON, whose escapes make them longer.
const MAX_COPY_BYTES: u64 = 6 * super::MAX_BYTES as u64;

/// What was whole: the input itself, since a later agent may make more of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Input {
    pub(super) files: Vec<Text>,
    #[serde(default)]
    pub(super) presets: Vec<String>,
}

/// The copy, root's alone: environment variables may hold secrets.
#[derive(Clone, Debug)]
pub(super) struct LastGood {
    pub(super) path: PathBuf,
}

impl LastGood {
    /// Keeps an input in place of the one before, unless it is kept already.
    ///
    /// # Errors
    /// Those of the disk; the one before is still there then.
    pub(super) fn keep(&self, input: &Input) -> io::Result<()> {
        if self.recall().is_ok_and(|kept| kept.as_ref() == Some(input)) {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let fresh = self.path.with_extension("tmp");
        let mut file = private_file::create(&fresh)?;
        file.write_all(&serde_json::to_vec(input)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// The input that is kept; none: there never was one.
    ///
    /// # Errors
    /// Those of the disk, and of a copy that is none.
    pub(super) fn recall(&self) -> io::Result<Option<Input>> {
        // Through no link and without waiting for anybody: the folder may be shared with others.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&self.path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_COPY_BYTES).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes).map(Some)?)
    }
}
