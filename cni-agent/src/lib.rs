//! The node agent as a library; read it in this order: `model` (plain values), `store` and `ipam`
//! (what the node remembers), `source` (what the cluster wants), `netlink` and `datapath` (what the
//! kernel holds), `cni` (what the container runtime asks), `agent` (how it is put together), `cli`.

pub mod cni;
pub mod model;
