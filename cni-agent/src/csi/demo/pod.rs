//! What a pod does with its volume. All of it blocks on the disk.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

const NOTE: &str = "note";
const FILLING: &str = "filling";
const CHUNK: usize = 1 << 20;

/// Writes a note, and has it on the disk.
pub(super) fn write(at: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(at.join(NOTE))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Reads the note.
pub(super) fn read(at: &Path) -> io::Result<String> {
    fs::read_to_string(at.join(NOTE))
}

/// Writes until there is no room, and takes the file away again: how many bytes found room. Tells of each quarter of
/// `expected`. Ends early when it is told to stop.
pub(super) fn fill(
    at: &Path,
    expected: u64,
    stop: &AtomicBool,
    tell: impl Fn(u64),
) -> io::Result<u64> {
    let path = at.join(FILLING);
    let mut file = File::create(&path)?;
    let chunk: Vec<u8> = (0..CHUNK).map(|n| (n % 251) as u8).collect();
    let (mut written, mut quarters) = (0, 0);
    let outcome = loop {
        if stop.load(Ordering::Relaxed) {
            break Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        match file.write(&chunk) {
            Ok(0) => break Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(more) => written += more as u64,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => break Ok(written),
            Err(error) => break Err(error),
        }
        while quarters < 4 && written * 4 >= expected * (quarters + 1) {
            quarters += 1;
            tell(written);
        }
    };
    drop(file);
    fs::remove_file(path)?;
    outcome
}

/// Bytes of the file system that the pod sees.
pub(super) fn size(at: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(at)?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}
