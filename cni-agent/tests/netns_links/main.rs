//! The netlink module against the real kernel, each test in network namespaces of its own. Run as
//! root: `cargo test -p cni-agent --test netns_links -- --ignored`.

mod links;
mod masquerade;
mod node;
mod removal;
mod routes;
mod timing;
