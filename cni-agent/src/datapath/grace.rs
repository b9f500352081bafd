//! Shortens the kernel's waiting while a tcx program is attached or detached.
//!
//! The kernel then waits, holding the lock of all network configuration, until no CPU uses the old
//! list of programs any more: an ordinary grace period of RCU, 12 ms for each program at 250 Hz,
//! and pods that start together wait one after the other. An expedited one takes a tenth of a
//! millisecond; nearly every other change of an interface already asks for that by itself
//! (`synchronize_net`), so it is nothing new to the machine. A kernel that must not be disturbed
//! (`rcu_normal`, real time) ignores the wish.

use std::{fs, io, path::Path, process};
use tracing::{debug, warn};

const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// Says who switched it on, so that what a killed agent left is switched off by the next one.
const MARKER: &str = "/run/fairlead-rcu-expedited";

/// While this lives, the kernel's grace periods are expedited.
#[derive(Debug)]
pub(super) struct Expedited {
    /// Whether it was this value that switched it on. Another agent may have, or the
    /// administrator: then it is theirs to switch off. If theirs ends first, we merely wait longer.
    ours: bool,
}

impl Expedited {
    /// Switches it on if it is off and may be switched; else everything only takes longer.
    pub(super) fn begin() -> Self {
        let off = fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "0");
        let ours = off || left_by_the_dead();
        if ours && let Err(fault) = fs::write(MARKER, process::id().to_string()) {
            // Without a note nobody would switch it off after a crash.
            debug!("cannot write {MARKER}, attaching takes longer: {fault}");
            return Self { ours: !off };
        }
        Self {
            ours: ours && write("1"),
        }
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        if self.ours && write("0") {
            match fs::remove_file(MARKER) {
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => {
                    warn!("cannot remove {MARKER}: {fault}");
                }
                _ => {}
            }
        }
    }
}

/// Whether an agent that was killed meanwhile switched it on.
fn left_by_the_dead() -> bool {
    fs::read_to_string(MARKER).is_ok_and(|pid| {
        let pid = pid.trim();
        !pid.is_empty()
            && pid.bytes().all(|b| b.is_ascii_digit())
            && !Path::new("/proc").join(pid).exists()
    })
}

/// Switches it off if an agent that was killed left it on; for the start.
pub(super) fn mend() {
    if left_by_the_dead() {
        drop(Expedited::begin());
    }
}

fn write(value: &str) -> bool {
    let result = fs::write(SWITCH, value);
    if let Err(fault) = &result {
        debug!("cannot write {value} to {SWITCH}, attaching takes longer: {fault}");
    }
    result.is_ok()
}
