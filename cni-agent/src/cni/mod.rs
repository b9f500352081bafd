//! What container runtimes and `fairlead-cni` say and hear: the frames and words of the shim
//! protocol ([`frame`], [`protocol`]), the network configuration ([`netconf`], [`capabilities`]),
//! `CNI_ARGS` ([`args`]), who waits ([`caller`]), results by version ([`result`], [`version`]) and errors by CNI's codes.
//! All but `frame` is pure.

pub mod args;
pub mod caller;
pub mod capabilities;
mod error;
pub mod frame;
pub mod netconf;
pub mod protocol;
pub mod result;
pub mod version;

pub use error::{CniError, code};
