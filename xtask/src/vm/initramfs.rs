//! The file system that a guest starts with: busybox, the modules by which it reaches the machine's files, and what it is
//! to do. Everything else it has from the machine itself.

use crate::{setup::GuestKernel, workspace};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Modules that `first.sh` loads; those that they need come with them.
const MODULES: [&str; 8] = [
    "9p",
    "9pnet_virtio",
    "crc32c_generic",
    "loop",
    "overlay",
    "virtio_blk",
    "virtio_console",
    "virtio_pci",
];

/// Writes it, with a command for a shell.
///
/// # Errors
/// When the kernel lacks a module, or those of the file system.
pub(super) fn write(folder: &Path, kernel: &GuestKernel, command: &[u8]) -> Result<PathBuf> {
    let root = folder.join("initramfs");
    for empty in ["bin", "dev", "host", "layer", "new", "proc", "sys"] {
        fs::create_dir_all(root.join(empty))?;
    }
    let busybox = workspace::find("busybox").context("there is no busybox")?;
    ensure!(
        workspace::is_static(&busybox),
        "{} needs libraries, which a guest lacks at first; install Debian's busybox-static",
        busybox.display()
    );
    fs::copy(busybox, root.join("bin/busybox"))?;
    fs::write(root.join("init"), include_str!("first.sh"))?;
    fs::set_permissions(root.join("init"), Permissions::from_mode(0o755))?;
    fs::write(root.join("second.sh"), include_str!("second.sh"))?;
    fs::write(root.join("command.sh"), command)?;
    fs::write(root.join("version"), &kernel.version)?;
    fs::write(root.join("modules"), kernel.modules.as_os_str().as_bytes())?;
    copy_modules(&root, kernel)?;
    archive(&root, &folder.join("initramfs.cpio"))
}

fn copy_modules(root: &Path, kernel: &GuestKernel) -> Result<()> {
    let list = fs::read_to_string(kernel.modules.join("modules.dep"))?;
    let built_in = fs::read_to_string(kernel.modules.join("modules.builtin"))?;
    let to = root.join("lib/modules").join(&kernel.version);
    for file in needed(&list, &built_in)? {
        let copy = to.join(file);
        if let Some(folder) = copy.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(kernel.modules.join(file), copy)?;
    }
    fs::write(to.join("modules.dep"), &list)?;
    Ok(())
}

/// Files of our modules and of those that they need, by lines of `file: file file …`.
fn needed<'a>(list: &'a str, built_in: &str) -> Result<BTreeSet<&'a str>> {
    fn name(file: &str) -> &str {
        let name = file.rsplit('/').next().unwrap_or(file);
        name.split('.').next().unwrap_or(name)
    }
    let mut files = BTreeSet::new();
    for module in MODULES {
        let line = list
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(file, _)| name(file) == module);
        match line {
            Some((file, others)) => {
                files.insert(file);
                files.extend(others.split_whitespace());
            }
            None => ensure!(
                built_in.lines().any(|file| name(file) == module),
                "the guest's kernel lacks the module {module}"
            ),
        }
    }
    Ok(files)
}

/// Packs a folder as the kernel unpacks it.
fn archive(root: &Path, to: &Path) -> Result<PathBuf> {
    let mut names = Vec::new();
    walk(root, Path::new(""), &mut names)?;
    let mut packer = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .stderr(Stdio::null())
        .spawn()
        .context("starting busybox cpio")?;
    if let Some(mut input) = packer.stdin.take() {
        for name in names {
            input.write_all(name.as_os_str().as_bytes())?;
            input.write_all(b"\n")?;
        }
    }
    let status = packer.wait()?;
    ensure!(status.success(), "busybox cpio failed ({status})");
    Ok(to.to_owned())
}

/// Everything below a folder, each folder before what is in it.
fn walk(root: &Path, below: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        names.push(name.clone());
        if entry.file_type()?.is_dir() {
            walk(root, &name, names)?;
        }
    }
    Ok(())
}

/// A word as a shell reads it back.
pub(super) fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = b"'".to_vec();
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_through_the_shell_as_it_was() {
        for word in ["plain", "", "two words", "it's $HOME `x` \"y\" \\", "'"] {
            let mut line = b"printf %s ".to_vec();
            line.extend(quoted(OsStr::new(word)));
            let line = OsStr::from_bytes(&line).to_owned();
            let said = workspace::output(Command::new("sh").arg("-c").arg(line)).unwrap();
            assert_eq!(said, word);
        }
    }

    #[test]
    fn modules_come_with_those_that_they_need_and_a_missing_one_is_named() {
        let list = MODULES.map(|module| match module {
            "9p" => "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs.ko\n".to_owned(),
            "loop" => String::new(),
            module => format!("kernel/{module}.ko:\n"),
        });
        let list = list.concat();
        let files = needed(&list, "kernel/drivers/block/loop.ko\n").unwrap();
        assert!(files.contains("kernel/net/9p/9pnet.ko") && files.contains("kernel/fs/9p/9p.ko"));
        assert_eq!(files.len(), MODULES.len() + 1, "{files:?}");
        let error = needed(&list, "").unwrap_err().to_string();
        assert!(error.contains("module loop"), "{error}");
    }
}
