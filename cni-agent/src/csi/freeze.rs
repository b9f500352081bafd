//! Holds a volume's own file system still while its file is cut: what pods have written is in the cut, and its journal is
//! clean. Never for long, whatever becomes of the agent: a small process of its own, the guard, holds it still, and lets
//! it go on when it is told to, when the agent is gone, or after a deadline. Where both are killed at once, as with a
//! container that the agent is the first process of, the next start lets it go on.

use super::kernel;
use crate::metrics::VolumeCounts;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// A cut takes milliseconds; what takes longer must not hold the pod.
const LONGEST: Duration = Duration::from_secs(5);

/// What the guard answers when it has tried: it holds it; somebody else does; the kernel refused.
const HELD: u8 = b'h';
const OTHERS: u8 = b'o';
const REFUSED: u8 = b'r';
/// How the guard ends when it wasn't held until the end, and when it couldn't let go.
const LATE: u8 = 3;
const STUCK: u8 = 4;

/// A file system that is held, or about to be. Its end lets it go on.
pub(super) struct Held {
    within: File,
    /// None: it was let go, or somebody else holds it: theirs to let go.
    guard: Option<(Child, UnixStream)>,
    /// Since when it is held, and where that is counted.
    counted: Option<(Instant, VolumeCounts)>,
}

impl Held {
    /// Starts the guard of the file system that a folder is in. What can't be guarded is not held.
    pub(super) fn guarded(within: File) -> io::Result<Self> {
        let (own, guards) = UnixStream::pair()?;
        let guard = command()
            .stdin(OwnedFd::from(guards))
            .stdout(OwnedFd::from(within.try_clone()?))
            // What ends the agent from its terminal doesn't end the guard.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            within,
            guard: Some((guard, own)),
            counted: None,
        })
    }

    /// Writes out what is pending; who writes doesn't wait.
    pub(super) fn write_out(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.within)?)
    }

    /// Has the guard hold it. It is held once [`Self::wait`] says so.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        match &mut self.guard {
            Some((_, own)) => own.write_all(&[HELD]),
            None => Ok(()),
        }
    }

    /// Waits until it is held; how long it is will be counted there. `false`: somebody else holds it, and may let it go on
    /// at any time.
    pub(super) fn wait(&mut self, counts: &VolumeCounts) -> io::Result<bool> {
        let Some((_, own)) = &mut self.guard else {
            return Ok(false);
        };
        let mut answer = [0; 5];
        match (own.read(&mut answer)?, answer) {
            (1, [HELD, ..]) => {
                self.counted = Some((Instant::now(), counts.clone()));
                Ok(true)
            }
            (1, [OTHERS, ..]) => self.end_guard().map(|_| false),
            (5, [REFUSED, code @ ..]) => {
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code)))
            }
            _ => Err(io::Error::other("the guard ended before it held anything")),
        }
    }

    /// Holds the file system that a folder is in.
    #[cfg(test)]
    pub(super) fn of(within: File) -> io::Result<Self> {
        let mut held = Self::guarded(within)?;
        held.ask()?;
        held.wait(&VolumeCounts::default())?;
        Ok(held)
    }

    /// Lets it go on. `false`: it had to go on before, so that what was cut meanwhile is not of one moment.
    pub(super) fn release(mut self) -> io::Result<bool> {
        self.end_guard()
    }

    #[cfg(test)]
    pub(super) fn kill_guard(&self) {
        let guard = self.guard.as_ref().expect("it holds it");
        let pid = rustix::process::Pid::from_child(&guard.0);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    fn end_guard(&mut self) -> io::Result<bool> {
        let Some((mut guard, own)) = self.guard.take() else {
            return Ok(true);
        };
        // The end of what we say is the word to let go.
        drop(own);
        let status = guard.wait();
        if let Some((since, counts)) = self.counted.take() {
            counts.held(since.elapsed());
        }
        match status.as_ref().map(|status| status.code()) {
            Ok(Some(0)) => Ok(true),
            Ok(Some(code)) if code == i32::from(LATE) => Ok(false),
            // It was killed, or couldn't: if it is still held, it was until now.
            _ => kernel::thaw(&self.within),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.end_guard() {
            tracing::error!(%error, "a volume's file system can't be let go on; a start of the agent does it");
        }
    }
}

/// This very program, also when its file was replaced meanwhile.
fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    #[cfg(not(test))]
    command.arg("thaw-guard");
    #[cfg(test)]
    command
        .args(["--exact", "csi::freeze::tests::the_guard_itself"])
        .env(tests::AS_GUARD, "1");
    command.stderr(Stdio::null());
    command
}

/// The guard: what it is told comes in at standard input, which is a socket; the file system is the one that standard
/// output is in.
#[must_use]
pub fn guard() -> ExitCode {
    let (input, within) = (io::stdin(), io::stdout());
    let done = input
        .as_fd()
        .try_clone_to_owned()
        .and_then(|socket| watch(UnixStream::from(socket), within.as_fd()));
    done.unwrap_or(STUCK).into()
}

fn watch(mut agent: UnixStream, within: impl AsFd) -> io::Result<u8> {
    let mut begin = [0];
    if agent.read(&mut begin)? == 0 {
        return Ok(0);
    }
    match kernel::freeze(&within) {
        Ok(true) => {}
        Ok(false) => {
            agent.write_all(&[OTHERS])?;
            return Ok(0);
        }
        Err(error) => {
            let code = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
            agent.write_all(&[&[REFUSED][..], &code].concat())?;
            return Ok(0);
        }
    }
    // From here on there is one way out. An agent that is gone hears no answer, and is noticed below.
    let told = agent.write_all(&[HELD]);
    let in_time = told.is_err() || hears(&agent, LONGEST);
    // Somebody may have let it go on before.
    let was_held = kernel::thaw(&within)?;
    Ok(if in_time && was_held { 0 } else { LATE })
}

/// Whether the agent says something, or is gone, in time.
fn hears(agent: &UnixStream, within: Duration) -> bool {
    let end = Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(agent, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            _ => return true,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Set in the environment of a guard that is this test program.
    pub(super) const AS_GUARD: &str = "FAIRLEAD_TEST_AS_GUARD";

    /// Not a test when it is started as a guard: then it is one.
    #[test]
    fn the_guard_itself() {
        if std::env::var_os(AS_GUARD).is_some() {
            let code = watch_as_test();
            std::process::exit(code.into());
        }
        // A file system that can't be held still says why, and nothing stays.
        let Err(error) = Held::of(File::open("/proc").unwrap()) else {
            panic!("/proc was held");
        };
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    fn watch_as_test() -> u8 {
        let socket = io::stdin().as_fd().try_clone_to_owned().unwrap();
        watch(UnixStream::from(socket), io::stdout().as_fd()).unwrap_or(STUCK)
    }

    #[test]
    fn who_says_nothing_is_not_waited_for() {
        let (agent, guard) = UnixStream::pair().unwrap();
        assert!(!hears(&guard, Duration::from_millis(1)));
        drop(agent);
        assert!(hears(&guard, Duration::from_secs(3600)));
    }
}
