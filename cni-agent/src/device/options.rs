//! Options of the devices' part (`--parts network,devices`).

use crate::config::ApiOptions;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Options on the command line.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Devices (--parts devices)")]
pub struct DeviceArgs {
    /// What devices there are to be: a YAML file, or a folder of them such as a mounted ConfigMap; read again at each
    /// change. See docs/devices-configuration.md.
    #[arg(
        long,
        env = "FAIRLEAD_DEVICES",
        value_name = "PATH",
        default_value = "/etc/fairlead/devices"
    )]
    pub devices: PathBuf,

    /// Resources that need no configuration, separated by commas, such as kvm,tun,fuse.
    #[arg(
        long,
        env = "FAIRLEAD_DEVICE_PRESETS",
        value_delimiter = ',',
        value_name = "NAMES"
    )]
    pub device_presets: Vec<String>,

    /// How the kubelet is told of resources: `register` at its socket, or `watcher`, where it finds them itself.
    #[arg(long, env = "FAIRLEAD_DEVICE_REGISTRATION", value_enum, default_value_t = Registration::Register)]
    pub device_registration: Registration,

    /// Folder of the CDI specifications that are written for the container runtime.
    #[arg(
        long,
        env = "FAIRLEAD_CDI_DIR",
        value_name = "PATH",
        default_value = "/var/run/cdi"
    )]
    pub cdi_dir: PathBuf,
}

/// How the kubelet is told.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// By a call to its kubelet.sock.
    Register,
    /// By a socket in its plugins_registry.
    Watcher,
}

/// What the part is told.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    pub node_name: String,
    pub kubelet_dir: PathBuf,
    pub state_dir: PathBuf,
    pub devices: PathBuf,
    pub presets: Vec<String>,
    pub registration: Registration,
    pub cdi_dir: PathBuf,
    /// The API server that gets Events; none: the log has them.
    pub api: Option<ApiOptions>,
}

impl DeviceConfig {
    /// The options with what the parts share.
    pub fn new(
        args: DeviceArgs,
        node_name: &str,
        kubelet_dir: &Path,
        state_dir: &Path,
        api: Option<ApiOptions>,
    ) -> Self {
        Self {
            node_name: node_name.to_owned(),
            kubelet_dir: kubelet_dir.to_owned(),
            state_dir: state_dir.to_owned(),
            devices: args.devices,
            presets: args.device_presets,
            registration: args.device_registration,
            cdi_dir: args.cdi_dir,
            api,
        }
    }
}
