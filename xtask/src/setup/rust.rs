//! The compilers and bpf-linker.

use super::Staging;
use crate::{
    ebpf_object::BPF_LINKER_VERSION,
    workspace::{self, in_path},
};
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The C compiler links everything, and a static C library goes into the released binaries.
pub(super) fn cc(_: &Path) -> Result<Option<String>> {
    if !in_path("cc") {
        return Ok(None);
    }
    // Without the library the name comes back as it went in.
    let library = workspace::output(Command::new("cc").arg("-print-file-name=libc.a"))?;
    Ok(Path::new(library.trim())
        .is_absolute()
        .then(|| "cc, with a static C library".to_owned()))
}

pub(super) fn no_cc(_: &Path) -> Result<()> {
    bail!(
        "install a C compiler and the static C library: apt-get install gcc libc6-dev (Debian, \
         Ubuntu), dnf install gcc glibc-static (Fedora)"
    )
}

/// A nightly compiler, of any date: the programs need `-Z build-std`.
pub(super) fn nightly(_: &Path) -> Result<Option<String>> {
    if !in_path("rustup") {
        return Ok(None);
    }
    Ok(nightly_version().ok())
}

pub(super) fn add_nightly(_: &Path) -> Result<()> {
    if !in_path("rustup") {
        bail!("rustup is not there; install it as https://rustup.rs says");
    }
    eprintln!("  rustup downloads the tool chain `nightly`");
    workspace::run(
        Command::new("rustup")
            .args(["toolchain", "install", "nightly"])
            .args(["--profile", "minimal", "--no-self-update"]),
    )
    .context("without a way to download it, put a tool chain named `nightly` in place by hand")
}

/// Root folder of the nightly tool chain.
///
/// # Errors
/// When there is none.
pub(super) fn nightly_sysroot() -> Result<PathBuf> {
    let sysroot = workspace::output(
        Command::new("rustup")
            .args(["run", "nightly", "rustc", "--print", "sysroot"])
            // Not the libraries of the tool chain that runs us.
            .env_remove("LD_LIBRARY_PATH"),
    )?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// What the nightly compiler calls itself, `rustc 1.97.0-nightly (…)`.
///
/// # Errors
/// When there is none.
pub(super) fn nightly_version() -> Result<String> {
    let version = workspace::output(
        Command::new("rustup")
            .args(["run", "nightly", "rustc", "--version"])
            .env_remove("LD_LIBRARY_PATH"),
    )?;
    Ok(version.trim().to_owned())
}

/// bpf-linker of the version that the programs are tested with.
pub(super) fn linker(cache: &Path) -> Result<Option<String>> {
    let there = linker_folder(cache).join("bin/bpf-linker").is_file();
    Ok(there.then(|| format!("{BPF_LINKER_VERSION}, in the cache")))
}

pub(super) fn add_linker(cache: &Path) -> Result<()> {
    eprintln!("  cargo builds bpf-linker {BPF_LINKER_VERSION} (some minutes, once)");
    let staging = Staging::new(cache)?;
    let made = staging.path().join("made");
    workspace::run(
        workspace::cargo()
            .args([
                "install",
                "bpf-linker",
                "--version",
                &format!("={BPF_LINKER_VERSION}"),
            ])
            .args(["--locked", "--quiet", "--root"])
            .arg(&made)
            .arg("--target-dir")
            .arg(staging.path().join("target"))
            .env_remove("RUSTFLAGS"),
    )?;
    staging.publish(&made, &linker_folder(cache))
}

fn linker_folder(cache: &Path) -> PathBuf {
    cache.join(format!("bpf-linker-{BPF_LINKER_VERSION}"))
}
