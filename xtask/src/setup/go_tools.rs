//! `cnitool` and the reference plugins: built from `xtask/go/go.mod`, which pins them, into a folder
//! of the cache named by what was asked for.

use super::Staging;
use crate::workspace::{self, in_path};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the tests and the bench run.
const TOOLS: [&str; 8] = [
    "bandwidth",
    "bridge",
    "cnitool",
    "host-local",
    "loopback",
    "portmap",
    "ptp",
    "tuning",
];

/// The folder of the tools, there or not.
pub(super) fn folder(cache: &Path) -> Result<PathBuf> {
    pinned(&cache.join("go-tools"), &module())
}

/// The folder in `among` that is named by what a module pins: another pin, another folder.
pub(super) fn pinned(among: &Path, module: &Path) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = module.join(file);
        hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let hash = hash.finalize();
    let name: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(among.join(name))
}

pub(super) fn ready(cache: &Path) -> Result<Option<String>> {
    let folder = folder(cache)?;
    let there = TOOLS.iter().all(|tool| folder.join(tool).is_file());
    Ok(there.then(|| format!("{}, in the cache", TOOLS.join(", "))))
}

pub(super) fn make(cache: &Path) -> Result<()> {
    ensure!(
        in_path("go"),
        "Go is not there; install it from https://go.dev/dl (the version that xtask/go/go.mod \
         names or a later one; Debian 12's package is too old)"
    );
    let staging = Staging::new(cache)?;
    let made = staging.path().join("made");
    fs::create_dir(&made)?;
    eprintln!("  go builds {} (half a minute, once)", TOOLS.join(", "));
    workspace::output(
        Command::new("go")
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(&made)
            .arg("tool") // all that go.mod lists under `tool`
            .current_dir(module())
            // They also run where there is no C library.
            .env("CGO_ENABLED", "0"),
    )?;
    for tool in TOOLS {
        ensure!(
            made.join(tool).is_file(),
            "xtask/go/go.mod does not list {tool}"
        );
    }
    let place = folder(cache)?;
    fs::create_dir_all(place.parent().unwrap_or(cache))?;
    staging.publish(&made, &place)
}

fn module() -> PathBuf {
    workspace::root().join("xtask/go")
}
