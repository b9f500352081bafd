//! Programs that make and grow file systems: as words, never through a shell, and not for ever.

use std::{
    io::{self, Read as _},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Making a file system writes some megabytes; a disk that takes longer has stopped.
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
/// It is not there, it fails, or it doesn't end; worded for people.
pub(super) fn run(program: &str, words: &[&str]) -> Result<(), String> {
    run_with(program, words, &[0])
}

/// The same of a program that ends well with any of these codes.
pub(super) fn run_with(program: &str, words: &[&str], good: &[i32]) -> Result<(), String> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("there is no {program}; install it on the node (e2fsprogs, xfsprogs)")
            }
            _ => format!("{program}: {error}"),
        })?;
    let said = child.stderr.take();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        if let Some(said) = said {
            // Not UTF-8 is as good as nothing said.
            let _read = said.take(MOST_SAID).read_to_string(&mut text);
        }
        text
    });
    let end = Instant::now() + LIMIT;
    let status = loop {
        match child
            .try_wait()
            .map_err(|error| format!("{program}: {error}"))?
        {
            Some(status) => break status,
            None if Instant::now() >= end => {
                // It may be stuck in the kernel: then it stays, and this call doesn't.
                let _ended_or_stuck = child.kill();
                return Err(format!(
                    "{program} has not ended within {} s",
                    LIMIT.as_secs()
                ));
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    if status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let said = reader.join().unwrap_or_default();
    let said = said.lines().last().unwrap_or_default().trim().to_owned();
    Err(format!("{program}: {status}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_or_fails_says_so() {
        assert_eq!(run("true", &[]), Ok(()));
        assert!(run("false", &[]).unwrap_err().contains("exit status: 1"));
        let missing = run("mkfs.nothing", &[]).unwrap_err();
        assert!(missing.contains("install it"), "{missing}");
    }
}
