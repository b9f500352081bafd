//! The compilers and bpf-linker.

use super::Staging;
use crate::{
    ebpf_object::{BPF_LINKER_VERSION, nightly_name},
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

/// LLVM's major version in bpf-linker: it reads what a compiler with the same one wrote.
const LINKER_LLVM: u32 = 22;
/// A nightly that is known to fit it.
const FITTING: &str = "nightly-2026-05-19";

/// A nightly compiler, since the programs need `-Z build-std`, whose LLVM fits the linker's.
pub(super) fn nightly(_: &Path) -> Result<Option<String>> {
    if !in_path("rustup") {
        return Ok(None);
    }
    let Ok(about) = nightly_rustc("-vV") else {
        return Ok(None);
    };
    let version = about.lines().next().unwrap_or_default().to_owned();
    if !version.contains("nightly") {
        bail!("`{}` is no nightly: {version}", nightly_name());
    }
    let llvm = llvm(&about);
    if llvm != Some(LINKER_LLVM) {
        let llvm = llvm.map_or_else(
            || "an unknown LLVM".to_owned(),
            |major| format!("LLVM {major}"),
        );
        bail!(
            "{version} has {llvm}, and bpf-linker {BPF_LINKER_VERSION} needs LLVM {LINKER_LLVM}. \
             {FITTING} (1.97.0) is known to fit: rustup toolchain install {FITTING} --profile \
             minimal; then set FAIRLEAD_NIGHTLY={FITTING}"
        );
    }
    Ok(Some(version))
}

/// LLVM's major version in what `rustc -vV` prints.
fn llvm(about: &str) -> Option<u32> {
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

pub(super) fn add_nightly(_: &Path) -> Result<()> {
    if !in_path("rustup") {
        bail!("rustup is not there; install it as https://rustup.rs says");
    }
    let name = nightly_name();
    eprintln!("  rustup downloads the tool chain `{name}`");
    workspace::run(
        Command::new("rustup")
            .args(["toolchain", "install", &name])
            .args(["--profile", "minimal", "--no-self-update"]),
    )
    .with_context(|| {
        format!("without a way to download it, put a tool chain named `{name}` in place by hand")
    })
}

/// What `cargo xtask test` checks the source with.
pub(super) fn checkers(_: &Path) -> Result<Option<String>> {
    let there = |tool: &str| {
        let asked = workspace::cargo().args([tool, "--version"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    let all = in_path("git") && there("fmt") && there("clippy");
    Ok(all.then(|| "rustfmt, clippy, git".to_owned()))
}

pub(super) fn add_checkers(_: &Path) -> Result<()> {
    if !in_path("git") {
        bail!("git is not there, which lists the files: apt-get install git");
    }
    if !in_path("rustup") {
        bail!("install rustfmt and clippy beside cargo, as your distribution names them");
    }
    eprintln!("  rustup component add rustfmt clippy");
    workspace::run(
        Command::new("rustup")
            .args(["component", "add", "rustfmt", "clippy"])
            .current_dir(workspace::root()),
    )
}

/// Root folder of the nightly tool chain.
///
/// # Errors
/// When there is none.
pub(super) fn nightly_sysroot() -> Result<PathBuf> {
    nightly_rustc("--print=sysroot").map(PathBuf::from)
}

/// What the nightly compiler calls itself, `rustc 1.97.0-nightly (…)`.
///
/// # Errors
/// When there is none.
pub(super) fn nightly_version() -> Result<String> {
    nightly_rustc("--version")
}

fn nightly_rustc(question: &str) -> Result<String> {
    let answer = workspace::output(
        Command::new("rustup")
            .args(["run", &nightly_name(), "rustc", question])
            // Not the libraries of the tool chain that runs us.
            .env_remove("LD_LIBRARY_PATH"),
    )?;
    Ok(answer.trim().to_owned())
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

#[cfg(test)]
mod tests {
    use super::llvm;

    #[test]
    fn the_compiler_tells_its_llvm() {
        let about = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nhost: x\nLLVM version: 22.1.4\n";
        assert_eq!(llvm(about), Some(22));
        assert_eq!(llvm("rustc 1.97.0-nightly\n"), None);
    }
}
