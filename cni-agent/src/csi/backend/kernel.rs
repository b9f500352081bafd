//! Subvolumes of btrfs, projects of files and their quotas: system calls without a safe wrapper. The one place of raw
//! system calls for back ends.
#![expect(
    unsafe_code,
    reason = "ioctls of btrfs, attributes of files and quotactl_fd have no safe wrapper"
)]

use libc::Ioctl;
use linux_raw_sys::{
    btrfs::{
        BTRFS_QGROUP_LIMIT_MAX_RFER, BTRFS_SUBVOL_RDONLY, btrfs_ioctl_fs_info_args,
        btrfs_ioctl_get_subvol_info_args, btrfs_ioctl_get_subvol_rootref_args,
        btrfs_ioctl_qgroup_create_args, btrfs_ioctl_qgroup_limit_args, btrfs_ioctl_vol_args,
        btrfs_ioctl_vol_args_v2,
    },
    general::fsxattr,
    ioctl::{
        BTRFS_IOC_FS_INFO, BTRFS_IOC_GET_SUBVOL_INFO, BTRFS_IOC_GET_SUBVOL_ROOTREF,
        BTRFS_IOC_QGROUP_CREATE, BTRFS_IOC_QGROUP_LIMIT, BTRFS_IOC_SNAP_CREATE_V2,
        BTRFS_IOC_SNAP_DESTROY, BTRFS_IOC_SUBVOL_CREATE, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR,
    },
};
use std::{
    io,
    mem::zeroed,
    os::fd::{AsFd, AsRawFd as _},
};

/// A system call on a descriptor with the kernel's own struct.
///
/// # Safety
/// `T` is the struct that the kernel reads and writes for `request`, without pointers.
unsafe fn ioctl<T>(of: impl AsFd, request: u32, argument: &mut T) -> io::Result<()> {
    // SAFETY: the argument lives during the call, and is what the request takes.
    let done = unsafe {
        libc::ioctl(
            of.as_fd().as_raw_fd(),
            request as Ioctl,
            std::ptr::from_mut(argument),
        )
    };
    match done {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes a name and the zero behind it.
fn put(name: &str, into: &mut [std::ffi::c_char]) -> io::Result<()> {
    if name.len() >= into.len() || name.contains(['/', '\0']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, byte) in into.iter_mut().zip(name.bytes()) {
        *to = byte.cast_signed() as std::ffi::c_char;
    }
    Ok(())
}

/// Makes a subvolume in a folder.
pub(super) fn create_subvolume(folder: impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: integers, for which zero is a value.
    let mut asked: btrfs_ioctl_vol_args = unsafe { zeroed() };
    put(name, &mut asked.name)?;
    // SAFETY: the request's own struct.
    unsafe { ioctl(folder, BTRFS_IOC_SUBVOL_CREATE, &mut asked) }
}

/// Makes a subvolume with all that another one has at this moment, also what is only in memory yet.
pub(super) fn snapshot_subvolume(
    folder: impl AsFd,
    name: &str,
    of: impl AsFd,
    readonly: bool,
) -> io::Result<()> {
    // SAFETY: integers, for which zero is a value.
    let mut asked: btrfs_ioctl_vol_args_v2 = unsafe { zeroed() };
    asked.fd = of.as_fd().as_raw_fd().into();
    asked.flags = if readonly {
        BTRFS_SUBVOL_RDONLY.into()
    } else {
        0
    };
    // SAFETY: every member of the union is of integers; the name is the one that the request reads.
    put(name, unsafe { &mut asked.__bindgen_anon_2.name })?;
    // SAFETY: the request's own struct; its pointer is read with a flag that isn't set.
    unsafe { ioctl(folder, BTRFS_IOC_SNAP_CREATE_V2, &mut asked) }
}

/// Takes a subvolume out of a folder at once; its blocks come free in the background.
pub(in crate::csi) fn destroy_subvolume(folder: impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: integers, for which zero is a value.
    let mut asked: btrfs_ioctl_vol_args = unsafe { zeroed() };
    put(name, &mut asked.name)?;
    // SAFETY: the request's own struct.
    unsafe { ioctl(folder, BTRFS_IOC_SNAP_DESTROY, &mut asked) }
}

/// Number of the subvolume that a folder is in.
pub(super) fn subvolume_id(of: impl AsFd) -> io::Result<u64> {
    // SAFETY: integers, for which zero is a value.
    let mut told: btrfs_ioctl_get_subvol_info_args = unsafe { zeroed() };
    // SAFETY: the request's own struct.
    unsafe { ioctl(of, BTRFS_IOC_GET_SUBVOL_INFO, &mut told)? };
    Ok(told.treeid)
}

/// Whether somebody made further subvolumes in one.
pub(super) fn has_subvolumes(of: impl AsFd) -> io::Result<bool> {
    // SAFETY: integers, for which zero is a value.
    let mut told: btrfs_ioctl_get_subvol_rootref_args = unsafe { zeroed() };
    // SAFETY: the request's own struct.
    match unsafe { ioctl(of, BTRFS_IOC_GET_SUBVOL_ROOTREF, &mut told) } {
        Ok(()) => Ok(told.num_items > 0),
        // More than are told at a time.
        Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The bytes that a btrfs is known by.
pub(super) fn fsid(of: impl AsFd) -> io::Result<[u8; 16]> {
    // SAFETY: integers, for which zero is a value.
    let mut told: btrfs_ioctl_fs_info_args = unsafe { zeroed() };
    // SAFETY: the request's own struct.
    unsafe { ioctl(of, BTRFS_IOC_FS_INFO, &mut told)? };
    Ok(told.fsid)
}

/// Bounds what the subvolume that a folder is in refers to.
pub(super) fn limit_subvolume(of: impl AsFd, bytes: u64) -> io::Result<()> {
    // SAFETY: integers, for which zero is a value. Group 0 is the subvolume's own.
    let mut asked: btrfs_ioctl_qgroup_limit_args = unsafe { zeroed() };
    asked.lim.flags = BTRFS_QGROUP_LIMIT_MAX_RFER.into();
    asked.lim.max_rfer = bytes;
    // SAFETY: the request's own struct.
    unsafe { ioctl(of, BTRFS_IOC_QGROUP_LIMIT, &mut asked) }
}

/// Removes the quota group of a subvolume that is gone.
pub(super) fn remove_qgroup(of: impl AsFd, subvolume: u64) -> io::Result<()> {
    let mut asked = btrfs_ioctl_qgroup_create_args {
        create: 0,
        qgroupid: subvolume,
    };
    // SAFETY: the request's own struct.
    unsafe { ioctl(of, BTRFS_IOC_QGROUP_CREATE, &mut asked) }
}

/// `FS_XFLAG_PROJINHERIT`: what is made in a folder is of its project.
const INHERIT: u32 = 0x200;

/// Makes a folder, and all that will be made in it, a project's.
pub(super) fn set_project(of: impl AsFd, project: u32) -> io::Result<()> {
    let of = of.as_fd();
    // SAFETY: integers, for which zero is a value.
    let mut attributes: fsxattr = unsafe { zeroed() };
    // SAFETY: the request's own struct.
    unsafe { ioctl(of, FS_IOC_FSGETXATTR, &mut attributes)? };
    attributes.fsx_projid = project;
    attributes.fsx_xflags |= INHERIT;
    // SAFETY: the request's own struct.
    unsafe { ioctl(of, FS_IOC_FSSETXATTR, &mut attributes) }
}

/// What a project may have, and has. A limit of 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) most_bytes: u64,
    pub(super) most_files: u64,
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// Of projects; the others are of users and of groups.
const PROJECT: u32 = 2;
/// Limits are in KiB.
const UNIT: u64 = 1024;

fn quotactl(
    of: impl AsFd,
    command: libc::c_int,
    project: u32,
    block: &mut libc::dqblk,
) -> io::Result<()> {
    let command = command.cast_unsigned() << 8 | PROJECT;
    // SAFETY: Linux 5.14 and later; the kernel reads or writes one `dqblk`, which lives during the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            of.as_fd().as_raw_fd(),
            command,
            project,
            std::ptr::from_mut(block),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is known of a project on the file system of a folder.
pub(super) fn quota(of: impl AsFd, project: u32) -> io::Result<Quota> {
    // SAFETY: integers, for which zero is a value.
    let mut block: libc::dqblk = unsafe { zeroed() };
    match quotactl(of, libc::Q_GETQUOTA, project, &mut block) {
        Ok(()) => Ok(Quota {
            most_bytes: block.dqb_bhardlimit.saturating_mul(UNIT),
            most_files: block.dqb_ihardlimit,
            bytes: block.dqb_curspace,
            files: block.dqb_curinodes,
        }),
        // Nobody has used it yet.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Quota::default()),
        Err(error) => Err(error),
    }
}

/// Bounds a project: what it has doesn't change.
pub(super) fn set_quota(
    of: impl AsFd,
    project: u32,
    most_bytes: u64,
    most_files: u64,
) -> io::Result<()> {
    // SAFETY: integers, for which zero is a value.
    let mut block: libc::dqblk = unsafe { zeroed() };
    block.dqb_bhardlimit = most_bytes / UNIT;
    block.dqb_ihardlimit = most_files;
    block.dqb_valid = libc::QIF_LIMITS;
    quotactl(of, libc::Q_SETQUOTA, project, &mut block)
}
