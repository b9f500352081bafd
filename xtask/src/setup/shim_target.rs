//! The target that the plugin is built for: musl's, where rustup has it. A runtime executes the plugin
//! for every call, and a static glibc asks the processor about its caches at each start, which a
//! virtual machine answers slowly: 0.6 ms instead of 0.2 ms were seen.

use crate::workspace::{self, in_path};
use anyhow::Result;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The target's name, `None` where the plugin has to do with the machine's C library.
///
/// # Errors
/// When the compiler does not answer.
pub(crate) fn shim_target() -> Result<Option<String>> {
    let Some(name) = musl()? else {
        return Ok(None);
    };
    let asked = workspace::output(
        workspace::rustc()
            .args(["--print", "target-libdir", "--target"])
            .arg(&name),
    );
    // A compiler that does not know the target has no libraries for it either.
    let there = asked.is_ok_and(|folder| Path::new(folder.trim()).is_dir());
    Ok(there.then_some(name))
}

/// The compiler's own target with the other C library.
fn musl() -> Result<Option<String>> {
    let host = workspace::host_target()?;
    let other = host.strip_suffix("-gnu").map(|kind| format!("{kind}-musl"));
    Ok(other.or_else(|| host.ends_with("-musl").then_some(host)))
}

pub(super) fn ready(cache: &Path) -> Result<Option<String>> {
    if let Some(name) = shim_target()? {
        return Ok(Some(name));
    }
    let marker = refused(cache)?;
    let why = if !in_path("rustup") || musl()?.is_none() {
        String::new()
    } else if marker.exists() {
        format!("; delete {} to have rustup asked again", marker.display())
    } else {
        return Ok(None);
    };
    Ok(Some(format!(
        "the machine's own, with which the plugin starts a little slower{why}"
    )))
}

pub(super) fn add(cache: &Path) -> Result<()> {
    let Some(name) = musl()? else {
        return Ok(());
    };
    eprintln!("  rustup target add {name}");
    let added = workspace::run(
        Command::new("rustup")
            .args(["target", "add", &name])
            .current_dir(workspace::root()),
    );
    // Also where it was added to rustup's tool chain and another compiler comes first.
    if shim_target()?.is_none() {
        let why = added.err().map_or_else(
            || "the compiler in PATH is not rustup's".to_owned(),
            |error| format!("{error:#}"),
        );
        eprintln!("  not to be had, so the plugin is built without it: {why}");
        fs::write(refused(cache)?, why)?;
    }
    Ok(())
}

/// Remembers, for this compiler, that the target could not be had.
fn refused(cache: &Path) -> Result<PathBuf> {
    let version = workspace::output(workspace::rustc().arg("-V"))?;
    let version = version.split_whitespace().nth(1).unwrap_or("unknown");
    Ok(cache.join(format!("musl-refused-{version}")))
}
