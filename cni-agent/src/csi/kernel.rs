//! Loop devices, freezing and the map of a file's extents: system calls without a safe wrapper. The one place of raw
//! system calls for volumes.
#![expect(
    unsafe_code,
    reason = "ioctls of loop devices and file systems have no safe wrapper"
)]

use libc::Ioctl;
use std::{
    fs::{File, OpenOptions},
    io,
    mem::size_of,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    path::PathBuf,
};

/// The type differs between C libraries, the bits don't.
const fn request(bits: u32) -> Ioctl {
    bits as Ioctl
}

const LOOP_CTL_GET_FREE: Ioctl = request(0x4c82);
const LOOP_CONFIGURE: Ioctl = request(0x4c0a);
const LOOP_CLR_FD: Ioctl = request(0x4c01);
const LOOP_SET_STATUS64: Ioctl = request(0x4c04);
const LOOP_GET_STATUS64: Ioctl = request(0x4c05);
const LOOP_SET_CAPACITY: Ioctl = request(0x4c07);
/// Of a device, in bytes. Said and not left to the kernel: it would take 512 for a file of its own and 4096 for one
/// that shares blocks, so that a volume's file system, or its clone's, could not be mounted any more.
pub(super) const BLOCK: u32 = 4096;
const LOOP_READ_ONLY: u32 = 1;
const LOOP_AUTOCLEAR: u32 = 4;
const LOOP_DIRECT_IO: u32 = 16;
/// `_IOWR('X', 119, int)` and the next.
const FIFREEZE: Ioctl = request(0xc004_5877);
const FITHAW: Ioctl = request(0xc004_5878);
/// `_IOWR('f', 11, struct fiemap)`.
const FIEMAP: Ioctl = request(0xc020_660b);
/// `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONERANGE: Ioctl = request(0x4020_940d);
/// `_IOW('f', 16, __u64)`.
const EXT4_RESIZE: Ioctl = request(0x4008_6610);

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

const NO_INFO: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    sizelimit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

fn checked(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_negative| io::Error::last_os_error())
}

/// A loop device, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LoopDevice(pub(super) u32);

impl LoopDevice {
    pub(super) fn path(self) -> PathBuf {
        format!("/dev/loop{}", self.0).into()
    }

    /// Opens it to look at it: what is open for writing keeps its file system from being mounted on some kernels.
    pub(super) fn open(self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(self.path())
    }

    /// Puts a file behind a free device, which is open. Direct I/O where the file system below takes it:
    /// [`LoopStatus::is_direct`].
    pub(super) fn attach(backing: &File, readonly: bool) -> io::Result<(Self, File)> {
        const ATTEMPTS: usize = 64;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: takes no argument; the kernel checks the descriptor.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let device = Self(checked(number)?);
            let opened = OpenOptions::new()
                .read(true)
                .write(!readonly)
                .custom_flags(libc::O_CLOEXEC)
                .open(device.path())?;
            let mut config = LoopConfig {
                fd: backing.as_raw_fd().cast_unsigned(),
                block_size: BLOCK,
                info: LoopInfo {
                    flags: LOOP_DIRECT_IO | if readonly { LOOP_READ_ONLY } else { 0 },
                    ..NO_INFO
                },
                reserved: [0; 8],
            };
            // SAFETY: the kernel reads one `loop_config`, which lives during the call; its layout is asserted.
            let done = unsafe { libc::ioctl(opened.as_raw_fd(), LOOP_CONFIGURE, &raw mut config) };
            match checked(done) {
                Ok(_) => return Ok((device, opened)),
                // Somebody else took it.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(
            "no loop device stays free for long enough",
        ))
    }

    /// Whether somebody has it for themselves: a mount, or a program that makes or checks a file system.
    pub(super) fn is_claimed(self) -> io::Result<bool> {
        let alone = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_EXCL)
            .open(self.path());
        match alone {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
            opened => opened.map(|_| false),
        }
    }

    /// The name of its file; empty: it has none.
    pub(super) fn file_name(self) -> io::Result<String> {
        let path = format!("/sys/block/loop{}/loop/backing_file", self.0);
        match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            name => Ok(String::from_utf8_lossy(&name?).into_owned()),
        }
    }

    /// Every device that has a file.
    pub(super) fn all() -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir("/sys/block")? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("loop")?.parse().ok());
            if let Some(number) = number
                && entry.path().join("loop").exists()
            {
                all.push(Self(number));
            }
        }
        all.sort_unstable();
        Ok(all)
    }
}

/// What a loop device that has a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoopStatus {
    /// Device and inode of the file.
    pub(super) backing: (u64, u64),
    /// It reads and writes past the page cache.
    pub(super) is_direct: bool,
    /// The file goes when nobody has the device open any more.
    pub(super) goes_when_closed: bool,
}

fn loop_info(of: &File) -> io::Result<Option<LoopInfo>> {
    let mut info = NO_INFO;
    // SAFETY: the kernel writes one `loop_info64`, which lives during the call; its layout is asserted.
    let done = unsafe { libc::ioctl(of.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    match checked(done) {
        Ok(_) => Ok(Some(info)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of an open device; none: it has no file any more.
pub(super) fn loop_status(of: &File) -> io::Result<Option<LoopStatus>> {
    Ok(loop_info(of)?.map(|info| LoopStatus {
        backing: (info.device, info.inode),
        is_direct: info.flags & LOOP_DIRECT_IO != 0,
        goes_when_closed: info.flags & LOOP_AUTOCLEAR != 0,
    }))
}

/// Has the file of an open device stay when nobody has the device open any more.
pub(super) fn loop_stays(of: &File) -> io::Result<()> {
    let Some(mut info) = loop_info(of)? else {
        return Err(io::Error::from_raw_os_error(libc::ENXIO));
    };
    info.flags &= !LOOP_AUTOCLEAR;
    // SAFETY: the kernel reads one `loop_info64`, which lives during the call; its layout is asserted.
    checked(unsafe { libc::ioctl(of.as_raw_fd(), LOOP_SET_STATUS64, &raw const info) }).map(drop)
}

/// Takes the file of an open device away; at once, or when the last who has the device open closes it.
pub(super) fn loop_clear(of: &File) -> io::Result<()> {
    // SAFETY: takes no argument.
    match checked(unsafe { libc::ioctl(of.as_raw_fd(), LOOP_CLR_FD, 0) }) {
        // It has none.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        done => done.map(drop),
    }
}

/// Has an open device take the size that its file has now.
pub(super) fn loop_takes_size(of: &File) -> io::Result<()> {
    // SAFETY: takes no argument.
    checked(unsafe { libc::ioctl(of.as_raw_fd(), LOOP_SET_CAPACITY, 0) }).map(drop)
}

/// Stops all changes of a file system and writes out what is pending. `false`: somebody else has.
pub(super) fn freeze(within: impl AsFd) -> io::Result<bool> {
    // SAFETY: takes no argument that the kernel looks at.
    match checked(unsafe { libc::ioctl(within.as_fd().as_raw_fd(), FIFREEZE, 0) }) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        done => done.map(|_| true),
    }
}

/// Lets a file system go on. `false`: it is not frozen.
pub(super) fn thaw(within: impl AsFd) -> io::Result<bool> {
    // SAFETY: as in `freeze`.
    match checked(unsafe { libc::ioctl(within.as_fd().as_raw_fd(), FITHAW, 0) }) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        done => done.map(|_| true),
    }
}

/// Has a mounted ext4 take this many of its blocks.
pub(super) fn resize_ext4(within: impl AsFd, blocks: u64) -> io::Result<()> {
    let mut blocks = blocks;
    // SAFETY: the kernel reads one integer, which lives during the call.
    checked(unsafe { libc::ioctl(within.as_fd().as_raw_fd(), EXT4_RESIZE, &raw mut blocks) })
        .map(drop)
}

/// `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    length: u64,
    to_offset: u64,
}

/// Has a range of a file share its blocks with the same range of another; a hole becomes one. Both ends lie on blocks'
/// borders, or the range goes to the other one's end.
pub(super) fn clone_range(to: &File, from: &File, range: &Range<u64>) -> io::Result<()> {
    let asked = CloneRange {
        from: from.as_raw_fd().into(),
        from_offset: range.start,
        length: range.end - range.start,
        to_offset: range.start,
    };
    // SAFETY: the kernel reads one `file_clone_range`, which lives during the call.
    checked(unsafe { libc::ioctl(to.as_raw_fd(), FICLONERANGE, &raw const asked) }).map(drop)
}

/// A run of a file's bytes and where they lie on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) logical: u64,
    pub(super) physical: u64,
    pub(super) length: u64,
    pub(super) flags: u32,
}

impl Extent {
    /// Where it lies is not known, or not the whole truth: delayed, encoded, inline.
    pub(super) const VAGUE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400;
    /// Allocated, and reads as zeros.
    pub(super) const UNWRITTEN: u32 = 0x800;
    /// Another file has the same blocks.
    pub(super) const SHARED: u32 = 0x2000;
    const LAST: u32 = 0x1;
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const RUN: usize = 512;

/// `struct fiemap` with room for answers.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [FiemapExtent; RUN],
}

const _: () = assert!(size_of::<FiemapExtent>() == 56 && size_of::<Fiemap>() == 32 + RUN * 56);

/// A file's extents from an offset on, in order, after what is pending was written. A few hundred are read at a time:
/// whoever writes a file decides how many it has.
#[derive(Debug)]
pub(super) struct Extents<'a> {
    file: &'a File,
    /// From where on more are to be read.
    next: Option<u64>,
    read: std::vec::IntoIter<Extent>,
}

impl<'a> Extents<'a> {
    pub(super) fn of(file: &'a File, from: u64) -> Self {
        Self {
            file,
            next: Some(from),
            read: Vec::new().into_iter(),
        }
    }

    /// Reads the next run of them.
    fn run(&self, start: u64) -> io::Result<Vec<Extent>> {
        const SYNC: u32 = 1;
        const NONE: FiemapExtent = FiemapExtent {
            logical: 0,
            physical: 0,
            length: 0,
            reserved64: [0; 2],
            flags: 0,
            reserved: [0; 3],
        };
        let mut map = Box::new(Fiemap {
            start,
            length: u64::MAX - start,
            flags: SYNC,
            mapped: 0,
            count: RUN as u32,
            reserved: 0,
            extents: [NONE; RUN],
        });
        // SAFETY: the kernel reads the head and writes at most `count` extents behind it, for which there is room;
        // the layout is asserted.
        checked(unsafe { libc::ioctl(self.file.as_raw_fd(), FIEMAP, &raw mut *map) })?;
        let mapped = (map.mapped as usize).min(RUN);
        let extents = map.extents[..mapped].iter().map(|found| Extent {
            logical: found.logical,
            physical: found.physical,
            length: found.length,
            flags: found.flags,
        });
        Ok(extents.collect())
    }
}

impl Iterator for Extents<'_> {
    type Item = io::Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(extent) = self.read.next() {
            return Some(Ok(extent));
        }
        let start = self.next.take()?;
        match self.run(start) {
            Ok(run) => {
                self.next = match run.last() {
                    Some(last) if last.flags & Extent::LAST == 0 => {
                        Some(last.logical + last.length)
                    }
                    _ => None,
                };
                self.read = run.into_iter();
                self.read.next().map(Ok)
            }
            Err(error) => Some(Err(error)),
        }
    }
}
