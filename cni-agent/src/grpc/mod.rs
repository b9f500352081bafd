//! gRPC over Unix sockets, as the kubelet and its like speak it: what the volumes' and the devices' parts share.

mod authority;
pub(crate) mod listen;
pub(crate) mod registrar;
