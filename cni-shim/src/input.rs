//! Standard input, bounded in size and time.

use crate::fault::{Fault, code};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read as read_some},
};
use std::{
    io::stdin,
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// Largest configuration taken: that of a chain with its previous result has a few KiB.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Reads to the end.
///
/// # Errors
/// 5 when it can't be read or isn't ended in time, 7 when it is too large, 6 when it isn't UTF-8.
pub(crate) fn read(patience: Duration) -> Result<String, Fault> {
    let stdin = stdin();
    let end = Instant::now() + patience;
    let (mut text, mut chunk) = (Vec::new(), [0; 8 << 10]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut wait = [PollFd::new(&stdin, PollFlags::IN)];
        let ready = poll(&mut wait, Timespec::try_from(left).ok().as_ref());
        let got = match ready {
            Ok(0) => {
                let msg = "standard input was not closed in time";
                return Err(Fault::new(code::IO, msg).with_details(
                    "the runtime must write the network configuration and close it",
                ));
            }
            Ok(_) => read_some(stdin.as_fd(), &mut chunk),
            Err(error) => Err(error),
        };
        match got {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(Fault::new(
                    code::IO,
                    format!("can't read standard input: {error}"),
                ));
            }
        }
        if text.len() > MAX_BYTES {
            let msg = format!("the network configuration has more than {MAX_BYTES} bytes");
            return Err(Fault::new(code::CONFIG, msg));
        }
    }
    String::from_utf8(text)
        .map_err(|_| Fault::new(code::DECODE, "the network configuration is not UTF-8"))
}
