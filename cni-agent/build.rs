//! Builds the kernel programs and hands them to `datapath::loader`, which embeds them: a plain
//! `cargo build` gives a complete agent.

#[path = "../xtask/src/ebpf_object.rs"]
#[expect(
    unreachable_pub,
    reason = "shared with xtask, where it is part of a crate"
)]
mod ebpf_object;

use std::{env, fs, path::Path};

fn main() {
    if let Err(fault) = run() {
        eprintln!("error: {fault}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let variable = |name| env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"));
    let manifest = variable("CARGO_MANIFEST_DIR")?;
    let workspace = Path::new(&manifest)
        .parent()
        .ok_or_else(|| "the crate lies outside the workspace".to_owned())?;
    for input in [
        "cni-ebpf/src",
        "cni-ebpf/Cargo.toml",
        "cni-ebpf-common/src",
        "cni-ebpf-common/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
        "xtask/src/ebpf_object.rs",
    ] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    for name in ["FAIRLEAD_CACHE", "XDG_CACHE_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for object in ebpf_object::Object::ALL {
        // A copy, so that the embedded bytes change only when this script runs again.
        let built = ebpf_object::build(workspace, object)?;
        let copy = Path::new(&variable("OUT_DIR")?).join(object.name());
        fs::copy(&built, &copy)
            .map_err(|e| format!("cannot copy {} to {}: {e}", built.display(), copy.display()))?;
    }
    Ok(())
}
