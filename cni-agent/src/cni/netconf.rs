//! The network configuration as the agent uses it. Keys that nobody here knows are ignored, as all
//! plugins do; known ones are checked, and an error names the key and what would be right.

use super::{
    CniError,
    capabilities::{Dns, RawRuntimeConfig, RuntimeConfig, or_default},
    protocol::Command,
    version::Version,
};
use crate::model::AttachmentId;
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Where the plugin looks for the agent, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/fairlead/agent.sock";
/// Where the plugin keeps deletions, unless told otherwise.
pub const DEFAULT_SPOOL: &str = "/var/lib/fairlead/spool";
/// How long the plugin waits, unless told otherwise.
pub const DEFAULT_TIMEOUT_SECS: u64 = 30;
/// Smallest MTU: what IPv6 needs (RFC 8200, section 5). The largest is that of an IP packet.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65_535;
const MAX_NAME: usize = 255;
/// Where the specification has what GC is told, and where it had it by mistake for a while.
const ATTACHMENT_KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A checked network configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `mtu` of the pod's interface; the agent's own choice when absent.
    pub mtu: Option<u32>,
    /// `socket` that the plugin was told.
    pub socket: PathBuf,
    /// `spool` that the plugin was told: another than the agent's would never be replayed.
    pub spool: PathBuf,
    /// `timeoutSeconds`.
    pub timeout_secs: u64,
    /// `dns` of the network; `runtimeConfig.dns` goes before it.
    pub dns: Dns,
    /// What the runtime asks for this pod.
    pub runtime_config: RuntimeConfig,
    /// `prevResult`, not parsed yet: see [`super::result::PrevResult`].
    pub prev_result: Option<Value>,
    /// What GC was told, under each key that was there.
    attachments: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    cni_version: Option<String>,
    name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rest {
    mtu: Option<u32>,
    socket: Option<PathBuf>,
    spool: Option<PathBuf>,
    timeout_seconds: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    dns: Dns,
    ipam: Option<Ipam>,
    /// Only its form is checked: what counts is what the runtime then asks for.
    #[serde(rename = "capabilities")]
    _capabilities: Option<BTreeMap<String, bool>>,
    #[serde(deserialize_with = "or_default")]
    runtime_config: RawRuntimeConfig,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
}

#[derive(Deserialize)]
struct GcAttachment {
    #[serde(rename = "containerID", default, deserialize_with = "or_default")]
    container_id: String,
    #[serde(default, deserialize_with = "or_default")]
    ifname: String,
}

impl NetConf {
    /// Parses and checks everything.
    ///
    /// # Errors
    /// 1 for a version that is not spoken, 2 for a field that can't be honoured, 7 for a bad value.
    pub fn parse(config: &Value) -> Result<Self, CniError> {
        Self::parse_for(Command::Add, config)
    }

    /// Parses and checks what the command needs. DEL and GC get along with a version and a name:
    /// a value that ADD refuses must not keep a pod from being removed.
    ///
    /// # Errors
    /// As [`NetConf::parse`].
    pub fn parse_for(command: Command, config: &Value) -> Result<Self, CniError> {
        let head: Head = typed(config)?;
        // What the specification says of a configuration without the key; also not spoken.
        let version = head.cni_version.filter(|text| !text.is_empty());
        let version = Version::parse(version.as_deref().unwrap_or("0.1.0"))?;
        let name = checked_name(head.name)?;
        let rest = match command {
            Command::Del | Command::Gc => Rest::default(),
            Command::Add | Command::Check | Command::Status => typed(config)?,
        };
        rest.check(version, name, config)
    }

    /// The attachments that GC must keep; none when the runtime didn't say, so that nothing is
    /// known to be stale. `cnitool gc` doesn't say.
    ///
    /// # Errors
    /// 7 when it isn't a list of attachments: removing by half a list would remove living pods.
    pub fn valid_attachments(&self) -> Result<Option<BTreeSet<AttachmentId>>, CniError> {
        if self.attachments.is_empty() {
            return Ok(None);
        }
        let mut valid = BTreeSet::new();
        for value in &self.attachments {
            let list: Option<Vec<GcAttachment>> = serde_path_to_error::deserialize(value)
                .map_err(|e| CniError::config(ATTACHMENT_KEYS[0], &e))?;
            // Names that can't be ours keep nothing of ours.
            let named = list.into_iter().flatten();
            valid.extend(named.filter_map(|a| AttachmentId::new(&a.container_id, &a.ifname).ok()));
        }
        Ok(Some(valid))
    }
}

fn typed<T: for<'de> Deserialize<'de>>(config: &Value) -> Result<T, CniError> {
    if !config.is_object() {
        return Err(CniError::decode(
            "the network configuration",
            &"not a JSON object",
        ));
    }
    serde_path_to_error::deserialize(config)
        .map_err(|e| CniError::config(&e.path().to_string(), e.inner()))
}

fn checked_name(name: Option<String>) -> Result<String, CniError> {
    let name = name.unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let begins = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && name.len() <= MAX_NAME && name.bytes().all(allowed) {
        return Ok(name);
    }
    let fault = format!(
        "it must begin with a letter or digit and hold at most {MAX_NAME} letters, digits, '_', '.' and '-'"
    );
    Err(CniError::config("name", &fault))
}

impl Rest {
    fn check(self, version: Version, name: String, config: &Value) -> Result<NetConf, CniError> {
        if let Some(mtu) = self.mtu.filter(|mtu| !MTU.contains(mtu)) {
            let fault = format!("{mtu} is not between {} and {}", MTU.start(), MTU.end());
            return Err(CniError::config("mtu", &fault));
        }
        if let Some(ipam) = self
            .ipam
            .filter(|ipam| !matches!(ipam.kind.as_str(), "" | "fairlead"))
        {
            let fault = format!(
                "{:?} can't be used: fairlead gives addresses of the node's podCIDRs; leave ipam out",
                ipam.kind
            );
            return Err(CniError::config("ipam.type", &fault));
        }
        let timeout_secs = self.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECS);
        if !(1..=300).contains(&timeout_secs) {
            return Err(CniError::config(
                "timeoutSeconds",
                &"it must be from 1 to 300",
            ));
        }
        let attachments = ATTACHMENT_KEYS.iter().filter_map(|key| config.get(key));
        Ok(NetConf {
            version,
            name,
            mtu: self.mtu,
            socket: absolute("socket", self.socket, DEFAULT_SOCKET)?,
            spool: absolute("spool", self.spool, DEFAULT_SPOOL)?,
            timeout_secs,
            dns: self.dns.checked("dns", "nameservers")?,
            runtime_config: self.runtime_config.check()?,
            prev_result: config.get("prevResult").filter(|v| !v.is_null()).cloned(),
            attachments: attachments.cloned().collect(),
        })
    }
}

fn absolute(key: &str, path: Option<PathBuf>, default: &str) -> Result<PathBuf, CniError> {
    match path {
        None => Ok(default.into()),
        Some(path) if path.is_absolute() => Ok(path),
        Some(_) => Err(CniError::config(
            key,
            &format!("it must be an absolute path like {default}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(key: &str, value: Value) -> Value {
        let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "fairlead-cni"});
        config[key] = value;
        config
    }

    fn refused(config: &Value, code: u32, part: &str) {
        let error = NetConf::parse(config).unwrap_err();
        assert_eq!(error.code, code, "{config}: {error}");
        assert!(error.to_string().contains(part), "{config}: {error}");
    }

    #[test]
    fn defaults_and_given_values() {
        let conf = NetConf::parse(&with("anything", json!({"else": 1}))).unwrap();
        assert_eq!(
            (conf.version, conf.name.as_str(), conf.mtu),
            (Version::V1_1_0, "pods", None)
        );
        assert_eq!(conf.spool, PathBuf::from(DEFAULT_SPOOL));
        assert!(conf.prev_result.is_none() && conf.dns.is_empty());
        let conf = NetConf::parse(&json!({
            "cniVersion": "0.3.1", "name": "pods", "mtu": 1450, "socket": "/a", "spool": "/b",
            "timeoutSeconds": 5, "ipam": {"type": "fairlead"}, "prevResult": {"ips": []},
            "dns": {"nameservers": ["10.96.0.10"], "search": null},
            "capabilities": {"ips": true}, "runtimeConfig": {"ips": ["100.11.1.7"]},
        }))
        .unwrap();
        assert_eq!(
            (conf.version, conf.mtu, conf.timeout_secs),
            (Version::V0_3_1, Some(1450), 5)
        );
        assert_eq!((conf.socket, conf.spool), ("/a".into(), "/b".into()));
        assert_eq!(conf.dns.nameservers, ["10.96.0.10"]);
        assert_eq!(
            conf.runtime_config.ips,
            ["100.11.1.7".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(conf.prev_result, Some(json!({"ips": []})));
    }

    #[test]
    fn nothing_for_a_key_is_its_absence() {
        for key in [
            "mtu",
            "ipam",
            "dns",
            "runtimeConfig",
            "capabilities",
            "prevResult",
            "socket",
        ] {
            NetConf::parse(&with(key, Value::Null)).unwrap();
        }
        for ipam in [json!({}), json!({"type": ""}), json!({"type": "fairlead"})] {
            NetConf::parse(&with("ipam", ipam)).unwrap();
        }
    }

    #[test]
    fn bad_values_name_their_key() {
        refused(&json!([]), 6, "not a JSON object");
        refused(&json!({"name": "pods"}), 1, "0.1.0");
        refused(&with("cniVersion", json!("2.0.0")), 1, "2.0.0");
        refused(&with("cniVersion", json!(1)), 7, "cniVersion");
        for name in [
            json!(null),
            json!(""),
            json!("../x"),
            json!("a".repeat(256)),
        ] {
            refused(&with("name", name), 7, "name");
        }
        for mtu in [
            json!(0),
            json!(1279),
            json!(65536),
            json!("1500"),
            json!(-1),
        ] {
            refused(&with("mtu", mtu), 7, "mtu");
        }
        refused(
            &with("ipam", json!({"type": "host-local"})),
            7,
            "ipam.type: \"host-local\"",
        );
        refused(&with("ipam", json!("host-local")), 7, "ipam");
        refused(&with("spool", json!("spool")), 7, "spool");
        refused(&with("timeoutSeconds", json!(301)), 7, "timeoutSeconds");
        refused(
            &with("dns", json!({"nameservers": ["x"]})),
            7,
            "dns.nameservers",
        );
        refused(&with("dns", json!({"search": [1]})), 7, "dns.search[0]");
        refused(
            &with("capabilities", json!({"ips": "yes"})),
            7,
            "capabilities.ips",
        );
        refused(
            &with("runtimeConfig", json!({"ips": "100.11.1.7"})),
            7,
            "runtimeConfig.ips",
        );
        refused(
            &with("runtimeConfig", json!({"portMappings": [{"hostPort": 80}]})),
            2,
            "portMappings",
        );
    }

    #[test]
    fn a_value_that_add_refuses_does_not_keep_a_pod_from_being_removed() {
        let mut config = with("runtimeConfig", json!({"portMappings": [{"hostPort": 80}]}));
        config["mtu"] = json!("large");
        for command in [Command::Add, Command::Check, Command::Status] {
            assert!(NetConf::parse_for(command, &config).is_err(), "{command:?}");
        }
        for command in [Command::Del, Command::Gc] {
            assert_eq!(NetConf::parse_for(command, &config).unwrap().name, "pods");
            refused(&json!({"cniVersion": "1.1.0"}), 7, "name");
        }
    }

    #[test]
    fn the_configuration_as_delivered_is_taken_in_each_of_its_versions() {
        let text = include_str!("../../../deploy/10-fairlead.conflist");
        let list: Value = serde_json::from_str(text).unwrap();
        let versions = list["cniVersions"].as_array().unwrap();
        // What a runtime takes that doesn't know the list.
        assert!(versions.contains(&list["cniVersion"]));
        for version in versions {
            for plugin in list["plugins"].as_array().unwrap() {
                assert_eq!(
                    plugin["type"], "fairlead-cni",
                    "no other is sure to be there"
                );
                let mut config = plugin.clone();
                (config["cniVersion"], config["name"]) = (version.clone(), list["name"].clone());
                NetConf::parse(&config).unwrap();
            }
        }
    }

    fn valid(config: &Value) -> Result<Option<Vec<String>>, CniError> {
        let valid = NetConf::parse_for(Command::Gc, config)?.valid_attachments()?;
        Ok(valid.map(|set| set.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn what_gc_must_keep_is_taken_from_both_keys() {
        let list = |id: &str| json!([{"containerID": id, "ifname": "eth0"}]);
        for key in ATTACHMENT_KEYS {
            assert_eq!(valid(&with(key, list("c1"))).unwrap().unwrap(), ["c1/eth0"]);
        }
        let mut both = with(ATTACHMENT_KEYS[0], list("c1"));
        both[ATTACHMENT_KEYS[1]] = list("c2");
        assert_eq!(valid(&both).unwrap().unwrap(), ["c1/eth0", "c2/eth0"]);
    }

    #[test]
    fn gc_tells_no_list_from_an_empty_one() {
        assert_eq!(valid(&with("x", json!(1))).unwrap(), None);
        for empty in [json!([]), json!(null)] {
            assert_eq!(
                valid(&with(ATTACHMENT_KEYS[0], empty)).unwrap().unwrap(),
                [""; 0]
            );
        }
        let foreign = json!([{"containerID": "../x", "ifname": "eth0"}, {"containerID": "c1", "ifname": "e"}]);
        assert_eq!(
            valid(&with(ATTACHMENT_KEYS[0], foreign)).unwrap().unwrap(),
            ["c1/e"]
        );
        for bad in [
            json!({}),
            json!("c1"),
            json!([1]),
            json!([{"containerID": 1}]),
        ] {
            assert_eq!(valid(&with(ATTACHMENT_KEYS[0], bad)).unwrap_err().code, 7);
        }
    }
}
