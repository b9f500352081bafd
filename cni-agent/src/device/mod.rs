//! The node's devices for its pods: any that the configuration finds on it is a resource that the kubelet hands out, by
//! the device plugin API v1beta1 or by Dynamic Resource Allocation.
//!
//! One direction: the configuration's text is checked into a [`plan`] (PURE, [`config`]); what the node has is looked up
//! ([`host`]).

pub mod config;
pub mod found;
pub mod host;
pub mod name;
mod nearest;
pub mod plan;
pub mod presets;
pub mod template;
