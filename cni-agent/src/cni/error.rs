//! Errors by the codes of the CNI specification (1.1.0, section 5), ours from 100 on.

use crate::{
    ipam::IpamError,
    model::{AttachmentId, InvalidAttachment},
    store::StoreError,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The codes in use. Stable: people search for them.
pub mod code {
    /// The version asked for is not spoken.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The configuration has a field that can't be honoured.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// No such attachment; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A variable of the environment is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Something can't be read or written.
    pub const IO: u32 = 5;
    /// Something can't be decoded.
    pub const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub const CONFIG: u32 = 7;
    /// Passing trouble.
    pub const TRY_AGAIN: u32 = 11;
    /// ADD can't be served (STATUS).
    pub const NOT_AVAILABLE: u32 = 50;
    /// ADD can't be served, and running pods may be cut off (STATUS).
    pub const LIMITED: u32 = 51;
    /// Ours: every address of the node's podCIDR is in use.
    pub const EXHAUSTED: u32 = 100;
    /// Ours: the kernel refused a step.
    pub const KERNEL: u32 = 101;
    /// Ours: CHECK found a difference.
    pub const DIFFERS: u32 = 102;
    /// Ours: some steps of one operation failed, the others were done.
    pub const SEVERAL: u32 = 103;
    /// Ours: the caller is not root.
    pub const FORBIDDEN: u32 = 104;
    /// A fault of ours; the number that the reference library uses for one of its own.
    pub const INTERNAL: u32 = 999;
}

/// A CNI call that failed: what the plugin prints for the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What failed, in one sentence.
    pub msg: String,
    /// What to do about it, or where it was seen; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.details)
        }
    }
}

impl From<InvalidAttachment> for CniError {
    fn from(fault: InvalidAttachment) -> Self {
        Self::environment(fault.to_string())
    }
}

impl From<&IpamError> for CniError {
    fn from(fault: &IpamError) -> Self {
        match fault {
            IpamError::Exhausted { .. } => Self::exhausted(fault),
            // Passes: the Node object comes, the other call ends.
            IpamError::NoPrefix | IpamError::AlreadyHeld(_) => Self::try_again(&fault.to_string()),
            IpamError::Outside { .. }
            | IpamError::Unusable { .. }
            | IpamError::InUse { .. }
            | IpamError::TwoOfAFamily { .. } => Self::new(code::CONFIG, fault.to_string()),
            // Of the node's podCIDRs, which a call has no part in.
            IpamError::HostBits(_) | IpamError::TwoPrefixesOfAFamily { .. } => {
                Self::internal(&fault.to_string())
            }
        }
    }
}

impl From<&StoreError> for CniError {
    fn from(fault: &StoreError) -> Self {
        match fault {
            StoreError::Closed => Self::try_again(&fault.to_string()),
            StoreError::Refused(_) => Self::internal(&fault.to_string()),
            _ => Self::io(fault),
        }
    }
}

impl CniError {
    /// An error of that code.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// Adds what to do about it, or where it was seen.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// 1: a version that is not spoken.
    pub fn incompatible(msg: impl Into<String>) -> Self {
        Self::new(code::INCOMPATIBLE_VERSION, msg)
    }

    /// 2: a field that can't be honoured. The specification wants its key and value told.
    pub fn unsupported(field: &str, value: &impl fmt::Display) -> Self {
        let mut value: String = value.to_string();
        if let Some((cut, _)) = value.char_indices().nth(200) {
            value.truncate(cut);
            value.push('…');
        }
        Self::new(
            code::UNSUPPORTED_FIELD,
            format!("unsupported field {field}: {value}"),
        )
    }

    /// 3: the store has no such attachment.
    pub fn unknown_container(attachment: &AttachmentId) -> Self {
        Self::new(
            code::UNKNOWN_CONTAINER,
            format!("attachment {attachment} is unknown"),
        )
        .with_details("it was never added, or is deleted already")
    }

    /// 4: a variable of the environment; `msg` names it.
    pub fn environment(msg: impl Into<String>) -> Self {
        Self::new(code::ENVIRONMENT, msg)
    }

    /// 4: ADD came without the sandbox's descriptor.
    pub fn no_sandbox(netns: &str) -> Self {
        Self::environment(format!(
            "CNI_NETNS {netns:?} came without an open network namespace"
        ))
        .with_details("fairlead-cni opens and sends it: install plugin and agent of one release")
    }

    /// 5: something can't be read or written.
    pub fn io(fault: &impl fmt::Display) -> Self {
        Self::new(code::IO, fault.to_string())
    }

    /// 6: something can't be decoded.
    pub fn decode(what: &str, fault: &impl fmt::Display) -> Self {
        Self::new(code::DECODE, format!("{what} can't be decoded")).with_details(fault.to_string())
    }

    /// 7: a wrong network configuration. `field` is the path of the key; `fault` says what is wrong
    /// with it, and what would be right.
    pub fn config(field: &str, fault: &impl fmt::Display) -> Self {
        Self::new(
            code::CONFIG,
            format!("network configuration, {field}: {fault}"),
        )
    }

    /// 11: passing trouble.
    pub fn try_again(msg: &str) -> Self {
        Self::new(code::TRY_AGAIN, msg)
    }

    /// 50: what keeps ADD from being served.
    pub fn not_available(reason: &str) -> Self {
        Self::new(code::NOT_AVAILABLE, reason)
    }

    /// 51: likewise, and running pods may be cut off.
    pub fn limited(reason: &str) -> Self {
        Self::new(code::LIMITED, reason)
    }

    /// 100: no address is left.
    pub fn exhausted(fault: &impl fmt::Display) -> Self {
        Self::new(code::EXHAUSTED, fault.to_string())
    }

    /// 101: the kernel refused a step.
    pub fn kernel(fault: &impl fmt::Display) -> Self {
        Self::new(code::KERNEL, fault.to_string())
    }

    /// 102: the first difference that CHECK found.
    pub fn differs(difference: &str) -> Self {
        Self::new(code::DIFFERS, difference)
            .with_details("delete and add the pod again, or undo the change that was made by hand")
    }

    /// 103: what failed of an operation that went on.
    pub fn several(msg: &str, failures: &[String]) -> Self {
        Self::new(code::SEVERAL, msg).with_details(failures.join("; "))
    }

    /// 104: the caller may not ask.
    pub fn forbidden(msg: &str) -> Self {
        Self::new(code::FORBIDDEN, msg)
    }

    /// 999: a fault of ours.
    pub fn internal(fault: &str) -> Self {
        Self::new(code::INTERNAL, format!("a fault in fairlead: {fault}"))
            .with_details("please report it with the agent's log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_field_is_told_with_its_value_cut() {
        let error = CniError::unsupported("runtimeConfig.bandwidth", &"x".repeat(1000));
        assert_eq!(error.code, 2);
        assert!(
            error
                .msg
                .starts_with("unsupported field runtimeConfig.bandwidth: xxx")
        );
        assert!(error.msg.len() < 300);
    }

    #[test]
    fn empty_details_are_left_out() {
        let json = serde_json::to_string(&CniError::try_again("wait")).unwrap();
        assert_eq!(json, r#"{"code":11,"msg":"wait"}"#);
        assert_eq!(
            CniError::try_again("wait").with_details("why").to_string(),
            "wait: why"
        );
    }

    #[test]
    fn what_passes_and_what_the_caller_can_change_is_told_apart() {
        let address = "100.11.1.7".parse().unwrap();
        let prefix = "100.11.1.0/24".parse().unwrap();
        let exhausted = IpamError::Exhausted {
            prefix,
            used: 254,
            total: 254,
        };
        let error = CniError::from(&exhausted);
        assert_eq!((error.code, error.msg.contains("254 of 254")), (100, true));
        assert_eq!(CniError::from(&IpamError::NoPrefix).code, 11);
        assert_eq!(
            CniError::from(&IpamError::Unusable { address, prefix }).code,
            7
        );
        assert_eq!(CniError::from(&StoreError::Closed).code, 11);
        assert_eq!(
            CniError::from(&StoreError::Write("disk full".to_owned())).code,
            5
        );
    }

    #[test]
    fn a_bad_name_is_a_fault_of_the_environment() {
        let error = CniError::from(AttachmentId::new("../x", "eth0").unwrap_err());
        assert_eq!(error.code, 4);
        assert!(error.msg.contains("CNI_CONTAINERID"));
    }
}
