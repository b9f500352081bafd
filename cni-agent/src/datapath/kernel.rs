//! What aya does not tell: what a pinned link is on, an interface's driver, a namespace's number. The
//! one place of raw system calls.
#![expect(
    unsafe_code,
    reason = "bpf(2) and ethtool's ioctl have no safe wrapper"
)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_GET: u32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_LINK_UPDATE: u32 = 29;
const BPF_LINK_DETACH: u32 = 34;

/// A pinned link as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) link_id: u32,
    pub(super) program_id: u32,
    /// 0 when the interface is gone.
    pub(super) ifindex: u32,
}

/// A pinned link on a control group as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CgroupLink {
    pub(super) program_id: u32,
    /// The number of the group's folder, 0 when it is gone.
    pub(super) cgroup: u64,
}

/// Start of `struct bpf_link_info`, followed by the part of tcx and XDP links; control groups' have
/// one number in the place of the two.
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
    let info = link_info(path)?;
    Ok(LinkState {
        link_id: info.link_id,
        program_id: info.program_id,
        ifindex: info.ifindex,
    })
}

/// Reads the state of the link on a control group pinned at `path`.
pub(super) fn cgroup_link(path: &Path) -> io::Result<CgroupLink> {
    let info = link_info(path)?;
    let [a, b, c, d] = info.ifindex.to_ne_bytes();
    let [e, f, g, h] = info.attach_type.to_ne_bytes();
    Ok(CgroupLink {
        program_id: info.program_id,
        cgroup: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
    })
}

fn link_info(path: &Path) -> io::Result<LinkInfo> {
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
    Ok(info)
}

/// `union bpf_attr` for BPF_LINK_UPDATE.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Gives the link pinned at `path` another program, in place.
pub(super) fn replace_program(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open(path)?;
    let mut attr = LinkUpdate {
        link: link.as_raw_fd().unsigned_abs(),
        program: program.as_raw_fd().unsigned_abs(),
        ..LinkUpdate::default()
    };
    // SAFETY: the command reads two file descriptors, which are open.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }?;
    Ok(())
}

/// The kernel's number of the calling thread's network namespace. Kernel 5.14.
pub(super) fn netns_cookie() -> io::Result<u64> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut cookie = 0u64;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the integer, which lives until the call ends.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

/// Of all architectures that the agent is built for.
const SO_NETNS_COOKIE: libc::c_int = 71;

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

/// `struct ethtool_drvinfo`, as far as it is read; the kernel writes all of it.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ifreq` of an ioctl that takes a pointer; the union behind the name has 24 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    data: *mut DriverInfo,
    padding: [u64; 2],
}

/// Name of the driver of an interface of the calling thread's namespace.
pub(super) fn driver(ifname: &str) -> io::Result<String> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    const ETHTOOL_GDRVINFO: u32 = 3;
    const SIOCETHTOOL: u32 = 0x8946;
    let mut name = [0; 16];
    let bytes = ifname.as_bytes();
    let room = name.get_mut(..bytes.len()).filter(|room| room.len() < 16);
    room.ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(bytes);
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    let mut request = InterfaceRequest {
        name,
        data: &raw mut info,
        padding: [0; 2],
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: both structures have the kernel's layout and live until the call ends.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let end = info
        .driver
        .iter()
        .position(|b| *b == 0)
        .unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

const _: () = assert!(size_of::<DriverInfo>() == 196);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<InterfaceRequest>() == 40);

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
