//! Shortens the kernel's waiting while a tcx program is attached or detached.
//!
//! The kernel then waits, holding the lock of all network configuration, until no CPU uses the old
//! list of programs any more: an ordinary grace period of RCU, 12 ms for each program at 250 Hz,
//! and pods that start together wait one after the other. An expedited one takes a tenth of a
//! millisecond; nearly every other change of an interface already asks for that by itself
//! (`synchronize_net`), so it is nothing new to the machine. A kernel that must not be disturbed
//! (`rcu_normal`, real time) ignores the wish.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};
use tracing::{debug, warn};

const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// Says that an agent switched it on, who holds its lock as long as it lives: what a killed one left
/// is switched off by the next. Beside the socket, where an agent in a container can write.
const MARKER: &str = "/run/fairlead/rcu-expedited";

/// While this lives, the kernel's grace periods are expedited.
#[derive(Debug)]
pub(super) struct Expedited {
    /// The marker, locked, when it was this value that switched it on. Another agent may have, or the
    /// administrator: then it is theirs to switch off. If theirs ends first, we merely wait longer.
    ours: Option<File>,
}

impl Expedited {
    /// Switches it on if it is off and may be switched; else everything only takes longer.
    pub(super) fn begin() -> Self {
        let ours = Self::switch_on();
        if let Err(fault) = &ours {
            debug!("{SWITCH} stays off, attaching takes longer: {fault}");
        }
        Self {
            ours: ours.unwrap_or_default(),
        }
    }

    fn switch_on() -> io::Result<Option<File>> {
        let off = fs::read_to_string(SWITCH)?.trim() == "0";
        if let Some(folder) = Path::new(MARKER).parent() {
            fs::create_dir_all(folder)?;
        }
        let mut marker = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(MARKER)?;
        if marker.try_lock().is_err() {
            // Another thread's or agent's, which is at it.
            return Ok(None);
        }
        let mut text = String::new();
        marker.read_to_string(&mut text)?;
        if !off && text.is_empty() {
            return Ok(None);
        }
        // Without a note nobody would switch it off after a crash.
        if text.is_empty() {
            marker.write_all(b"on\n")?;
        }
        fs::write(SWITCH, "1")?;
        Ok(Some(marker))
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        let Some(marker) = &self.ours else { return };
        if let Err(fault) = fs::write(SWITCH, "0").and_then(|()| marker.set_len(0)) {
            warn!("{SWITCH} may stay on until the next start: {fault}");
        }
    }
}

/// Switches it off if an agent that was killed left it on; for the start.
pub(super) fn mend() {
    if fs::metadata(MARKER).is_ok_and(|about| about.len() > 0) {
        drop(Expedited::begin());
    }
}

/// As `mend`, and removes the note; for an end for good.
pub(super) fn forget() -> io::Result<bool> {
    mend();
    match fs::remove_file(MARKER) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
