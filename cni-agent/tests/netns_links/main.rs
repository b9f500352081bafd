//! The netlink module against the real kernel, each test in network namespaces of its own. Run as
//! root: `cargo test -p cni-agent --test netns_links -- --ignored`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it fails"
)]

mod links;
mod many;
mod masquerade;
mod node;
mod removal;
mod routes;
