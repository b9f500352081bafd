//! Plain values without I/O.

mod attachment;
mod endpoint;
mod node;
mod pod;
mod policy;
mod service;

pub use attachment::{AttachmentId, InvalidAttachment};
pub use endpoint::{Addresses, Endpoint, Mac, PodRef};
pub use node::Node;
pub use pod::{NamedPort, Pod};
pub use policy::{
    Action, ClusterPolicy, DomainPattern, Judgement, Namespace, NetworkPolicy, Operator, Peer,
    PortChoice, Ports, Requirement, Rule, Selector, Tier,
};
pub use service::{
    EndpointSlice, Hints, Ingress, Protocol, Service, ServicePort, ServiceType, SliceEndpoint,
    SlicePort,
};
