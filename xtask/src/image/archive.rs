//! Archives that depend on nothing but their contents: everything is owned by root and made at the
//! beginning of time.

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use std::io::Write;
use tar::{Builder, EntryType, Header};

/// Something in an archive.
pub(crate) enum Entry<'a> {
    Folder { mode: u32 },
    File { bytes: &'a [u8], mode: u32 },
    Link { to: &'a str },
}

/// A tar archive in the making. Entries stand in the order in which they are added.
pub(crate) struct Archive(Builder<Vec<u8>>);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry; folders above it are the caller's to add.
    ///
    /// # Errors
    /// When the path is too long for an archive.
    pub(crate) fn add(&mut self, path: &str, entry: &Entry<'_>) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let bytes: &[u8] = match *entry {
            Entry::Folder { mode } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(mode);
                &[]
            }
            Entry::File { bytes, mode } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(mode);
                bytes
            }
            Entry::Link { to } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                header.set_link_name(to)?;
                &[]
            }
        };
        header.set_size(u64::try_from(bytes.len())?);
        self.0
            .append_data(&mut header, path, bytes)
            .with_context(|| format!("packing {path}"))
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// Never for an archive in memory; the library's signature has it.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}

/// Compressed, without a time or a name in the head: the same bytes give the same bytes.
///
/// # Errors
/// Never for bytes in memory; the library's signature has it.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .operating_system(255) // unknown
        .write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process;

    #[test]
    fn tar_reads_what_was_packed() {
        let mut archive = Archive::new();
        archive.add("bin", &Entry::Folder { mode: 0o755 }).unwrap();
        let bytes = &[b'x'; 700];
        let file = Entry::File { bytes, mode: 0o755 };
        archive.add("bin/a", &file).unwrap();
        archive.add("bin/b", &Entry::Link { to: "a" }).unwrap();
        let mut tar = process::Command::new("tar")
            .args(["-tv", "--numeric-owner", "-f", "-"])
            .stdin(process::Stdio::piped())
            .stdout(process::Stdio::piped())
            .spawn()
            .unwrap();
        let packed = archive.finish().unwrap();
        tar.stdin.take().unwrap().write_all(&packed).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        let list = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines.len(), 3, "{list}");
        assert!(
            lines[0].starts_with("drwxr-xr-x 0/0") && lines[0].contains(" bin"),
            "{list}"
        );
        assert!(
            lines[1].starts_with("-rwxr-xr-x") && lines[1].contains(" 700 "),
            "{list}"
        );
        assert!(lines[2].ends_with("bin/b -> a"), "{list}");
    }
}
