//! The CSI driver on a real disk, as an agent of its own process: under a client that nobody here wrote (csi-sanity, by
//! grpc-go, as the kubelet is).

mod demo;
mod node;
mod sanity;
