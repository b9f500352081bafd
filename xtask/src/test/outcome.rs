//! What a `cargo test` did, read from what it prints.

use anyhow::{Context, Result};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Counts of a ring, and why it failed if it did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
    /// Of the ignored: what a test of the ring `guest` runs in a guest.
    pub(super) elsewhere: u64,
    pub(super) failure: Option<String>,
}

impl Outcome {
    /// Of something that succeeds or not.
    pub(super) fn of(done: Result<()>) -> Self {
        match done {
            Ok(()) => Self::default(),
            Err(error) => Self::failed(format!("{error:#}")),
        }
    }

    /// A failure without tests.
    pub(super) fn failed(why: String) -> Self {
        Self {
            failure: Some(why),
            ..Self::default()
        }
    }

    /// Adds the outcome of a further command; the first failure is kept.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.elsewhere += other.elsewhere;
        self.failure = self.failure.take().or(other.failure);
    }

    /// Adds the summary line of one test binary, and counts tests for guests; other lines say nothing.
    fn read(&mut self, line: &str) {
        let is_elsewhere = line.starts_with("test ") && line.contains("::elsewhere::");
        if is_elsewhere && line.contains(" ... ignored") {
            self.elsewhere += 1;
        }
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        let words: Vec<_> = counts.split([' ', ';', '.']).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Runs the tests, shows what they print, and counts.
pub(super) fn of_tests(command: &mut Command) -> Outcome {
    follow(command).unwrap_or_else(|error| Outcome::failed(format!("could not run: {error:#}")))
}

fn follow(command: &mut Command) -> Result<Outcome> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo")?;
    let output = child.stdout.take().context("no pipe from cargo")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(output).split(b'\n') {
        // A test may print anything, not only UTF-8.
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        outcome.read(&line);
    }
    let status = child.wait()?;
    if outcome.failed > 0 {
        outcome.failure = Some(format!("{} tests failed", outcome.failed));
    } else if !status.success() {
        outcome.failure = Some(format!("cargo test ended with {status}"));
    } else if outcome.passed == 0 {
        outcome.failure = Some("0 tests ran".to_owned());
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome_of(script: &str) -> Outcome {
        of_tests(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn counts_of_all_binaries_are_added() {
        let outcome = outcome_of(
            "echo 'running 3 tests'; \
             echo 'test csi::elsewhere::a_quota_holds ... ignored, needs another kernel'; \
             echo 'test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s'; \
             echo 'test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s'",
        );
        assert_eq!(
            outcome,
            Outcome {
                passed: 7,
                failed: 0,
                ignored: 1,
                elsewhere: 1,
                failure: None
            }
        );
    }

    #[test]
    fn a_ring_without_tests_has_failed() {
        let outcome = outcome_of(
            "echo 'test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s'",
        );
        assert_eq!(outcome.failure.as_deref(), Some("0 tests ran"));
    }

    #[test]
    fn a_compile_error_and_a_failed_test_are_failures() {
        assert!(outcome_of("exit 101").failure.is_some());
        let outcome = outcome_of(
            "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s'; exit 101",
        );
        assert_eq!(outcome.failure.as_deref(), Some("2 tests failed"));
    }

    #[test]
    fn an_earlier_failure_is_not_forgotten() {
        let mut sum = outcome_of("exit 101");
        sum.add(Outcome {
            passed: 1,
            ..Outcome::default()
        });
        assert!(sum.failure.is_some());
        assert_eq!(sum.passed, 1);
    }
}
