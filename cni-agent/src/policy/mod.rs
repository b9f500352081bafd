//! What policies allow, compiled for the pods of one node. PURE.
//!
//! Policies speak of pods by their labels, packets have addresses. In between are numbers: an address has an
//! *identity*, which stands for the peers of policies that it is one of, and a local pod has a *class*, which
//! stands for the rules that select it. A verdict is a set of ports for a class, a direction and an identity.
//! The numbers are this node's own: nothing is agreed on with others. What no peer of a local pod's policies
//! means has no entry anywhere, so that the tables follow what the node's pods can reach.
//!
//! [`Compiler::update`] makes the tables of a cluster, [`plan`] says in which order to write what differs.

mod compiler;
mod explain;
mod peers;
mod plan;
mod ports;
mod preview;
mod rules;
mod select;
mod tables;
#[cfg(test)]
mod tests;

pub use compiler::{Compiler, LocalPod};
pub use explain::{AskedRule, Because, Explanation, Port, explain, selected_by};
pub use plan::{Plan, plan};
pub use ports::PortSet;
pub use preview::{Flip, Preview};
pub use tables::{Direction, EndpointPolicy, Start, Tables, Verdict, VerdictKey};
