//! What the kernel says of a pinned link, which aya does not tell: the interface it is on. The
//! one place of raw `bpf(2)` calls.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_GET: u32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_LINK_DETACH: u32 = 34;

/// A pinned link as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) link_id: u32,
    pub(super) program_id: u32,
    /// 0 when the interface is gone.
    pub(super) ifindex: u32,
}

/// Start of `struct bpf_link_info`, followed by the part of tcx and XDP links.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    link_id: u32,
    program_id: u32,
    /// The union behind holds 64-bit integers.
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
#[derive(Default)]
struct ObjInfo {
    fd: u32,
    len: u32,
    info: u64,
}

/// Reads the state of the link pinned at `path`.
pub(super) fn link_state(path: &Path) -> io::Result<LinkState> {
    let fd = open(path)?;
    let mut info = LinkInfo::default();
    let mut attr = ObjInfo {
        fd: fd.as_raw_fd().unsigned_abs(),
        len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes to `info`, which lives until the call ends;
    // its address was exposed for that.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(LinkState {
        link_id: info.link_id,
        program_id: info.program_id,
        ifindex: info.ifindex,
    })
}

/// Detaches the link pinned at `path`, at once: removing the pin alone is carried out later.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    let fd = open(path)?;
    let mut attr = fd.as_raw_fd().unsigned_abs();
    // SAFETY: the command reads one file descriptor, which is open.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }?;
    Ok(())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGet {
        pathname: path.as_ptr().expose_provenance() as u64,
        ..ObjGet::default()
    };
    // SAFETY: the kernel reads the path, which lives until the call ends.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor (with close-on-exec), and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` must be the start of the `union bpf_attr` of the command; its pointers must be valid.
unsafe fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads the size that is given and takes the rest as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            libc::c_long::from(command),
            &raw mut *attr,
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}
