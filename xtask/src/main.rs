//! Fairlead's chores: `cargo xtask <verb>`.

mod lab;

fn main() {}
