//! The node agent as a library; read it in this order: `model` (plain values), `ipam` and `store`
//! (what the node remembers), `state`, `source` and `service` (what the cluster wants), `netlink`
//! and `datapath` (what the kernel holds), `network` (the network part), `balancer` (addresses of load
//! balancers), `device` (the node's devices), `cni` (what the container runtime asks), `install` (how it gets to the runtime), `agent`,
//! `parts` and `server` (how it is put together), `health`, `health_check` and `metrics` (what watches
//! it), `query` and `cli`. `yaml` reads what people write, with its lines.

pub mod agent;
pub mod balancer;
pub mod cli;
pub mod clock;
pub mod cni;
pub mod config;
pub mod csi;
pub mod datapath;
pub mod device;
pub mod domains;
mod events;
mod folder_watch;
mod grpc;
pub mod health;
pub mod health_check;
pub mod install;
pub mod ipam;
pub mod log_level;
mod memory;
pub mod metrics;
pub mod migrate;
pub mod model;
pub mod netlink;
pub mod network;
pub mod node;
pub mod parts;
pub mod policy;
mod private_file;
pub mod query;
pub mod server;
pub mod service;
pub mod source;
pub mod state;
pub mod store;
mod yaml;
