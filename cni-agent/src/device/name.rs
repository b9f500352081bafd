//! PURE: the names that the kubelet knows resources and devices by.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Longest id of a device that the kubelet's API grants.
const LONGEST_ID: usize = 63;
/// Longest name of a resource without its domain, and longest label of the domain (Kubernetes' qualified names).
const LONGEST_LABEL: usize = 63;
/// Longest domain: the quota of a resource is called `requests.` and its name, which has to fit too.
const LONGEST_DOMAIN: usize = 253 - "requests.".len();

/// Name of an extended resource, like `extend-k8s.io/example`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName(String);

impl ResourceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its domain.
    pub fn short(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, short)| short)
    }

    /// Name of the socket where its plugin answers: the same after every start, and short, for the path of a socket has
    /// 107 bytes.
    pub fn socket(&self) -> String {
        let readable: String = self.short().chars().take(20).collect();
        format!("fairlead-{readable}-{}.sock", digest(&self.0, 8))
    }
}

impl TryFrom<String> for ResourceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        const SHAPE: &str = "write DOMAIN/NAME, like example.com/serial";
        let (domain, short) = text
            .split_once('/')
            .ok_or_else(|| format!("{text:?} has no domain; {SHAPE}"))?;
        let labels = domain.split('.');
        let is_domain = domain.len() <= LONGEST_DOMAIN
            && labels.clone().count() > 0
            && labels.into_iter().all(is_label);
        if !is_domain {
            return Err(format!(
                "{domain:?} is no domain: lower-case letters, digits, dashes and dots, at most {LONGEST_DOMAIN}; {SHAPE}"
            ));
        }
        if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") {
            return Err(format!(
                "names in {domain:?} are Kubernetes' own, and it takes no such device plugin; take a domain of yours"
            ));
        }
        if domain.starts_with("requests.") {
            return Err(format!(
                "{domain:?} begins with `requests.`, which Kubernetes keeps for quotas; take another domain"
            ));
        }
        let is_short = short.len() <= LONGEST_LABEL
            && short
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && short.starts_with(|c: char| c.is_ascii_alphanumeric())
            && short.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !is_short {
            return Err(format!(
                "{short:?} is no name: letters, digits, `-`, `_` and `.`, at most {LONGEST_LABEL}, with a letter or digit at both ends; {SHAPE}"
            ));
        }
        Ok(Self(text))
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> Self {
        name.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=LONGEST_LABEL).contains(&label.len())
        && label.chars().all(|c| word(c) || c == '-')
        && label.starts_with(word)
        && label.ends_with(word)
}

/// Id of a device as the kubelet keeps it, also over restarts: made of what stays the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(String);

impl DeviceId {
    /// Of a device whose stable name is `key`; `share` counts from 0 where several pods may have it at once.
    ///
    /// Letters, digits, `-`, `_`, `.` and `:` stay, so that the id can be the name of a CDI device; what is changed or
    /// too long gets a digest, so that different names have different ids.
    pub fn new(key: &str, share: Option<u32>) -> Self {
        let tail = share.map_or_else(String::new, |share| format!("-{share}"));
        let room = LONGEST_ID - tail.len();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        let trimmed = key.strip_prefix("/dev/").unwrap_or(key);
        let mut id: String = trimmed
            .chars()
            .map(|c| if fits(c) { c } else { '-' })
            .collect();
        let ends = |text: &str| {
            let end = |c: char| c.is_ascii_alphanumeric();
            text.starts_with(end) && text.ends_with(end)
        };
        // A plain path of a device is told by its own name: slashes alone change nothing that could be mistaken, except
        // where another path has a dash there.
        let is_plain = trimmed.chars().all(fits);
        if !is_plain || id.len() > room || !ends(&id) {
            let digest = digest(key, 8);
            id.truncate(room - digest.len() - 1);
            let kept = id.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            id = match kept.is_empty() {
                true => digest,
                false => format!("{kept}-{digest}"),
            };
        }
        Self(id + &tail)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for DeviceId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first digits of what identifies a text.
pub(super) fn digest(text: &str, digits: usize) -> String {
    let mut hex: String = Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hex.truncate(digits);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Result<ResourceName, String> {
        ResourceName::try_from(text.to_owned())
    }

    #[test]
    fn what_the_kubelet_takes_is_a_name_and_nothing_else_is() {
        for good in ["extend-k8s.io/example", "a/b", "example.com/Serial_1.0"] {
            assert_eq!(name(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in [
            "serial",
            "/serial",
            "example.com/",
            "Example.com/serial",
            "kubernetes.io/serial",
            "gpu.kubernetes.io/serial",
            "requests.example.com/serial",
            "example..com/serial",
            "-example.com/serial",
            "example.com/serial/1",
            "example.com/-serial",
            &format!("example.com/{long}"),
            &format!("{long}.com/serial"),
        ] {
            let problem = name(bad).unwrap_err();
            let remedy = ["write", "take"].iter().any(|word| problem.contains(word));
            assert!(remedy, "{bad}: {problem}");
        }
    }

    #[test]
    fn a_socket_of_the_longest_name_fits_the_path_of_a_socket() {
        let label = "a".repeat(60);
        let longest = format!("{label}.{label}.{label}.{label}/{}", "n".repeat(63));
        let socket = name(&longest).unwrap().socket();
        let fresh = format!("/var/lib/kubelet/device-plugins/.{socket}.new-4194304");
        assert!(fresh.len() < 108, "{}", fresh.len());
        assert_ne!(
            name("a.io/x").unwrap().socket(),
            name("b.io/x").unwrap().socket()
        );
    }

    #[test]
    fn a_device_is_told_by_its_own_name_where_that_is_one() {
        assert_eq!(DeviceId::new("0000:3b:00.0", None).as_str(), "0000:3b:00.0");
        assert_eq!(DeviceId::new("/dev/kvm", Some(3)).as_str(), "kvm-3");
        let link = DeviceId::new(
            "/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0",
            None,
        );
        assert!(link.as_str().starts_with("serial-by-id-usb-FTDI"), "{link}");
    }

    proptest! {
        #[test]
        fn different_keys_have_different_ids_that_the_kubelet_takes(
            keys in prop::collection::hash_set("[ -~]{1,90}", 1..40),
            share in prop::option::of(0_u32..10_000),
        ) {
            let ids: std::collections::HashSet<_> =
                keys.iter().map(|key| DeviceId::new(key, share)).collect();
            // `/dev/x` and `x` are one thing.
            let things: std::collections::HashSet<_> =
                keys.iter().map(|key| key.strip_prefix("/dev/").unwrap_or(key)).collect();
            prop_assert!(ids.len() >= things.len());
            for id in ids {
                prop_assert!((1..=63).contains(&id.as_str().len()), "{id}");
            }
        }
    }
}
