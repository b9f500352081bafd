//! Takes a node back to where it was before Fairlead, in the order in which nobody is misled: the
//! configuration first, so that the runtime asks for no more pods, and what the agent remembers last,
//! so that an interrupted removal can be repeated. Nothing of others is touched: links are known by
//! alias, routes by protocol number, files by name.

use super::{
    CONFLIST, PLUGIN,
    folder::Folder,
    loopback::{self, LOOPBACK},
};
use crate::{
    datapath,
    netlink::{link, masquerade, route},
};
use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

/// Where an agent of this node has what it needs.
#[derive(Clone, Debug)]
pub struct Places {
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
    pub bpf_dir: PathBuf,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
}

/// What became of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub what: String,
    /// How many of them were there and are gone now (or would be); why it could not be done.
    pub count: Result<usize, String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Only look.
    pub dry_run: bool,
    /// Running pods keep their links, and the programs, maps, routes and addresses that carry their
    /// traffic.
    pub keep_pods: bool,
}

/// What the agent keeps in its state folder.
const STATE: [&str; 7] = [
    "cluster.json",
    "domains.json",
    "domains.tmp",
    "cluster.tmp",
    "manifests",
    "spool",
    "state.redb",
];

/// Removes everything, goes on after a failure, and tells what became of each. Running it again is
/// harmless.
pub async fn uninstall(places: &Places, choice: Choice) -> Vec<Removal> {
    let mut done = vec![
        file(&places.conf_dir, CONFLIST, choice),
        file(&places.bin_dir, PLUGIN, choice),
        loopback(&places.bin_dir, choice),
    ];
    if !choice.keep_pods {
        done.push(links(choice).await);
        done.push(routes(choice).await);
        done.push(table(choice).await);
        done.push(tree(&places.bpf_dir, is_layout, choice));
        let state = |name: &str| STATE.contains(&name);
        done.push(tree(&places.state_dir, state, choice));
    }
    if !choice.dry_run {
        let note = datapath::forget_grace_periods().map(usize::from);
        done.push(removal("the note of shortened grace periods", note));
    }
    done.push(socket(&places.socket, choice));
    done
}

fn removal(what: impl Display, count: Result<usize, impl Display>) -> Removal {
    Removal {
        what: what.to_string(),
        count: count.map_err(|error| error.to_string()),
    }
}

fn file(folder: &Path, name: &str, choice: Choice) -> Removal {
    let what = folder.join(name);
    let removed = match Folder::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(folder) if choice.dry_run => {
            let names = folder.names();
            names.map(|names| names.iter().any(|found| found == name))
        }
        Ok(folder) => folder.remove(name),
    };
    removal(what.display(), removed.map(usize::from))
}

/// The plugin loopback, if it is the copy of ours.
fn loopback(folder: &Path, choice: Choice) -> Removal {
    let removed = Folder::open(folder).and_then(|open| loopback::remove(&open, choice.dry_run));
    let count = removed.map(usize::from);
    removal(folder.join(LOOPBACK).display(), gone_is_fine(count))
}

async fn links(choice: Choice) -> Removal {
    let work = async {
        let found = link::list_host_links().await?;
        let (mut count, mut first_error) = (0, None);
        for own in &found {
            if choice.dry_run {
                count += 1;
                continue;
            }
            match link::delete_link(&own.name, &own.alias).await {
                Ok(there) => count += usize::from(there),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(count), Err)
    };
    removal("links of pods (fl…, alias fairlead:)", work.await)
}

async fn routes(choice: Choice) -> Removal {
    let what = format!("routes (protocol {})", crate::netlink::ROUTE_PROTOCOL);
    if choice.dry_run {
        return removal(what, route::count_own().await);
    }
    // Those to pods have gone with their links.
    let changes = route::sync_node_routes(&[], &[]).await;
    removal(what, changes.map(|changes| changes.removed))
}

async fn table(choice: Choice) -> Removal {
    let removed = if choice.dry_run {
        masquerade::exists().await
    } else {
        masquerade::remove().await
    };
    let what = format!("nftables table inet {}", masquerade::TABLE);
    removal(what, removed.map(usize::from))
}

/// The folder of one layout of the maps: `v2`.
fn is_layout(name: &str) -> bool {
    let number = name.strip_prefix('v').unwrap_or_default();
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// What is ours in a folder, with everything in it, and the folder when nothing else is left.
fn tree(folder: &Path, ours: impl Fn(&str) -> bool, choice: Choice) -> Removal {
    let work = || -> io::Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(&ours) {
                continue;
            }
            count += 1;
            if choice.dry_run {
                continue;
            }
            // Links are removed, not followed.
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        if !choice.dry_run {
            remove_empty(folder)?;
        }
        Ok(count)
    };
    removal(folder.display(), gone_is_fine(work()))
}

fn socket(socket: &Path, choice: Choice) -> Removal {
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    let work = || -> io::Result<usize> {
        let mut count = 0;
        for path in [socket, Path::new(&lock)] {
            if fs::symlink_metadata(path).is_err() {
                continue;
            }
            count += 1;
            if !choice.dry_run {
                fs::remove_file(path)?;
            }
        }
        if let Some(folder) = socket.parent().filter(|_| !choice.dry_run) {
            remove_empty(folder)?;
        }
        Ok(count)
    };
    removal(socket.display(), gone_is_fine(work()))
}

/// Removes a folder that nothing is left in. In a container it is a mount, on a root file system that is
/// read-only besides: it stays.
fn remove_empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
                    | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn gone_is_fine(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Choice = Choice {
        dry_run: false,
        keep_pods: false,
    };
    const LOOK: Choice = Choice {
        dry_run: true,
        keep_pods: false,
    };

    #[test]
    fn a_folder_loses_what_is_ours_and_keeps_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("fairlead");
        for path in ["v2/maps", "v10/links/eth0", "vault", "other"] {
            fs::create_dir_all(folder.join(path)).unwrap();
        }
        assert_eq!(tree(&folder, is_layout, LOOK).count, Ok(2));
        assert!(folder.join("v2/maps").exists());
        assert_eq!(tree(&folder, is_layout, WORK).count, Ok(2));
        let mut left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["other", "vault"]);
        fs::remove_dir(folder.join("other")).unwrap();
        fs::remove_dir(folder.join("vault")).unwrap();
        assert_eq!(tree(&folder, is_layout, WORK).count, Ok(0));
        assert!(!folder.exists());
        assert_eq!(tree(&folder, is_layout, WORK).count, Ok(0));
    }

    #[test]
    fn a_link_among_our_names_is_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::create_dir_all(precious.join("inside")).unwrap();
        let folder = dir.path().join("fairlead");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&precious, folder.join("v2")).unwrap();
        assert_eq!(tree(&folder, is_layout, WORK).count, Ok(1));
        assert!(precious.join("inside").exists() && !folder.exists());
    }

    #[test]
    fn files_and_socket_go_once_and_are_missed_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        fs::create_dir(dir.path().join("run")).unwrap();
        for name in ["agent.sock", "agent.sock.lock", CONFLIST] {
            fs::write(dir.path().join("run").join(name), "").unwrap();
        }
        let run = dir.path().join("run");
        assert_eq!(file(&run, CONFLIST, LOOK).count, Ok(1));
        assert_eq!(file(&run, CONFLIST, WORK).count, Ok(1));
        assert_eq!(file(&run, CONFLIST, WORK).count, Ok(0));
        assert_eq!(socket(&path, LOOK).count, Ok(2));
        assert_eq!(socket(&path, WORK).count, Ok(2));
        assert!(!run.exists());
        assert_eq!(socket(&path, WORK).count, Ok(0));
        assert_eq!(file(&run, CONFLIST, WORK).count, Ok(0));
    }
}
