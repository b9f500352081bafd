//! The node's part of the network that the kernel holds without eBPF: links into sandboxes
//! (`link`), routes to other nodes (`route`), the uplink (`uplink`), settings (`sysctl`) and the
//! masquerade of traffic that leaves the cluster (`masquerade`). `netns` is the only place that
//! changes namespaces. Nothing here decides: the callers (`cni`, `agent`) bring plans, this applies
//! them and compares them with the kernel. No program is executed.

mod error;
pub mod foreign;
pub mod link;
pub mod masquerade;
mod message;
pub mod netns;
pub mod route;
pub mod sock_diag;
mod socket;
pub mod sysctl;
mod table;
pub mod uplink;
pub mod way;
mod wire;

pub use error::{NetlinkError, Refusal, RouteConflict};

use std::net::{Ipv4Addr, Ipv6Addr};

/// Protocol number (`ip route … proto 157`) of every route that is ours.
pub const ROUTE_PROTOCOL: u8 = 157;
/// The gateway that every pod sees, answered for by the datapath. No interface has it.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Runs work that blocks for microseconds to milliseconds (a netlink call waits for the kernel's
/// one configuration lock) off the async threads, in the namespace of this process.
async fn blocking<T: Send + 'static>(
    name: &'static str,
    task: impl FnOnce() -> Result<T, NetlinkError> + Send + 'static,
) -> Result<T, NetlinkError> {
    tokio::task::spawn_blocking(task)
        .await
        .unwrap_or(Err(NetlinkError::Thread(name)))
}
