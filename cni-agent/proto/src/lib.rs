//! The gRPC interfaces between a node's plugins and Kubernetes, generated from `proto`. Requests that may have
//! secrets in them have no `Debug`: nobody prints one by accident.
#![allow(clippy::all, reason = "generated")]

/// The Container Storage Interface.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// How the kubelet takes plugins.
pub mod registration {
    tonic::include_proto!("pluginregistration.v1");
}
