//! `cargo xtask build`: the two binaries as they are released, static, in `target/fairlead`.

use crate::{
    setup::{self, Group},
    workspace,
};
use anyhow::{Context, Result, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Build the static release binaries `fairlead` and `fairlead-cni` into target/fairlead.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Package, binary, profile. The shim is executed for every pod: it has a profile and, where there is
/// one, a target of its own.
const BINARIES: [(&str, &str, &str); 2] = [
    ("cni-agent", "fairlead", "release"),
    ("cni-shim", "fairlead-cni", "shim"),
];

/// Builds both and says where they are.
///
/// # Errors
/// Those of [`ensure_built`].
pub(crate) fn run(_: &Args) -> Result<()> {
    ensure_built()?;
    for (_, binary, _) in BINARIES {
        let path = workspace::binaries().join(binary);
        let size = fs::metadata(&path)?.len();
        println!(
            "{} ({:.1} MiB, static)",
            path.display(),
            size as f64 / f64::from(1 << 20)
        );
    }
    Ok(())
}

/// Builds both binaries, quick when they are fresh. Other verbs call it before they run them.
///
/// # Errors
/// When the machine lacks something or the compiler fails.
pub(crate) fn ensure_built() -> Result<()> {
    setup::ensure(Group::Build)?;
    let host = workspace::host_target()?;
    let lean = setup::shim_target()?.unwrap_or_else(|| host.clone());
    build(&host, &lean, &workspace::binaries(), &[])
}

/// Builds both binaries for a processor, and returns the folder that they are in.
///
/// # Errors
/// Those of [`ensure_built`]; for another processor than this machine's also what to install.
pub(crate) fn ensure_built_for(arch: &str) -> Result<PathBuf> {
    if arch == env::consts::ARCH {
        ensure_built()?;
        return Ok(workspace::binaries());
    }
    setup::ensure(Group::Build)?;
    let (target, linker) = setup::ensure_cross(arch)?;
    let name = target.replace('-', "_");
    let environment = [
        (
            format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
            linker.clone(),
        ),
        (format!("CC_{name}"), linker),
    ];
    let folder = workspace::binaries().join(arch);
    build(&target, &target, &folder, &environment)?;
    Ok(folder)
}

/// Builds the agent for one target and the shim for another, which may be the same.
fn build(host: &str, lean: &str, folder: &Path, environment: &[(String, String)]) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (package, binary, profile) in BINARIES {
        let target = if binary == "fairlead-cni" { lean } else { host };
        workspace::run(
            workspace::cargo()
                .args(["build", "--locked", "--package", package, "--bin", binary])
                .args(["--profile", profile])
                // Named, so that the flags hold for the binaries only: with them a procedural
                // macro, which is a shared library for the compiler, could not be built.
                .args(["--target", target])
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .env("CARGO_ENCODED_RUSTFLAGS", static_flags()),
        )?;
        let built = workspace::target_dir()
            .join(target)
            .join(profile)
            .join(binary);
        install(&built, &folder.join(binary))?;
    }
    Ok(())
}

/// The user's flags, and a C library that is linked in: the binaries run in any mount namespace and
/// on any distribution.
fn static_flags() -> String {
    const SEPARATOR: &str = "\u{1f}";
    let users = match env::var("CARGO_ENCODED_RUSTFLAGS") {
        Ok(flags) => flags,
        Err(_) => {
            let flags = env::var("RUSTFLAGS").unwrap_or_default();
            flags.split_whitespace().collect::<Vec<_>>().join(SEPARATOR)
        }
    };
    // A fixed place in memory saves the shim the pages that relocation would touch.
    let flag = format!("-Ctarget-feature=+crt-static{SEPARATOR}-Crelocation-model=static");
    if users.is_empty() {
        flag
    } else {
        format!("{users}{SEPARATOR}{flag}")
    }
}

/// Copies by way of a rename: a running binary is not written to, and nobody sees half of it.
fn install(from: &Path, to: &Path) -> Result<()> {
    if same(from, to) {
        return Ok(());
    }
    let temporary = to.with_extension("new");
    let copied = fs::copy(from, &temporary)
        .with_context(|| format!("copying {} to {}", from.display(), temporary.display()))?;
    ensure!(copied > 0, "{} is empty", from.display());
    fs::rename(&temporary, to).with_context(|| format!("putting {} in place", to.display()))
}

fn same(from: &Path, to: &Path) -> bool {
    let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    size(from).is_some() && size(from) == size(to) && fs::read(from).ok() == fs::read(to).ok()
}
