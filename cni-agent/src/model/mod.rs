//! Plain values without I/O.

mod attachment;
mod endpoint;
mod node;
mod pod;

pub use attachment::{AttachmentId, InvalidAttachment};
pub use endpoint::{Addresses, Endpoint, Mac, PodRef};
pub use node::Node;
pub use pod::Pod;
