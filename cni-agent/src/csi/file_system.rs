//! File systems of volumes: made, and grown to what their device has, by the programs for them.

use super::{
    attached::Attached, fault::Fault, kernel, request::Fs, superblock::Superblock, tools,
    volumes::failed,
};
use std::{fs::File, path::Path};

/// Makes a volume's file system.
pub(super) fn format(device: &Attached, fs: Fs) -> Result<(), Fault> {
    device.check().map_err(failed("the loop device"))?;
    let path = device.device().path();
    let device = path.to_string_lossy();
    let done = match fs {
        // All blocks are the user's; blocks that were taken for the volume stay taken.
        Fs::Ext4 => tools::make(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-b",
                "4096",
                "-m",
                "0",
                "-E",
                "nodiscard",
                &device,
            ],
        ),
        Fs::Xfs => tools::make("mkfs.xfs", &["-q", "-f", "-K", &device]),
        Fs::Folder => return Err(no_file_system()),
    };
    done.map_err(during("making the file system"))
}

/// What a program came to, and what it was run for.
fn during(action: &'static str) -> impl Fn(Fault) -> Fault {
    move |fault| match fault {
        Fault::Internal(problem) => Fault::internal(action, problem),
        // It goes on.
        fault => fault,
    }
}

/// Blocks that an ext4 lacks of its device, and its whole number of them then; none: it has all.
fn lacks(device: &Attached) -> Result<Option<u64>, Fault> {
    let size = device.bytes().map_err(failed("the loop device"))?;
    let ext4 = Superblock::read(&device.device().path()).map_err(failed("the file system"))?;
    let blocks = size / ext4.block_size;
    Ok((ext4.blocks < blocks).then_some(blocks))
}

/// Has a mounted file system take the whole device.
pub(super) fn grow_mounted(device: &Attached, fs: Fs, at: &Path) -> Result<(), Fault> {
    match fs {
        Fs::Ext4 => {
            let Some(blocks) = lacks(device)? else {
                return Ok(());
            };
            let within = File::open(at).map_err(failed("the volume's mount"))?;
            kernel::resize_ext4(&within, blocks).map_err(|error| match error.raw_os_error() {
                Some(libc::EPERM) => Fault::Internal(
                    "growing the file system: the kernel asks for CAP_SYS_RESOURCE, which this agent lacks; add it, or delete the volume's pod: it grows when it is staged again".into(),
                ),
                _ => Fault::internal("growing the file system", error),
            })
        }
        Fs::Xfs => tools::run("xfs_growfs", &["-d", &at.to_string_lossy()])
            .map_err(during("growing the file system")),
        Fs::Folder => Err(no_file_system()),
    }
}

fn no_file_system() -> Fault {
    Fault::internal("the volume", "has no file system of its own")
}

/// Has an ext4 that nobody has mounted take the whole device.
pub(super) fn grow_unmounted(device: &Attached) -> Result<(), Fault> {
    if lacks(device)?.is_none() {
        return Ok(());
    }
    device.check().map_err(failed("the loop device"))?;
    let path = device.device().path();
    let path = path.to_string_lossy();
    let problem = during("growing the file system");
    // It refuses what wasn't checked since it was last mounted, or isn't sound. What an earlier call has checked, and was
    // too late to answer, isn't checked again: a large one would never be done.
    match tools::run("resize2fs", &[&path]) {
        Err(Fault::Internal(_)) => {}
        done => return done,
    }
    // Which replays the journal, too.
    tools::run_with("e2fsck", &["-f", "-p", &path], &[0, 1]).map_err(&problem)?;
    tools::run("resize2fs", &[&path]).map_err(problem)
}
