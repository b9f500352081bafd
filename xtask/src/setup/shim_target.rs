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
    let name = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let folder = workspace::output(
        workspace::rustc()
            .args(["--print", "target-libdir", "--target"])
            .arg(&name),
    )?;
    Ok(Path::new(folder.trim()).is_dir().then_some(name))
}

pub(super) fn ready(cache: &Path) -> Result<Option<String>> {
    if let Some(name) = shim_target()? {
        return Ok(Some(name));
    }
    let without = !in_path("rustup") || refused(cache).exists();
    Ok(without.then(|| "the machine's own (the plugin starts a little slower)".to_owned()))
}

pub(super) fn add(cache: &Path) -> Result<()> {
    let name = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    eprintln!("  rustup target add {name}");
    let added = workspace::run(
        Command::new("rustup")
            .args(["target", "add", &name])
            .current_dir(workspace::root()),
    );
    if let Err(error) = added {
        eprintln!("  not to be had here, so the plugin is built without it: {error:#}");
        fs::write(refused(cache), format!("{error:#}\n"))?;
    }
    Ok(())
}

/// Remembers that rustup could not: delete it to have it tried again.
fn refused(cache: &Path) -> PathBuf {
    cache.join("musl-refused")
}
