//! The network configuration that the agent writes, and which files of others go before it. Pure.

use serde_json::{Value, json};
use std::path::Path;

/// The configuration's file. Runtimes take the first of the folder by name.
pub const CONFLIST: &str = "10-fairlead.conflist";
/// The plugin's file, which is its `type` in the configuration.
pub const PLUGIN: &str = "fairlead-cni";
/// Versions that the configuration offers, the oldest first: 1.0.0 for runtimes that don't know
/// `cniVersions`, 1.1.0 for GC and STATUS.
pub(super) const OFFERED: [&str; 2] = ["1.0.0", "1.1.0"];
/// Endings that libcni, and with it containerd and CRI-O, read.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// Plugins that come first on purpose, because they call the next configuration themselves.
const DELEGATING: [&str; 2] = ["multus", "multus-shim"];

/// A plugin chained after ours, with the versions that it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chained {
    pub(super) name: String,
    pub(super) versions: Vec<String>,
}

/// The network configuration as text. Offers the versions of [`OFFERED`] that every chained plugin
/// speaks; one of them at least is the caller's to see to.
pub(super) fn conflist(socket: &Path, spool: &Path, chain: &[Chained]) -> String {
    let spoken = |version: &&str| {
        let speaks = |plugin: &Chained| plugin.versions.iter().any(|v| v == version);
        chain.iter().all(speaks)
    };
    let versions: Vec<_> = OFFERED.into_iter().filter(spoken).collect();
    let own = json!({
        "type": PLUGIN,
        "capabilities": { "ips": true, "mac": true, "dns": true },
        "socket": socket,
        "spool": spool,
    });
    let others = chain.iter().map(|plugin| entry(&plugin.name));
    let plugins: Vec<_> = std::iter::once(own).chain(others).collect();
    let list = json!({
        "cniVersion": versions.first().unwrap_or(&OFFERED[0]),
        "cniVersions": versions,
        "name": "fairlead",
        "plugins": plugins,
    });
    format!("{list:#}\n")
}

/// What a chained plugin needs to do its work.
fn entry(name: &str) -> Value {
    match name {
        "portmap" => json!({
            "type": name, "snat": true, "capabilities": { "portMappings": true }
        }),
        "bandwidth" => json!({ "type": name, "capabilities": { "bandwidth": true } }),
        _ => json!({ "type": name }),
    }
}

/// Whether a runtime reads a file of this name, and before ours.
pub(super) fn goes_before(name: &str) -> bool {
    let ending = Path::new(name).extension().and_then(|e| e.to_str());
    name < CONFLIST && ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

/// Whom a configuration that goes before ours leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delegation {
    /// Nobody: it is a network itself.
    None,
    /// To ours, as far as the file tells: names of the cluster's objects are not looked up.
    Ours,
    /// To another network, which is named.
    Others(String),
}

/// Whom a configuration calls, as Multus does with one that it names (`clusterNetwork`) or holds
/// (`delegates`).
pub(super) fn delegation(text: &[u8]) -> Delegation {
    let Ok(config) = serde_json::from_slice::<Value>(text) else {
        return Delegation::None;
    };
    let first = config["plugins"].get(0).unwrap_or(&config);
    let kind = first["type"].as_str();
    if !kind.is_some_and(|kind| DELEGATING.contains(&kind)) {
        return Delegation::None;
    }
    if let Some(network) = first["clusterNetwork"].as_str() {
        let path = Path::new(network);
        let other = path.is_absolute()
            && path.extension().is_some()
            && path.file_name().is_none_or(|name| name != CONFLIST);
        return match other {
            true => Delegation::Others(network.to_owned()),
            false => Delegation::Ours,
        };
    }
    // The first delegate is the pods' network.
    let Some(delegate) = first["delegates"].get(0) else {
        return Delegation::Ours;
    };
    let plugin = delegate["plugins"].get(0).unwrap_or(delegate);
    match plugin["type"].as_str() {
        Some(kind) if kind != PLUGIN => {
            let name = delegate["name"].as_str().unwrap_or(kind);
            Delegation::Others(name.to_owned())
        }
        _ => Delegation::Ours,
    }
}

/// The name of a plugin that may be chained: a file of the plugins' folder, and no path.
///
/// # Errors
/// What is wrong with it.
pub(super) fn plugin_name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits {
        return Err("a plugin's name has 1 to 64 lower case letters, digits and '-'".to_owned());
    }
    if text == PLUGIN {
        return Err(format!("{PLUGIN} is the first of the chain already"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::netconf::{DEFAULT_SOCKET, DEFAULT_SPOOL, NetConf};

    fn chained(name: &str, versions: &[&str]) -> Chained {
        Chained {
            name: name.to_owned(),
            versions: versions.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    fn written(chain: &[Chained]) -> Value {
        let text = conflist(Path::new("/run/x.sock"), Path::new("/var/x/spool"), chain);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_written_configuration_is_one_that_the_agent_takes() {
        let list = written(&[]);
        for version in OFFERED {
            // As a runtime makes it for each plugin of the list.
            let mut config = list["plugins"][0].clone();
            config["cniVersion"] = version.into();
            config["name"] = list["name"].clone();
            let conf = NetConf::parse(&config).unwrap();
            assert_eq!(conf.socket, Path::new("/run/x.sock"));
            assert_eq!(conf.spool, Path::new("/var/x/spool"));
        }
    }

    #[test]
    fn the_delivered_file_says_the_same_as_the_written_one() {
        let delivered = include_str!("../../../deploy/10-fairlead.conflist");
        let mut delivered: Value = serde_json::from_str(delivered).unwrap();
        delivered["plugins"][0]["socket"] = DEFAULT_SOCKET.into();
        delivered["plugins"][0]["spool"] = DEFAULT_SPOOL.into();
        let text = conflist(Path::new(DEFAULT_SOCKET), Path::new(DEFAULT_SPOOL), &[]);
        assert_eq!(delivered, serde_json::from_str::<Value>(&text).unwrap());
    }

    #[test]
    fn a_chained_plugin_gets_its_capability_and_limits_the_versions() {
        let list = written(&[
            chained("portmap", &["0.4.0", "1.0.0"]),
            chained("bandwidth", &["1.0.0", "1.1.0"]),
        ]);
        assert_eq!(list["cniVersions"], json!(["1.0.0"]));
        assert_eq!(list["cniVersion"], "1.0.0");
        let capability = &list["plugins"][1]["capabilities"]["portMappings"];
        assert_eq!(*capability, true);
        assert_eq!(list["plugins"][2]["capabilities"]["bandwidth"], true);
    }

    #[test]
    fn what_a_runtime_reads_earlier_is_told_apart_from_what_it_does_not_read() {
        for (name, before) in [
            ("05-cilium.conflist", true),
            ("10-calico.conflist", true),
            ("10-fairlead.conf", true),
            ("00-multus.json", true),
            (CONFLIST, false),
            ("10-flannel.conflist", false),
            ("99-loopback.conf", false),
            ("05-cilium.conflist.cilium_bak", false),
            (".10-fairlead.conflist.new", false),
        ] {
            assert_eq!(goes_before(name), before, "{name}");
        }
    }

    #[test]
    fn whom_multus_calls_is_seen_where_its_file_tells() {
        let others = |name: &str| Delegation::Others(name.to_owned());
        for (text, expected) in [
            (r#"{"type": "multus-shim"}"#, Delegation::Ours),
            (r#"{"plugins": [{"type": "multus"}]}"#, Delegation::Ours),
            (
                r#"{"type": "multus", "clusterNetwork": "fairlead"}"#,
                Delegation::Ours,
            ),
            (
                r#"{"type": "multus", "clusterNetwork": "/host/etc/cni/net.d/10-fairlead.conflist"}"#,
                Delegation::Ours,
            ),
            (
                r#"{"type": "multus", "clusterNetwork": "/etc/cni/net.d/10-calico.conflist"}"#,
                others("/etc/cni/net.d/10-calico.conflist"),
            ),
            (
                r#"{"type": "multus", "delegates": [{"plugins": [{"type": "fairlead-cni"}]}]}"#,
                Delegation::Ours,
            ),
            (
                r#"{"type": "multus", "delegates": [{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}]}"#,
                others("k8s-pod-network"),
            ),
            (r#"{"plugins": [{"type": "calico"}]}"#, Delegation::None),
            ("half a fi", Delegation::None),
        ] {
            assert_eq!(delegation(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_chained_name_is_no_path() {
        for name in ["", "../sh", "a/b", "Portmap", "a b", PLUGIN] {
            assert!(plugin_name(name).is_err(), "{name}");
        }
        assert_eq!(plugin_name("portmap").unwrap(), "portmap");
    }
}
