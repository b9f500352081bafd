//! Programs that make, check and grow file systems: as words, never through a shell. None of them is ever ended early: that
//! could leave a file system damaged, and the next call would begin anew what takes so long.

use super::fault::Fault;
use std::{
    io::{self, Read as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

/// So long a call waits for a program. The kubelet asks again after a similar time.
const LIMIT: Duration = Duration::from_secs(120);
/// What is kept of what a program says.
const MOST_SAID: u64 = 4096;

/// Whether a program is where programs are looked for.
pub(super) fn is_there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// Runs a program to its end.
///
/// # Errors
/// It is not there, or it fails; or it isn't done yet: then it goes on, and how it ended is only logged.
pub(super) fn run(program: &str, words: &[&str]) -> Result<(), Fault> {
    run_with(program, words, &[0])
}

/// The same of a program that ends well with any of these codes.
pub(super) fn run_with(program: &str, words: &[&str], good: &'static [i32]) -> Result<(), Fault> {
    run_within(program, words, good, Some(LIMIT))
}

/// Runs a program that makes a file system, however long it takes: whether it is made, only this call can tell. Others of
/// the volume are told meanwhile that it is worked on.
pub(super) fn make(program: &str, words: &[&str]) -> Result<(), Fault> {
    run_within(program, words, &[0], None)
}

fn run_within(
    program: &str,
    words: &[&str],
    good: &'static [i32],
    limit: Option<Duration>,
) -> Result<(), Fault> {
    let child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // What ends the agent from its terminal doesn't end the program.
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Fault::Internal(format!(
                "there is no {program}; install it on the node (e2fsprogs, xfsprogs)"
            )),
            _ => Fault::internal(program, error),
        })?;
    let (done, waiting) = mpsc::channel();
    let name = program.to_owned();
    thread::spawn(move || {
        let outcome = ended(child, &name, good);
        if let Err(mpsc::SendError(outcome)) = done.send(outcome) {
            match outcome {
                Ok(()) => tracing::info!(program = name, "a program that was late is done"),
                Err(problem) => tracing::warn!(%problem, "a program that was late failed"),
            }
        }
    });
    let outcome = match limit {
        Some(limit) => waiting.recv_timeout(limit),
        None => waiting.recv().map_err(RecvTimeoutError::from),
    };
    match outcome {
        Ok(outcome) => outcome.map_err(Fault::Internal),
        Err(RecvTimeoutError::Timeout) => Err(Fault::Busy(format!(
            "{program} is still at work on the volume; ask again"
        ))),
        Err(RecvTimeoutError::Disconnected) => {
            Err(Fault::internal(program, "nobody knows how it ended"))
        }
    }
}

/// Waits for a program's end, and tells how that was.
fn ended(mut child: Child, program: &str, good: &[i32]) -> Result<(), String> {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut begin = stderr.take(MOST_SAID);
        // Not UTF-8 is as good as nothing said.
        let _read = begin.read_to_string(&mut said);
        // Who speaks to nobody is ended by that.
        let _rest = io::copy(&mut begin.into_inner(), &mut io::sink());
    }
    let status = child
        .wait()
        .map_err(|error| format!("{program}: {error}"))?;
    if status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let said = said.lines().last().unwrap_or_default().trim();
    Err(format!("{program}: {status}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_program_that_is_missing_or_fails_says_so() {
        assert_eq!(run("true", &[]), Ok(()));
        let failed = run("false", &[]).unwrap_err().to_string();
        assert!(failed.contains("exit status: 1"), "{failed}");
        let missing = run("mkfs.nothing", &[]).unwrap_err().to_string();
        assert!(missing.contains("install it"), "{missing}");
        let much = "head -c 300000 /dev/zero >&2";
        assert_eq!(run("sh", &["-c", much]), Ok(()));
    }

    #[test]
    fn a_program_that_is_late_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let words = ["-c", "sleep 0.3; touch \"$0\"", done.to_str().unwrap()];
        let late = run_within("sh", &words, &[0], Some(Duration::from_millis(10)));
        let late = late.unwrap_err();
        assert_eq!(late.code(), tonic::Code::Aborted, "{late}");
        assert!(!done.exists());
        let end = Instant::now() + Duration::from_secs(60);
        while !done.exists() {
            assert!(Instant::now() < end, "it was ended");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
