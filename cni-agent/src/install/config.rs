//! Options of the installation, as `fairlead agent` and `fairlead uninstall` have them.

use super::conflist::{PLUGIN, plugin_name};
use clap::Args;
use std::path::{Path, PathBuf};

/// Where the container runtime looks.
#[derive(Args, Debug, Clone)]
pub struct HostFolders {
    /// The container runtime's folder of CNI plugins.
    #[arg(long, env = "FAIRLEAD_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,

    /// The container runtime's folder of network configurations.
    #[arg(long, env = "FAIRLEAD_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
}

/// Options of `fairlead agent` that put it to work for a container runtime.
#[derive(Args, Debug, Clone)]
pub struct InstallArgs {
    /// Install the plugin and, once the network serves, its configuration for the container runtime,
    /// and keep both in place.
    #[arg(long, env = "FAIRLEAD_INSTALL_CNI", default_value_t = false)]
    pub install_cni: bool,

    #[command(flatten)]
    pub folders: HostFolders,

    /// Plugins chained after ours, separated by commas; empty for none [default: portmap where it is
    /// installed].
    #[arg(long, env = "FAIRLEAD_CNI_CHAIN", value_delimiter = ',', value_parser = chained)]
    pub cni_chain: Option<Vec<String>>,
}

/// An empty word is no plugin: `--cni-chain ''` chains none.
fn chained(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    plugin_name(text)
}

/// What is installed, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallConfig {
    /// The plugin to copy.
    pub plugin: PathBuf,
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
    /// What was named; none when nothing was said.
    pub chain: Option<Vec<String>>,
    /// Where the plugin finds the agent.
    pub socket: PathBuf,
    /// Where the plugin keeps deletions.
    pub spool: PathBuf,
}

impl InstallConfig {
    /// Puts the options together; `None` when the agent is not to install anything.
    pub fn new(args: InstallArgs, socket: &Path, spool: PathBuf) -> Option<Self> {
        let InstallArgs {
            install_cni,
            folders,
            cni_chain,
        } = args;
        let named = |chain: Vec<String>| chain.into_iter().filter(|n| !n.is_empty()).collect();
        install_cni.then(|| Self {
            plugin: beside_this_program(),
            bin_dir: folders.cni_bin_dir,
            conf_dir: folders.cni_conf_dir,
            chain: cni_chain.map(named),
            socket: socket.to_owned(),
            spool,
        })
    }
}

/// The plugin of the same release.
fn beside_this_program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/fairlead".into());
    own.with_file_name(PLUGIN)
}
