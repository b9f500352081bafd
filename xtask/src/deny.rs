//! `cargo xtask deny`: licences, sources and banned packages of everything we link, by cargo-deny
//! with `deny.toml`.
//!
//! Not part of `cargo xtask test`: building cargo-deny takes longer than all tests together.

use crate::{ebpf_object, workspace};
use anyhow::{Context, Result, anyhow};
use std::path::PathBuf;

/// Check licences, sources and banned packages of all dependencies (builds cargo-deny once).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also known vulnerabilities; downloads the advisory database.
    #[arg(long)]
    advisories: bool,
}

/// The version that deny.toml is written for.
const VERSION: &str = "0.20.2";

/// Runs the checks.
///
/// # Errors
/// When a rule of deny.toml is broken or cargo-deny cannot be built.
pub(crate) fn run(args: &Args) -> Result<()> {
    let program = cargo_deny()?;
    let mut command = workspace::cargo();
    // As cargo would find it among its subcommands.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = program
        .parent()
        .context("cargo-deny has no folder")?
        .to_owned();
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)))?;
    command
        .env("PATH", path)
        .args(["deny", "--workspace", "--locked", "check"]);
    command.args(["bans", "licenses", "sources"]);
    if args.advisories {
        command.arg("advisories");
    }
    workspace::run(&mut command)
}

fn cargo_deny() -> Result<PathBuf> {
    let cache = ebpf_object::cache().map_err(|fault| anyhow!(fault))?;
    let root = cache.join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        eprintln!("building cargo-deny {VERSION} (several minutes, once)");
        workspace::run(
            workspace::cargo()
                .args(["install", "cargo-deny", "--version", &format!("={VERSION}")])
                .args(["--locked", "--quiet", "--root"])
                .arg(&root),
        )?;
    }
    Ok(program)
}
