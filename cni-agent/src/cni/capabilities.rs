//! `runtimeConfig`: what a runtime asks for one pod beyond the network's configuration. `ips`,
//! `mac` and `dns` are honoured; what belongs to chained plugins, or to none, is refused when it
//! asks for something: acting as if it were in force would be worse.

use super::CniError;
use crate::model::Mac;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// What is honoured of `runtimeConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Addresses asked for: at most one of each family.
    pub ips: Vec<IpAddr>,
    /// The pod end's address asked for.
    pub mac: Option<Mac>,
    /// For the result; the runtime writes the pod's resolv.conf.
    pub dns: Dns,
}

/// DNS as configurations and results have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub domain: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that nameservers are addresses and the rest fits on a line of resolv.conf.
    ///
    /// # Errors
    /// 7, naming the field under `field`.
    pub(super) fn checked(self, field: &str, nameservers: &str) -> Result<Self, CniError> {
        for server in &self.nameservers {
            if server.parse::<IpAddr>().is_err() {
                let fault = format!("{server:?} is no IP address");
                return Err(CniError::config(&format!("{field}.{nameservers}"), &fault));
            }
        }
        for word in self
            .search
            .iter()
            .chain(&self.options)
            .chain([&self.domain])
        {
            if word.chars().any(|c| c.is_control() || c == ' ') {
                return Err(CniError::config(
                    field,
                    &format!("{word:?} is not one word"),
                ));
            }
        }
        Ok(self)
    }
}

/// Takes null for nothing, as Go writes empty lists.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `runtimeConfig` as it comes; other keys are ignored, as all plugins do.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawRuntimeConfig {
    #[serde(deserialize_with = "or_default")]
    ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    mac: String,
    dns: Option<RawDns>,
    port_mappings: Value,
    bandwidth: Value,
    ip_ranges: Value,
    #[serde(rename = "infinibandGUID")]
    infiniband_guid: Value,
    #[serde(rename = "deviceID")]
    device_id: Value,
    aliases: Value,
}

/// The capability spells its keys another way than the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawDns {
    #[serde(deserialize_with = "or_default")]
    servers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    searches: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    options: Vec<String>,
}

impl RawRuntimeConfig {
    pub(super) fn check(self) -> Result<RuntimeConfig, CniError> {
        let chain = |plugin: &str| {
            format!(
                "take this capability from fairlead-cni and give it to {plugin} later in the chain"
            )
        };
        let nobody = || "take this capability from fairlead-cni: it can't be honoured".to_owned();
        for (key, value, remedy) in [
            ("portMappings", &self.port_mappings, chain("portmap")),
            ("bandwidth", &self.bandwidth, chain("bandwidth")),
            ("ipRanges", &self.ip_ranges, nobody()),
            ("infinibandGUID", &self.infiniband_guid, nobody()),
            ("deviceID", &self.device_id, nobody()),
            ("aliases", &self.aliases, nobody()),
        ] {
            if !asks_nothing(value) {
                let field = format!("runtimeConfig.{key}");
                return Err(CniError::unsupported(&field, value).with_details(remedy));
            }
        }
        let mac = match self.mac.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|e: String| CniError::config("runtimeConfig.mac", &e))?,
            ),
        };
        let RawDns {
            servers,
            searches,
            options,
        } = self.dns.unwrap_or_default();
        let dns = Dns {
            nameservers: servers,
            domain: String::new(),
            search: searches,
            options,
        };
        Ok(RuntimeConfig {
            ips: addresses(&self.ips)?,
            mac,
            dns: dns.checked("runtimeConfig.dns", "servers")?,
        })
    }
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, CniError> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in texts {
        let ip = parse_address(text).map_err(|e| CniError::config("runtimeConfig.ips", &e))?;
        if let Some(other) = ips.iter().find(|other| other.is_ipv4() == ip.is_ipv4()) {
            let fault =
                format!("{other} and {ip} are of one family; a pod has at most one of each");
            return Err(CniError::config("runtimeConfig.ips", &fault));
        }
        ips.push(ip);
    }
    Ok(ips)
}

/// An address, with or without a prefix length. The length is checked and not used: pods get
/// /32 and /128.
pub(super) fn parse_address(text: &str) -> Result<IpAddr, String> {
    let fault = || format!("{text:?} is no address like 100.11.1.7, 100.11.1.7/24 or fd00::7");
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| fault())?;
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    if length.is_some_and(|l| l.parse::<u8>().map_or(true, |l| l > longest)) {
        return Err(fault());
    }
    Ok(address.to_canonical())
}

/// Whether a value of a capability is as good as its absence: null, empty, zero, or made of those.
fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(asks_nothing),
        Value::Object(fields) => fields.values().all(asks_nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<RuntimeConfig, CniError> {
        serde_json::from_value::<RawRuntimeConfig>(value.clone())
            .unwrap()
            .check()
    }

    #[test]
    fn what_is_honoured() {
        let config = parse(&json!({
            "ips": ["100.11.1.7/24", "fd00:100:11:1::7"], "mac": "02:00:5e:10:00:01",
            "dns": {"servers": ["10.96.0.10"], "searches": ["svc.local"], "options": ["ndots:5"]},
            "io.kubernetes.cri.pod-annotations": {"a": "b"}, "cgroupPath": "/kubepods",
        }))
        .unwrap();
        let ips: Vec<String> = config.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["100.11.1.7", "fd00:100:11:1::7"]);
        assert_eq!(config.mac.unwrap().to_string(), "02:00:5e:10:00:01");
        assert_eq!(
            (&config.dns.nameservers[0], &config.dns.search[0]),
            (&"10.96.0.10".into(), &"svc.local".into())
        );
    }

    #[test]
    fn what_asks_for_nothing_is_no_request() {
        let nothing = json!({
            "ips": null, "mac": "", "dns": null, "portMappings": [], "aliases": null, "ipRanges": [[]],
            "bandwidth": {"ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0},
        });
        assert_eq!(parse(&nothing).unwrap(), RuntimeConfig::default());
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_key_and_value() {
        for (key, value) in [
            (
                "portMappings",
                json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]),
            ),
            ("bandwidth", json!({"ingressRate": 2048})),
            ("ipRanges", json!([[{"subnet": "10.1.2.0/24"}]])),
            ("infinibandGUID", json!("c2:11:22:33:44:55:66:77")),
            ("deviceID", json!("0000:04:00.5")),
            ("aliases", json!(["db"])),
        ] {
            let error = parse(&json!({key: value})).unwrap_err();
            assert_eq!(error.code, 2);
            assert!(
                error.msg.contains(key) && error.msg.contains(&value.to_string()),
                "{error}"
            );
            assert!(error.details.contains("capability"), "{error}");
        }
    }

    #[test]
    fn bad_values_name_their_field() {
        for (value, field) in [
            (json!({"ips": ["100.11.1"]}), "runtimeConfig.ips"),
            (json!({"ips": ["100.11.1.7/33"]}), "runtimeConfig.ips"),
            (
                json!({"ips": ["100.11.1.7", "100.11.1.8"]}),
                "at most one of each",
            ),
            (
                json!({"ips": ["100.11.1.7", "::ffff:100.11.1.8"]}),
                "at most one of each",
            ),
            (json!({"mac": "01:00:5e:00:00:01"}), "runtimeConfig.mac"),
            (
                json!({"dns": {"servers": ["dns.example"]}}),
                "runtimeConfig.dns.servers",
            ),
            (json!({"dns": {"searches": ["a\nb"]}}), "runtimeConfig.dns"),
        ] {
            let error = parse(&value).unwrap_err();
            assert_eq!(error.code, 7, "{value}");
            assert!(error.msg.contains(field), "{value}: {}", error.msg);
        }
    }
}
