//! Files of an image, by path: what is added in any order is packed in one order.

use super::archive::{Archive, Entry};
use crate::workspace;
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Files of an image by path, without a leading `/`.
#[derive(Default)]
pub(crate) struct Files(BTreeMap<String, Content>);

enum Content {
    File(Vec<u8>, u32),
    Link(String),
    Folder,
}

impl Files {
    pub(crate) fn file(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        self.0.insert(path.to_owned(), Content::File(bytes, mode));
    }

    pub(crate) fn folder(&mut self, path: &str) {
        self.0.insert(path.to_owned(), Content::Folder);
    }

    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.0.insert(path.to_owned(), Content::Link(to.to_owned()));
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.0.remove(path);
    }

    /// Adds a program of the machine as it is.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(to, bytes, 0o755);
        Ok(())
    }

    /// Adds a program with the libraries that it needs, each where the program looks for it; answers the files of
    /// the machine that were read.
    ///
    /// # Errors
    /// When one of them can't be read.
    pub(crate) fn program(&mut self, program: &Path, at: &str) -> Result<Vec<PathBuf>> {
        self.copy(program, at)?;
        let mut sources = vec![program.to_owned()];
        let listed = workspace::output(Command::new("ldd").arg(program)).unwrap_or_default();
        let libraries = listed.split_whitespace();
        for library in libraries.filter(|word| word.starts_with('/')) {
            let at = library.trim_start_matches('/');
            self.copy(&fs::canonicalize(library)?, at)?;
            sources.push(library.into());
        }
        Ok(sources)
    }

    /// The layer, with the folders above each file.
    ///
    /// # Errors
    /// When a path is too long for an archive.
    pub(crate) fn layer(mut self) -> Result<Vec<u8>> {
        let paths: Vec<_> = self.0.keys().cloned().collect();
        for path in paths {
            for (at, _) in path.match_indices('/') {
                let above = path[..at].to_owned();
                self.0.entry(above).or_insert(Content::Folder);
            }
        }
        let mut archive = Archive::new();
        // In the order of their names, a folder comes before what is in it.
        for (path, content) in &self.0 {
            let entry = match content {
                Content::File(bytes, mode) => Entry::File { bytes, mode: *mode },
                Content::Link(to) => Entry::Link { to },
                Content::Folder => Entry::Folder { mode: 0o755 },
            };
            archive.add(path, &entry)?;
        }
        archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_added_above_what_is_in_them() {
        let mut files = Files::default();
        files.file("a/b/c", b"x".to_vec(), 0o644);
        let layer = files.layer().unwrap();
        let names: Vec<_> = layer
            .chunks(512)
            .filter(|block| block.get(257..262) == Some(b"ustar"))
            .map(|block| {
                let name = block.split(|byte| *byte == 0).next().unwrap();
                String::from_utf8(name.to_vec()).unwrap()
            })
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
    }

    #[test]
    fn a_program_that_is_not_static_comes_with_its_loader() {
        let mut files = Files::default();
        let program = workspace::find("mount").unwrap();
        files.program(&program, "usr/bin/mount").unwrap();
        let loader = |path: &String| path.contains("/ld-linux") || path.contains("/ld-musl");
        assert!(files.0.keys().any(loader), "{:?}", files.0.keys());
    }
}
