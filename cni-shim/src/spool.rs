//! Keeps a deletion for an agent that can't be asked now. The file is whole and durable, or not
//! there: it is written under another name, synced, renamed, and the folder synced.

use crate::conf::Conf;
use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
    process::geteuid,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// What the agent needs to do the deletion.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Deletion<'a> {
    version: u32,
    container_id: &'a str,
    ifname: &'a str,
    network: &'a str,
    /// Unix time in seconds.
    at: u64,
}

/// Writes the deletion down and returns the file's path. A repeated one replaces the first.
///
/// # Errors
/// When the folder isn't root's alone or can't be written durably.
pub(crate) fn write(conf: &Conf<'_>, container_id: &str, ifname: &str) -> io::Result<String> {
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let deletion = Deletion {
        version: 1,
        container_id,
        ifname,
        network: &conf.name,
        at: at.as_secs(),
    };
    let text = serde_json::to_vec(&deletion)?;
    let folder = open_folder(Path::new(&conf.spool))?;
    let key = key(container_id, ifname);
    let fresh = format!(".{key}.{}-{}.tmp", std::process::id(), at.as_nanos());
    let name = format!("{key}.json");
    let written = write_synced(folder.as_fd(), &fresh, &text)
        .and_then(|()| Ok(fs::renameat(&folder, &fresh, &folder, &name)?));
    if let Err(error) = written {
        // The first failure is the one to report.
        fs::unlinkat(&folder, &fresh, AtFlags::empty()).unwrap_or_default();
        return Err(error);
    }
    fs::fsync(&folder)?;
    Ok(format!("{}/{name}", conf.spool.trim_end_matches('/')))
}

/// File name of an attachment: no name of others becomes part of a path.
fn key(container_id: &str, ifname: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(container_id);
    hash.update([0]);
    hash.update(ifname);
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn write_synced(folder: impl AsFd, name: &str, text: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text)?;
    file.sync_all()
}

/// Opens the folder, makes it where it is missing, and refuses one that somebody else could write to:
/// a forged file there deletes a pod's network. Its parent is the agent's to make: where that is
/// missing, as in a mount namespace without it, nobody would ever read what is written.
fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || fs::open(path, flags, Mode::empty());
    let folder = match open() {
        Err(Errno::NOENT) => {
            make(path)?;
            open()?
        }
        opened => opened?,
    };
    let stat = fs::fstat(&folder)?;
    let shared = Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !is_folder || stat.st_uid != geteuid().as_raw() || shared {
        return Err(io::Error::other(
            "the folder must belong to root and be writable for root alone",
        ));
    }
    Ok(folder)
}

/// Makes a folder durably: the entry in its parent is synced too.
fn make(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    match fs::mkdir(path, Mode::RWXU) {
        // Another DEL was faster.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => {
            return Err(io::Error::other(format!(
                "there is no {}; it is the agent's --state-dir, which must be seen where the plugin runs",
                parent.display()
            )));
        }
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::fsync(fs::openat(CWD, parent, flags, Mode::empty())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_tell_attachments_apart() {
        assert_eq!(
            key("c1", "eth0"),
            // printf 'c1\0eth0' | sha256sum
            "ec43057c07aaa51f882664a65fed7b1844e3af9fae71c9a7bcb41f33491c2342"
        );
        assert_ne!(key("c1e", "th0"), key("c1", "eth0"));
    }
}
