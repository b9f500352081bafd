//! The gRPC interfaces between a node's plugins and Kubernetes, generated from `proto`. Messages that may have
//! secrets in them have no `Debug`: nobody prints one by accident.
#![allow(clippy::all, reason = "generated")]

/// The Container Storage Interface.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The kubelet's device plugins.
pub mod device {
    tonic::include_proto!("v1beta1");
}

/// Dynamic Resource Allocation.
pub mod dra {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// The health of devices in Dynamic Resource Allocation.
pub mod dra_health {
    tonic::include_proto!("v1alpha1");
}

/// What pods hold, as the kubelet says.
pub mod pod_resources {
    tonic::include_proto!("v1");
}

/// How the kubelet takes plugins.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// The interfaces themselves, with their options: a `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
