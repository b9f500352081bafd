//! Builds the kernel object from `cni-ebpf`: the one place that knows how.
//!
//! Used twice: by `cargo xtask build-ebpf` and, through `#[path]`, by `cni-agent/build.rs`, which
//! embeds the result. So it needs nothing but std. The inner cargo is a nightly one (`-Z build-std`)
//! and must not see what an outer cargo put in the environment.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The linker's version that `cargo xtask setup` installs in the cache.
pub const BPF_LINKER_VERSION: &str = "0.10.4";

/// The binary target of `cni-ebpf`.
const BINARY: &str = "fairlead-ebpf";

/// An object: the same programs, with or without what `fairlead trace` needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// What is attached.
    Plain,
    /// What is attached while somebody traces.
    Traced,
}

impl Object {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Traced];

    /// The name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => BINARY,
            Self::Traced => "fairlead-ebpf-traced",
        }
    }

    const fn features(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Traced => "trace",
        }
    }
}

/// Builds the object in the workspace's `target/ebpf` and returns its path. Does next to nothing
/// when the object is fresh.
///
/// # Errors
/// A sentence for people: which tool is missing and what makes it, or that the compiler failed
/// (it has then already written why to stderr).
pub fn build(workspace: &Path, object: Object) -> Result<PathBuf, String> {
    let sysroot = nightly_sysroot()?;
    let linker_folder = find_linker()?;
    let target = if cfg!(target_endian = "big") {
        "bpfeb"
    } else {
        "bpfel"
    };
    let target = format!("{target}-unknown-none");
    let target_dir = workspace.join("target/ebpf");
    let folder = target_dir.join(object.name());

    let mut cargo = nightly("cargo");
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--locked",
            "--release",
            "--package",
            "cni-ebpf",
            "--bin",
            BINARY,
            "--features",
            object.features(),
        ])
        .args(["-Z", "build-std=core", "--target", &target, "--target-dir"])
        .arg(&target_dir)
        // Of both objects cargo would keep the last one only, under one name.
        .args(["-Z", "unstable-options", "--artifact-dir"])
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
        .stdin(Stdio::null())
        .stdout(Stdio::null()); // a build script's stdout belongs to the outer cargo
    // The workspace's release profile is made for the agent. BTF needs the debug information, and
    // bpf-linker does the whole program's optimisation itself.
    for (key, value) in [
        ("DEBUG", "2"),
        ("STRIP", "none"),
        ("LTO", "off"),
        ("CODEGEN_UNITS", "1"),
    ] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    if let Some(library) = cached_library(&sysroot)? {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    if let Some(folder) = linker_folder {
        let mut path = OsString::from(folder);
        if let Some(rest) = env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        cargo.env("PATH", path);
    }

    let status = cargo
        .status()
        .map_err(|e| format!("cannot run rustup: {e}"))?;
    if !status.success() {
        return Err(format!(
            "the eBPF programs did not compile (cargo: {status})"
        ));
    }
    let built = folder.join(BINARY);
    if !built.is_file() {
        return Err(format!("cargo succeeded but left no {}", built.display()));
    }
    Ok(built)
}

/// Where `cargo xtask setup` puts what a build needs: `$FAIRLEAD_CACHE`, else
/// `$XDG_CACHE_HOME/fairlead`, else `~/.cache/fairlead`.
pub fn cache() -> Result<PathBuf, String> {
    let set = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("FAIRLEAD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("fairlead")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/fairlead")))
        .ok_or_else(|| "neither FAIRLEAD_CACHE, XDG_CACHE_HOME nor HOME is set".to_owned())
}

/// rustup's name of the nightly tool chain: `$FAIRLEAD_NIGHTLY`, else `nightly`.
pub fn nightly_name() -> String {
    let name = env::var("FAIRLEAD_NIGHTLY").ok();
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "nightly".to_owned())
}

/// A program of the nightly tool chain, without the environment of an outer cargo.
fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", &nightly_name(), program]);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_an_outer_cargo) {
            command.env_remove(name);
        }
    }
    command
}

/// Variables by which a cargo that runs us, or its user's settings for another tool chain, would
/// change the inner build. Where and how to reach the registry is kept.
fn is_of_an_outer_cargo(name: &str) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_TERM_",
    ];
    if KEPT.iter().any(|kept| name.starts_with(kept)) {
        return false;
    }
    const BUILD_SCRIPT: [&str; 8] = [
        "OUT_DIR",
        "TARGET",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "PROFILE",
        "DEBUG",
        "TARGET_DIR",
    ];
    name.starts_with("CARGO")
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name == "__CARGO_TESTS_ONLY_SRC_ROOT"
        || name == "RUSTFLAGS"
        || name == "RUSTUP_TOOLCHAIN"
        // The outer tool chain's own LLVM must not be found by the linker.
        || name == "LD_LIBRARY_PATH"
        || BUILD_SCRIPT.contains(&name)
}

fn rustflags() -> String {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    let arch = format!("--cfg=bpf_target_arch=\"{arch}\"");
    [arch.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\u{1f}")
}

fn nightly_sysroot() -> Result<PathBuf, String> {
    let missing = |why: &dyn std::fmt::Display| {
        format!("no nightly Rust tool chain ({why}); run `cargo xtask setup`")
    };
    let output = nightly("rustc")
        .args(["--print", "sysroot"])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| missing(&format!("rustup: {e}")))?;
    if !output.status.success() {
        return Err(missing(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

/// The standard library's source from the cache, or `None` when the tool chain has its own.
fn cached_library(sysroot: &Path) -> Result<Option<PathBuf>, String> {
    let usable = |library: &Path| library.join("core/src/lib.rs").is_file();
    if usable(&sysroot.join("lib/rustlib/src/rust/library")) {
        return Ok(None);
    }
    let library = cache()?.join("rust-src/library");
    if usable(&library) {
        return Ok(Some(library));
    }
    Err(format!(
        "no source of Rust's core library, neither in {} nor in {}; run `cargo xtask setup`",
        sysroot.display(),
        library.display()
    ))
}

/// The folder of the cached bpf-linker, or `None` when it is found through `PATH`.
fn find_linker() -> Result<Option<PathBuf>, String> {
    let folder = cache()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}/bin"));
    if folder.join("bpf-linker").is_file() {
        return Ok(Some(folder));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|p| p.join("bpf-linker").is_file()) {
        return Ok(None);
    }
    Err(format!(
        "no bpf-linker, neither in {} nor in PATH; run `cargo xtask setup`",
        folder.display()
    ))
}
