//! What Calico, Flannel and the reference plugins leave on a node: found, explained and removed. Runs on
//! the node without an agent. [`recognise`] decides and has no effects; `scan` reads files and kernel;
//! [`clean`] removes only what a finding says it removes.

mod clean;
mod finding;
mod place;
pub mod policies;
pub mod recognise;
mod scan;
#[cfg(test)]
mod tests;

pub use clean::{Outcome, clean};
pub use finding::{Finding, Kind, Removal};
pub use scan::scan;
