//! FUSE: a file system of one file, which this process mounts, answers for and reads.

use super::own_namespaces;
use anyhow::{Context, Result, ensure};
use rustix::{
    mount::{MountFlags, mount},
    thread::UnshareFlags,
};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    thread,
};

const AT: &str = "/tmp";
const NAME: &[u8] = b"hello\0";
const CONTENT: &[u8] = b"from a file system of this process\n";

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const ROOT: u64 = 1;
const FILE: u64 = 2;
/// Kernel's version of the protocol that the answers are written for (7.31).
const VERSION: [u32; 2] = [7, 31];
const NOT_FOUND: i32 = -2;
const NOT_THERE: i32 = -38;

pub(super) fn run() -> Result<String> {
    own_namespaces(UnshareFlags::NEWNS)?;
    // Opened within the namespace that mounts it: the kernel wants both to be one's own.
    let fuse = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("opening /dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        fuse.as_raw_fd()
    );
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("fairlead", AT, "fuse", flags, options.as_c_str()).context("mounting")?;
    thread::Builder::new()
        .name("answers".to_owned())
        .spawn(move || {
            if let Err(error) = answer(fuse) {
                eprintln!("the file system ends: {error:#}");
            }
        })?;
    let read = fs::read(format!("{AT}/hello")).context("reading its file")?;
    ensure!(read == CONTENT, "its file holds {read:?}");
    Ok("FUSE: a file system, mounted and read".to_owned())
}

/// Answers the kernel until the file system ends.
fn answer(mut fuse: File) -> Result<()> {
    let mut request = vec![0; 1 << 17];
    loop {
        let length = fuse.read(&mut request)?;
        let request = request.get(..length).unwrap_or_default();
        let word = |at: usize| number::<4>(request, at).map(u32::from_le_bytes);
        let long = |at: usize| number::<8>(request, at).map(u64::from_le_bytes);
        let (what, unique, node) = (word(4)?, long(8)?, long(16)?);
        let body = request.get(40..).unwrap_or_default();
        let given: Result<Vec<u8>, i32> = match what {
            INIT => Ok(init()),
            GETATTR => Ok([&[0; 16][..], &attributes(node)].concat()),
            LOOKUP if body == NAME => Ok(entry()),
            LOOKUP => Err(NOT_FOUND),
            OPEN => Ok(vec![0; 16]),
            READ => {
                let from = usize::try_from(long(48)?)?.min(CONTENT.len());
                Ok(CONTENT[from..].to_vec())
            }
            RELEASE | FLUSH => Ok(Vec::new()),
            FORGET => continue,
            _ => Err(NOT_THERE),
        };
        let (error, data) = match given {
            Ok(data) => (0, data),
            Err(error) => (error, Vec::new()),
        };
        let whole = u32::try_from(16 + data.len())?;
        let mut answer = whole.to_le_bytes().to_vec();
        answer.extend(error.to_le_bytes());
        answer.extend(unique.to_le_bytes());
        answer.extend(data);
        fuse.write_all(&answer)?;
    }
}

fn number<const N: usize>(request: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = request.get(at..at + N).context("a request is cut short")?;
    Ok(bytes.try_into()?)
}

/// `struct fuse_init_out`.
fn init() -> Vec<u8> {
    let mut out = Vec::new();
    // Version, read-ahead, flags, then how much may be under way, and the longest write.
    for word in [VERSION[0], VERSION[1], 4096, 0, 0, 4096] {
        out.extend(word.to_le_bytes());
    }
    out.resize(64, 0);
    out
}

/// `struct fuse_attr`: a folder for the root, else the file.
fn attributes(node: u64) -> Vec<u8> {
    let (size, mode): (u64, u32) = match node {
        ROOT => (0, 0o40_755),
        _ => (CONTENT.len() as u64, 0o100_444),
    };
    let mut out = Vec::new();
    for long in [node, size, 1, 0, 0, 0] {
        out.extend(long.to_le_bytes());
    }
    out.extend([0; 12]);
    // Its mode, links, owner, group, device, block size, flags.
    for word in [mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(word.to_le_bytes());
    }
    out
}

/// `struct fuse_entry_out`.
fn entry() -> Vec<u8> {
    let mut out = FILE.to_le_bytes().to_vec();
    out.extend([0; 32]);
    out.extend(attributes(FILE));
    out
}
