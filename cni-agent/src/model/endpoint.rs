//! An endpoint: a pod interface that this node serves.

use super::AttachmentId;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Mac {
    type Err = String;
    /// Takes six two-digit hexadecimal groups joined by ':' that name one station.
    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("{text:?} is not a MAC address like 02:00:5e:10:00:01");
        let mut mac = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut mac {
            let group = groups.next().filter(|g| g.len() == 2).ok_or_else(fault)?;
            *byte = u8::from_str_radix(group, 16).map_err(|_| fault())?;
        }
        if groups.next().is_some() {
            return Err(fault());
        }
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(format!(
                "{text} is a group or zero address, not one station's"
            ));
        }
        Ok(Self(mac))
    }
}

/// The addresses of one endpoint: at most one of each family, at least one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addresses {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }
}

/// The Kubernetes pod behind an attachment, as the runtime names it in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything the agent must know to serve, check, adopt and remove one attachment. The store
/// holds this as JSON: fields may be added with a default, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub attachment: AttachmentId,
    /// Number in maps and events, unique on the node while the endpoint lives.
    pub id: u32,
    /// Name of the CNI network (`name` of the configuration).
    pub network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    pub addresses: Addresses,
    /// MAC of the pod's end.
    pub mac: Mac,
    /// MAC of the host's end.
    pub host_mac: Mac,
    /// Name of the host's end, derived from the attachment: stable across restarts.
    pub host_ifname: String,
    /// Bytes of IP per packet.
    pub mtu: u32,
    /// Path of the sandbox's network namespace as the runtime gave it; only shown, never opened.
    pub sandbox: String,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Whether ADD was finished: a link that is down then was set so by somebody, and its pod lives.
    /// Written along with a later commit; a link that is up tells the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wired: bool,
}
