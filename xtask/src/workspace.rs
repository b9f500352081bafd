//! Where things are, and how cargo is run on them. Every verb asks here, so a chore works from any
//! folder and with any target directory.

use anyhow::{Context, Result, ensure};
use std::{
    env,
    ffi::OsString,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

/// The workspace's root. The environment comes first: a binary from a shared target directory may
/// have been compiled in another clone.
pub(crate) fn root() -> PathBuf {
    let own = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or_else(|| own.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The folder of the built `fairlead` and `fairlead-cni`, filled by `cargo xtask build`.
pub(crate) fn binaries() -> PathBuf {
    root().join("target/fairlead")
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo tells the program that it runs is not meant for a further cargo.
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PKG_NAME",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    let status = command.status();
    status.with_context(|| format!("starting {}", command.get_program().display()))
}

/// Runs a command that has to succeed; what it prints goes to the terminal.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    ensure!(status.success(), "{} failed ({status})", describe(command));
    Ok(())
}

/// The compiler in PATH, which is cargo's unless somebody set another one.
pub(crate) fn rustc() -> Command {
    let mut command = Command::new("rustc");
    // Not the libraries of the tool chain that runs us.
    command.current_dir(root()).env_remove("LD_LIBRARY_PATH");
    command
}

/// The target that the compiler runs on.
///
/// # Errors
/// When the compiler does not answer.
pub(crate) fn host_target() -> Result<String> {
    let about = output(rustc().arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Runs a command that has to succeed and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; with what it wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output();
    let output = output.with_context(|| format!("starting {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed ({}): {}",
        describe(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `PATH` with the folders of root's programs (`ip`, `bpftool`, `nft`), when it lacks one of them.
///
/// # Errors
/// When a folder of `PATH` has a colon in its name.
pub(crate) fn longer_path() -> Result<Option<OsString>> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&path).collect();
    let before = folders.len();
    for system in ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !folders.contains(&system) {
            folders.push(system);
        }
    }
    let longer = folders.len() > before;
    Ok(longer.then(|| env::join_paths(folders)).transpose()?)
}

/// Finds a program in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .find_map(|folder| Some(folder.join(program)).filter(|path| path.is_file()))
}

/// Whether a program is there to be run.
pub(crate) fn in_path(program: &str) -> bool {
    find(program).is_some()
}

/// Whether a program needs no libraries: its file names no dynamic loader, which is told near the
/// beginning.
pub(crate) fn is_static(program: &Path) -> bool {
    let mut head = [0; 8192];
    let read = File::open(program).and_then(|mut file| file.read(&mut head));
    let head = &head[..read.unwrap_or(0)];
    head.starts_with(b"\x7fELF") && !head.windows(4).any(|four| four == b"/ld-")
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
