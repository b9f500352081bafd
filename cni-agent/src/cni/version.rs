//! The versions of the CNI specification that are spoken, and how their results differ.

use super::CniError;
use serde::Serialize;
use std::fmt;

/// A version of the specification; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Version {
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// As `cniVersion` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that name.
    ///
    /// # Errors
    /// 1 for one that is not spoken.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                CniError::incompatible("incompatible CNI versions")
                    .with_details(format!("config is {text:?}, plugin supports {known}"))
            })
    }

    /// Whether `ips` say their family (`"version": "4"`): up to 0.4.0.
    pub fn has_ip_family(self) -> bool {
        self < Self::V1_0_0
    }

    /// Whether interfaces have `mtu`, `socketPath` and `pciID`, and routes `mtu`, `advmss`,
    /// `priority`, `table` and `scope`: from 1.1.0.
    pub fn has_link_details(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_ordered() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Ok(version));
            assert_eq!(serde_json::json!(version), version.as_str());
        }
        assert!(Version::ALL.is_sorted());
        for text in ["", "0.1.0", "0.2.0", "1.2.0", "1.1", "v1.1.0"] {
            assert_eq!(Version::parse(text).unwrap_err().code, 1, "{text}");
        }
    }
}
