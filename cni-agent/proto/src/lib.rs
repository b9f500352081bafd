//! The gRPC interfaces between a node's plugins and Kubernetes, generated from `proto`. Messages that may have
//! secrets in them have no `Debug`: nobody prints one by accident.
#![allow(clippy::all, reason = "generated")]

/// The Container Storage Interface.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// How the kubelet takes plugins.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// The interfaces themselves, with their options: a `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
