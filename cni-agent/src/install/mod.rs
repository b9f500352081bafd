//! Puts the plugin and its network configuration where the container runtime looks, and keeps them
//! there: `conflist` (pure) says what is written, `chain` which plugins come after ours, `folder` does
//! it. The configuration comes last, and only once the network part serves: a runtime takes the node
//! for ready as soon as it sees it.

mod chain;
mod config;
mod conflist;
mod folder;
mod loopback;
pub mod uninstall;

pub use config::{HostFolders, InstallArgs, InstallConfig};
pub use conflist::{CONFLIST, PLUGIN};

use crate::{
    folder_watch::FolderWatch,
    network::part::{self, NetworkSlot},
    parts::Shutdown,
};
use chain::Chain;
use conflist::{Delegation, conflist, delegation, goes_before};
use folder::Folder;
use loopback::LOOPBACK;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::sleep;

/// How often the folders are looked at without an event.
const LOOK: Duration = Duration::from_secs(30);
/// How often it is looked whether the network part serves by now.
const NOT_YET: Duration = Duration::from_secs(1);

/// What is not as it should be, each with its remedy, for `fairlead status`.
#[derive(Clone, Default)]
pub struct InstallProblems(Arc<Mutex<Vec<String>>>);

impl InstallProblems {
    /// As of the last look.
    pub fn snapshot(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, problems: Vec<String>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|p| !held.contains(p)) {
            tracing::warn!(%problem, "the installation is not as it should be");
        }
        *held = problems;
    }
}

/// Installs, and puts back what others took away, until `shutdown`. What is installed then stays: it is
/// what lets a runtime ask again later.
pub async fn run(
    config: InstallConfig,
    slot: NetworkSlot,
    problems: InstallProblems,
    mut shutdown: Shutdown,
) {
    let (mut programs, programs_changed) = FolderWatch::open(&config.bin_dir);
    let (mut configs, configs_changed) = FolderWatch::open(&config.conf_dir);
    let config = Arc::new(config);
    let chain = Arc::new(Mutex::new(Chain::default()));
    let mut served = false;
    loop {
        served = served || part::serves(&slot).await;
        let (config, chain) = (config.clone(), chain.clone());
        let work = move || {
            let mut chain = chain.lock().unwrap_or_else(PoisonError::into_inner);
            pass(&config, &mut chain, served)
        };
        let mut found = match tokio::task::spawn_blocking(work).await {
            Ok(found) => found,
            Err(error) => vec![format!("the installation broke off: {error}")],
        };
        for watch in [&mut programs, &mut configs] {
            let unwatched = watch.refresh(&BTreeSet::new());
            found.extend(
                unwatched.into_iter().map(|unwatched| {
                    format!("{}: {}", unwatched.folder.display(), unwatched.fault)
                }),
            );
        }
        problems.set(found);
        tokio::select! {
            () = programs_changed.notified() => {}
            () = configs_changed.notified() => {}
            () = sleep(if served { LOOK } else { NOT_YET }) => {}
            () = shutdown.requested() => return,
        }
    }
}

/// Makes both folders hold what they should. Returns what is in the way.
fn pass(config: &InstallConfig, chain: &mut Chain, serves: bool) -> Vec<String> {
    let plugin = Folder::open(&config.bin_dir)
        .map_err(|e| fault(&config.bin_dir, e))
        .and_then(|folder| {
            let bytes = fs::read(&config.plugin).map_err(|e| {
                format!(
                    "{}: {e}; the plugin belongs beside the agent's program",
                    config.plugin.display()
                )
            })?;
            let put = folder.put(PLUGIN, &bytes, 0o755);
            put.map_err(|e| fault(&folder.path().join(PLUGIN), e))?;
            let put = loopback::put(&folder, &bytes);
            put.map_err(|e| fault(&folder.path().join(LOOPBACK), e))
        });
    // A configuration without its plugin makes every ADD fail.
    if let Err(problem) = plugin {
        return vec![problem];
    }
    let folder = match Folder::open(&config.conf_dir) {
        Ok(folder) => folder,
        Err(error) => return vec![fault(&config.conf_dir, error)],
    };
    let mut problems = earlier(&folder).unwrap_or_else(|e| vec![fault(&config.conf_dir, e)]);
    problems.extend(without_loopback(&config.bin_dir));
    if !serves {
        return problems;
    }
    match chain.choose(&config.bin_dir, config.chain.as_deref()) {
        Err(problem) => problems.push(problem),
        Ok((chain, unchained)) => {
            problems.extend(unchained);
            let text = conflist(&config.socket, &config.spool, &chain);
            match folder.put(CONFLIST, text.as_bytes(), 0o644) {
                Ok(true) => tracing::info!(
                    path = %config.conf_dir.join(CONFLIST).display(),
                    "wrote the network configuration"
                ),
                Ok(false) => {}
                Err(error) => problems.push(fault(&config.conf_dir.join(CONFLIST), error)),
            }
        }
    }
    problems
}

/// What failed, where, and what to do about it. The agent has no right to write into others' folders,
/// and the user whose folder it is, is often that of an installer.
fn fault(path: &Path, error: io::Error) -> String {
    let folder = if path.is_dir() {
        Some(path)
    } else {
        path.parent()
    };
    let owner = folder.and_then(|folder| fs::metadata(folder).ok().map(|about| (folder, about)));
    match owner {
        Some((folder, about)) if error.kind() == io::ErrorKind::PermissionDenied => {
            let remedy = if about.uid() == 0 {
                "let the agent write to it (a profile of SELinux or AppArmor may forbid it)"
                    .to_owned()
            } else {
                format!(
                    "it belongs to uid {} and the agent has no CAP_DAC_OVERRIDE: chown root {}, or add DAC_OVERRIDE to the agent's capabilities",
                    about.uid(),
                    folder.display()
                )
            };
            format!(
                "{}: {error}; folder {}, mode {:o}: {remedy}",
                path.display(),
                folder.display(),
                about.mode() & 0o7777
            )
        }
        _ => format!(
            "{}: {error}; make the folder and let the agent write to it",
            path.display()
        ),
    }
}

/// What containerd does not start a pod without, unless told to. Ours is put where there is none: what is
/// left is a link that leads nowhere.
fn without_loopback(bin_dir: &Path) -> Option<String> {
    let loopback = bin_dir.join(LOOPBACK);
    (!loopback.exists()).then(|| {
        format!(
            "{} is not there: containerd runs it for each pod, unless use_internal_loopback is set; install your distribution's CNI plugins (kubernetes-cni or containernetworking-plugins)",
            loopback.display()
        )
    })
}

/// Configurations of others that a runtime takes instead of ours.
fn earlier(folder: &Folder) -> io::Result<Vec<String>> {
    let names = folder.names()?.into_iter().filter(|name| goes_before(name));
    Ok(names.filter_map(|name| before(folder, &name)).collect())
}

/// What is wrong with one of them, if anything. One that can't be read says nothing of the others.
fn before(folder: &Folder, name: &str) -> Option<String> {
    let path = folder.path().join(name);
    let path = path.display();
    match folder.read(name) {
        Err(error) => Some(format!(
            "{path} sorts before {CONFLIST} and can't be read: {error}; if it is a network's configuration, the container runtime gives new pods that network"
        )),
        Ok(Some((text, _))) => match delegation(&text) {
            Delegation::Ours => None,
            Delegation::Others(network) => Some(format!(
                "{path} sorts before {CONFLIST} and gives new pods the network {network}: make it call {} instead",
                folder.path().join(CONFLIST).display()
            )),
            Delegation::None => Some(earlier_network(&path)),
        },
        Ok(None) => Some(earlier_network(&path)),
    }
}

fn earlier_network(path: &impl std::fmt::Display) -> String {
    format!(
        "{path} sorts before {CONFLIST}, so the container runtime gives new pods that network: remove the file when that network is no longer wanted"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        dir: tempfile::TempDir,
        config: InstallConfig,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            for folder in ["bin", "net.d"] {
                fs::create_dir(path(folder)).unwrap();
            }
            let plugin = "CNI plugin fairlead-cni v0.0.0";
            fs::write(path("image-plugin"), plugin).unwrap();
            fs::write(path("bin/loopback"), "of the distribution").unwrap();
            let config = InstallConfig {
                plugin: path("image-plugin"),
                bin_dir: path("bin"),
                conf_dir: path("net.d"),
                chain: None,
                socket: "/run/fairlead/agent.sock".into(),
                spool: "/var/lib/fairlead/spool".into(),
            };
            Self { dir, config }
        }

        fn pass(&self, serves: bool) -> Vec<String> {
            pass(&self.config, &mut Chain::default(), serves)
        }

        fn has(&self, path: &str) -> bool {
            self.dir.path().join(path).exists()
        }
    }

    #[test]
    fn the_configuration_waits_until_the_network_serves_and_stays_after_that() {
        let host = Host::new();
        assert_eq!(host.pass(false), [""; 0]);
        assert!(host.has("bin/fairlead-cni") && !host.has("net.d/10-fairlead.conflist"));
        assert_eq!(host.pass(true), [""; 0]);
        assert!(host.has("net.d/10-fairlead.conflist"));
        assert_eq!(host.pass(false), [""; 0]);
        assert!(host.has("net.d/10-fairlead.conflist"));
    }

    #[test]
    fn without_the_plugin_there_is_no_configuration() {
        let host = Host::new();
        fs::remove_dir_all(&host.config.bin_dir).unwrap();
        let problems = host.pass(true);
        assert!(problems[0].contains("bin"), "{problems:?}");
        assert!(!host.has("net.d/10-fairlead.conflist"));
    }

    #[test]
    fn what_was_removed_or_changed_comes_back() {
        let host = Host::new();
        host.pass(true);
        let written = fs::read(host.config.conf_dir.join(CONFLIST)).unwrap();
        fs::write(host.config.conf_dir.join(CONFLIST), "{}").unwrap();
        fs::remove_file(host.config.bin_dir.join(PLUGIN)).unwrap();
        assert_eq!(host.pass(true), [""; 0]);
        let again = fs::read(host.config.conf_dir.join(CONFLIST)).unwrap();
        assert_eq!(again, written);
        assert!(host.has("bin/fairlead-cni"));
    }

    #[test]
    fn a_missing_loopback_plugin_is_ours_to_bring_and_a_broken_link_is_told() {
        let host = Host::new();
        let loopback = host.config.bin_dir.join(LOOPBACK);
        let read = || fs::read_to_string(&loopback).unwrap();
        assert_eq!(host.pass(true), [""; 0]);
        assert_eq!(read(), "of the distribution");
        fs::remove_file(&loopback).unwrap();
        assert_eq!(host.pass(true), [""; 0]);
        assert_eq!(read(), fs::read_to_string(&host.config.plugin).unwrap());
        fs::remove_file(&loopback).unwrap();
        std::os::unix::fs::symlink("/nowhere", &loopback).unwrap();
        let problems = host.pass(true);
        assert!(
            problems[0].contains("use_internal_loopback"),
            "{problems:?}"
        );
        assert!(host.has("net.d/10-fairlead.conflist"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_hides_no_other() {
        let host = Host::new();
        let other = |name: &str, text: &str| fs::write(host.config.conf_dir.join(name), text);
        other("05-other.conf", r#"{"type": "other"}"#).unwrap();
        // Only others than root are refused a file: a name that is no file has to do.
        let socket = host.config.conf_dir.join("04-socket.conf");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let problems = host.pass(true);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("04-socket.conf") && problems[0].contains("can't be read"));
        assert!(problems[1].contains("05-other.conf"), "{problems:?}");
    }

    #[test]
    fn a_folder_of_another_owner_is_told_with_the_owner_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let path = dir.path().join(PLUGIN);
        // As kubespray has it; only root can give a folder away.
        if std::os::unix::fs::chown(dir.path(), Some(998), None).is_ok() {
            let text = fault(&path, denied());
            assert!(
                text.contains("uid 998") && text.contains("chown root"),
                "{text}"
            );
        }
        let missing = fault(&path, io::ErrorKind::NotFound.into());
        assert!(missing.contains("make the folder"), "{missing}");
    }

    #[test]
    fn a_network_that_the_runtime_takes_instead_is_a_problem_and_multus_is_none() {
        let host = Host::new();
        let other = |name: &str, text: &str| fs::write(host.config.conf_dir.join(name), text);
        other("00-multus.conf", r#"{"type": "multus"}"#).unwrap();
        assert_eq!(host.pass(true), [""; 0]);
        let text = r#"{"type": "multus", "clusterNetwork": "/etc/cni/net.d/10-calico.conflist"}"#;
        other("00-multus.conf", text).unwrap();
        let problems = host.pass(true);
        assert!(problems[0].contains("10-calico.conflist"), "{problems:?}");
        fs::remove_file(host.config.conf_dir.join("00-multus.conf")).unwrap();
        other("10-calico.conflist", r#"{"plugins": [{"type": "calico"}]}"#).unwrap();
        let problems = host.pass(true);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("10-calico.conflist"), "{problems:?}");
    }
}
