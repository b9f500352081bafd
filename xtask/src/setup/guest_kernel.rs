//! Debian's kernel for guests: its package, unpacked into the cache and never installed, so that this machine's own
//! kernel and boot loader stay as they are. Only the modules that a guest may need are kept.

use super::{Staging, take_lock};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Depends on the package of the newest kernel.
pub(crate) const DEFAULT: &str = "linux-image-amd64";
/// What of the modules is kept: file systems, disks, how host and guest talk.
const KEPT: [&str; 9] = [
    "arch",
    "crypto",
    "drivers/block",
    "drivers/char",
    "drivers/md",
    "drivers/virtio",
    "fs",
    "lib",
    "net/9p",
];

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(crate) struct GuestKernel {
    pub(crate) image: PathBuf,
    /// The folder that has `modules.dep`.
    pub(crate) modules: PathBuf,
    pub(crate) version: String,
}

/// The kernel of a Debian package, fetched by apt when it isn't there.
///
/// # Errors
/// When it can't be had, with what to do.
pub(crate) fn guest_kernel(cache: &Path, package: &str) -> Result<GuestKernel> {
    let place = cache.join("guest-kernel").join(package);
    if let Some(kernel) = unpacked(&place)? {
        return Ok(kernel);
    }
    let _lock = take_lock(cache)?;
    if let Some(kernel) = unpacked(&place)? {
        return Ok(kernel);
    }
    eprintln!("setup: a guest's kernel: {package} of Debian, some 70 MB");
    let staging = Staging::new(cache)?;
    fetch(staging.path(), package).with_context(|| {
        format!("getting {package}; it takes Debian's apt-get, dpkg-deb and busybox")
    })?;
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    let unpacked_into = staging.path().join("root");
    staging.publish(&unpacked_into, &place)?;
    unpacked(&place)?.with_context(|| format!("{package} has no kernel in it"))
}

fn unpacked(place: &Path) -> Result<Option<GuestKernel>> {
    let modules = place.join("lib/modules");
    if !modules.exists() {
        return Ok(None);
    }
    let Some(folder) = fs::read_dir(&modules)?.next() else {
        return Ok(None);
    };
    let folder = folder?;
    let version = folder.file_name().to_string_lossy().into_owned();
    Ok(Some(GuestKernel {
        image: place.join("boot").join(format!("vmlinuz-{version}")),
        modules: folder.path(),
        version,
    }))
}

fn fetch(staging: &Path, package: &str) -> Result<()> {
    // A name that only depends on the newest kernel's package.
    let depends = workspace::output(Command::new("apt-cache").args(["depends", package]))?;
    let mut images = depends.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("Depends: ")
            .filter(|name| name.starts_with("linux-image-"))
    });
    let package = images.next_back().unwrap_or(package);
    workspace::output(
        Command::new("apt-get")
            .args(["--quiet=2", "-o", "APT::Sandbox::User=root"])
            .args(["download", package])
            .current_dir(staging),
    )?;
    let archive = fs::read_dir(staging)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get brought no package")?;
    let version = package.strip_prefix("linux-image-").unwrap_or(package);
    let root = staging.join("root");
    fs::create_dir(&root)?;
    let tar = staging.join("files.tar");
    let status = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&archive)
        .stdout(Stdio::from(File::create(&tar)?))
        .status()?;
    ensure!(status.success(), "dpkg-deb failed ({status})");
    let modules = format!("./lib/modules/{version}");
    let mut unpack = Command::new("tar");
    unpack
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(&root)
        .arg(format!("./boot/vmlinuz-{version}"))
        .args(["builtin", "order"].map(|list| format!("{modules}/modules.{list}")))
        .args(KEPT.map(|part| format!("{modules}/kernel/{part}")));
    workspace::output(&mut unpack)?;
    workspace::output(
        Command::new("busybox")
            .args(["depmod", "-b"])
            .arg(&root)
            .arg(version),
    )?;
    Ok(())
}
