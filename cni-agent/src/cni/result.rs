//! The result of ADD: built for the version asked for, and read back in any version (`prevResult`
//! of CHECK and of chains). Pure.

use super::{
    CniError,
    capabilities::{Dns, or_default},
    netconf::NetConf,
    version::Version,
};
use crate::model::Endpoint;
use cni_ebpf_common::addr::{GATEWAY_V4, GATEWAY_V6};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What one or more plugins did for an attachment, in the words of the newest version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResult {
    #[serde(deserialize_with = "or_default")]
    pub interfaces: Vec<Interface>,
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<IpConfig>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// The result that a runtime hands back, for CHECK and to later plugins of a chain.
pub type PrevResult = AddResult;

/// An interface, in the sandbox or on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path; empty on the host.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub sandbox: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address of the attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<i64>,
    pub address: IpNetwork,
    #[serde(
        default,
        deserialize_with = "maybe_address",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<IpAddr>,
}

/// A route of the attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNetwork,
    #[serde(
        default,
        deserialize_with = "maybe_address",
        skip_serializing_if = "Option::is_none"
    )]
    pub gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

/// Go writes an absent address as an empty text, too.
fn maybe_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// The result of ADD for the version that the configuration asks for: ours after what the plugins
/// before us in the chain did.
///
/// # Errors
/// None in practice: a value that can't be JSON would be a fault of ours.
pub fn added(
    previous: &PrevResult,
    endpoint: &Endpoint,
    conf: &NetConf,
) -> Result<Value, CniError> {
    let mut result = previous.clone();
    result.append(endpoint);
    if let Some(dns) = [&conf.runtime_config.dns, &conf.dns]
        .into_iter()
        .find(|d| !d.is_empty())
    {
        result.dns = dns.clone();
    }
    result.to_value(conf.version)
}

/// The pods' gateway of the address's family.
fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::from(GATEWAY_V4).into(),
        IpAddr::V6(_) => Ipv6Addr::from(GATEWAY_V6).into(),
    }
}

/// Everything of the address's family.
fn everything(address: IpAddr) -> IpNetwork {
    const V4: Option<Ipv4Network> = Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0);
    const V6: Option<Ipv6Network> = Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0);
    match address {
        IpAddr::V4(_) => const { V4.expect("0 is a prefix length") }.into(),
        IpAddr::V6(_) => const { V6.expect("0 is a prefix length") }.into(),
    }
}

impl AddResult {
    /// Reads a result of any version that is spoken. A version of its own goes before `version`,
    /// the configuration's: before 1.0.0 a result needs none.
    ///
    /// # Errors
    /// 7, naming the field.
    pub fn parse(value: &Value, version: &str) -> Result<Self, CniError> {
        let own = value
            .get("cniVersion")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty());
        Version::parse(own.unwrap_or(version))
            .map_err(|e| CniError::config("prevResult.cniVersion", &e))?;
        if !value.is_object() {
            return Err(CniError::config("prevResult", &"it is not an object"));
        }
        serde_path_to_error::deserialize(value)
            .map_err(|e| CniError::config(&format!("prevResult.{}", e.path()), e.inner()))
    }

    /// What the plugins before us in the chain did; nothing if we are the first.
    ///
    /// # Errors
    /// 7 when it can't be read.
    pub fn before(conf: &NetConf) -> Result<Self, CniError> {
        conf.prev_result.as_ref().map_or_else(
            || Ok(Self::default()),
            |value| Self::parse(value, conf.version.as_str()),
        )
    }

    /// The result that CHECK must have.
    ///
    /// # Errors
    /// 7 when there is none, or it can't be read.
    pub fn required(conf: &NetConf) -> Result<Self, CniError> {
        let value = conf.prev_result.as_ref().ok_or_else(|| {
            let fault = "missing; CHECK needs the result of ADD, which the runtime must keep";
            CniError::config("prevResult", &fault)
        })?;
        Self::parse(value, conf.version.as_str())
    }

    /// Every address, in order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ips.iter().map(|ip| ip.address.ip()).collect()
    }

    /// The names of every interface, on the host and in the sandbox.
    pub fn interface_names(&self) -> impl Iterator<Item = &str> {
        self.interfaces
            .iter()
            .map(|interface| interface.name.as_str())
    }

    fn append(&mut self, endpoint: &Endpoint) {
        let mtu = Some(endpoint.mtu);
        self.interfaces.push(Interface {
            name: endpoint.host_ifname.clone(),
            mac: endpoint.host_mac.to_string(),
            mtu,
            ..Interface::default()
        });
        let pod_end = i64::try_from(self.interfaces.len()).ok();
        self.interfaces.push(Interface {
            name: endpoint.attachment.ifname().to_owned(),
            mac: endpoint.mac.to_string(),
            mtu,
            sandbox: endpoint.sandbox.clone(),
            ..Interface::default()
        });
        for address in endpoint.addresses.iter() {
            let gateway = Some(gateway(address));
            self.ips.push(IpConfig {
                interface: pod_end,
                address: address.into(),
                gateway,
            });
            self.routes.push(Route {
                dst: everything(address),
                gw: gateway,
                mtu: None,
                advmss: None,
                priority: None,
                table: None,
                scope: None,
            });
        }
    }

    /// The result in the words of that version: what it hasn't is left out.
    ///
    /// # Errors
    /// None in practice: a value that can't be JSON would be a fault of ours.
    pub fn to_value(&self, version: Version) -> Result<Value, CniError> {
        let mut result = self.clone();
        if !version.has_link_details() {
            for interface in &mut result.interfaces {
                (interface.mtu, interface.socket_path, interface.pci_id) = (None, None, None);
            }
            for route in &mut result.routes {
                (route.mtu, route.advmss, route.priority) = (None, None, None);
                (route.table, route.scope) = (None, None);
            }
        }
        let mut value =
            serde_json::to_value(&result).map_err(|e| CniError::internal(&e.to_string()))?;
        value["cniVersion"] = json!(version);
        if version.has_ip_family() {
            for (place, ip) in result.ips.iter().enumerate() {
                value["ips"][place]["version"] =
                    json!(if ip.address.is_ipv4() { "4" } else { "6" });
            }
        }
        Ok(value)
    }
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
