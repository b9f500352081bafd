//! Runs a program that the configuration names: to its end or its deadline, at which it is ended with all that it
//! started. Its environment is empty, so that nothing of the agent's leaks.

use crate::device::plan::Program;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process_group, pidfd_open,
        set_child_subreaper, waitpgid,
    },
};
use std::{
    collections::BTreeMap,
    io::{self, PipeReader, Read as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedMutexGuard, oneshot};

/// Where shells look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is kept of a program's last words.
const MOST_SAID: usize = 4096;

/// Runs it on a thread of its own: one that the kernel holds keeps nothing else waiting.
///
/// # Errors
/// As [`run`].
pub async fn run_apart(program: Program, values: BTreeMap<String, String>) -> Result<(), String> {
    apart(program, values, None).await
}

async fn apart(
    program: Program,
    values: BTreeMap<String, String>,
    turn: Option<OwnedMutexGuard<()>>,
) -> Result<(), String> {
    let (done, waiting) = oneshot::channel();
    let thread = thread::Builder::new().name("device-program".into());
    let started = thread.spawn(move || {
        let ended = run(&program, &values);
        drop(turn);
        // Who waited may have given up.
        drop(done.send(ended));
    });
    started.map_err(|error| format!("no thread can be started for the program: {error}"))?;
    let ended = waiting.await;
    ended.unwrap_or_else(|_| Err("the program's thread ended badly".to_owned()))
}

/// Runs programs for devices: for each device one at a time, however long the kernel holds it.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<BTreeMap<String, Turn>>>);

type Turn = Arc<tokio::sync::Mutex<()>>;

impl Turns {
    /// Runs it when it is the device's turn.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run(
        &self,
        key: &str,
        program: Program,
        values: BTreeMap<String, String>,
    ) -> Result<(), String> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Who waits or runs has one too.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(key.to_owned()).or_default().clone()
        };
        let turn = turn.lock_owned().await;
        apart(program, values, Some(turn)).await
    }
}

/// Runs it with the values of a device filled in. Blocks until its deadline at most, unless the kernel holds a program
/// that was ended.
///
/// # Errors
/// It can't be run, fails, or is late: worded for people, with the last line that it wrote.
pub fn run(program: &Program, values: &BTreeMap<String, String>) -> Result<(), String> {
    let name = program.path.display();
    let arguments: Result<Vec<String>, String> = program
        .arguments
        .iter()
        .map(|argument| argument.fill(values))
        .collect();
    let arguments = arguments.map_err(|field| {
        format!("{name} can't be run: the device has no {field} for its arguments")
    })?;
    let failed = |error: io::Error| format!("{name} can't be run: {error}");
    // What it started is ours when it has ended, also where the agent is not the first process of its container.
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::debug!(%error, "what a program leaves behind is another's to wait for");
    }
    let (output, input) = io::pipe().map_err(failed)?;
    let errors = input.try_clone().map_err(failed)?;
    // The command holds the pipe's other end, and is gone with this statement.
    let mut child = Command::new(&program.path)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(input)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut said = Vec::new();
    let outcome = until_end(&child, output, program.deadline, &mut said);
    // With what it started. Its number is its own until it is waited for.
    let group = Pid::from_child(&child);
    let _gone = kill_process_group(group, Signal::KILL);
    let status = child.wait().map_err(failed)?;
    reap(group);
    match outcome.map_err(failed)? {
        true if status.success() => Ok(()),
        true => Err(format!("{name}: {status}{}", last_line(&said))),
        false => Err(format!(
            "{name} was ended, for it was not done after {:?}{}",
            program.deadline,
            last_line(&said)
        )),
    }
}

/// Waits for all of a group that was ended: nobody else does. Other children's ends are left to who waits for them.
fn reap(group: Pid) {
    loop {
        match waitpgid(group, WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // None is left.
            Err(_) => return,
        }
    }
}

/// Reads what a program says until it ends. False: its deadline came first.
fn until_end(
    child: &Child,
    mut output: PipeReader,
    deadline: Duration,
    said: &mut Vec<u8>,
) -> io::Result<bool> {
    let end = Instant::now() + deadline;
    let pidfd: OwnedFd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    fcntl_setfl(&output, OFlags::NONBLOCK)?;
    let mut is_open = true;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut ready = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if is_open {
            ready.push(PollFd::new(&output, PollFlags::IN));
        }
        match poll(&mut ready, Some(&left)) {
            Ok(0) => return Ok(false),
            Err(rustix::io::Errno::INTR) => continue,
            polled => drop(polled?),
        }
        let is_done = !ready[0].revents().is_empty();
        // What it left running may write on: of that only what is there already is read.
        if is_open {
            is_open = read(&mut output, said)?;
        }
        if is_done {
            return Ok(true);
        }
    }
}

/// Reads some of what is there, and keeps the end. False: there will be no more.
fn read(output: &mut PipeReader, said: &mut Vec<u8>) -> io::Result<bool> {
    // As much as a pipe holds: who writes faster than that can't keep its reader.
    for _ in 0..16 {
        let mut piece = [0; MOST_SAID];
        match output.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(length) => {
                said.extend_from_slice(&piece[..length]);
                let excess = said.len().saturating_sub(MOST_SAID);
                said.drain(..excess);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The last line that says something, behind a colon.
fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    let line: String = line
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(256)
        .collect();
    match line.is_empty() {
        true => String::new(),
        false => format!(": {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::template::Template;

    fn shell(script: &str, deadline: Duration) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: [
                "-c",
                &script.replace('{', "{{").replace('}', "}}"),
                "{serial}",
            ]
            .map(|text| Template::parse(text).unwrap())
            .into(),
            deadline,
        }
    }

    fn run_shell(script: &str, deadline: Duration) -> Result<(), String> {
        let values = [("serial".to_owned(), "A1".to_owned())].into();
        run(&shell(script, deadline), &values)
    }

    /// Longer than any of these programs runs.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_gets_the_devices_values_and_nothing_of_the_agents() {
        assert_eq!(
            run_shell(r#"test "$0" = A1 && test -z "$HOME""#, LONG),
            Ok(())
        );
        let missing = run(&shell("true", LONG), &BTreeMap::new()).unwrap_err();
        assert!(missing.contains("no serial"), "{missing}");
    }

    #[test]
    fn why_it_failed_is_its_last_line() {
        let script = "head -c 300000 /dev/zero; echo; echo first; echo 'no link' >&2; echo; exit 3";
        let failed = run_shell(script, LONG).unwrap_err();
        assert!(failed.ends_with("exit status: 3: no link"), "{failed}");
        let absent = Program {
            path: "/nothing/there".into(),
            arguments: Vec::new(),
            deadline: LONG,
        };
        let problem = run(&absent, &BTreeMap::new()).unwrap_err();
        assert!(problem.contains("can't be run"), "{problem}");
    }

    #[test]
    fn at_its_deadline_it_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        // The fifo has a writer as long as one of the two programs lives.
        let script = format!("exec 3<>{}; sleep 1000 & echo waits; wait", fifo.display());
        let start = Instant::now();
        let late = run_shell(&script, Duration::from_millis(300)).unwrap_err();
        assert!(
            late.contains("was ended") && late.ends_with(": waits"),
            "{late}"
        );
        assert!(start.elapsed() < LONG);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let end = Instant::now() + LONG;
        // Without a reader a fifo can't be opened to write.
        while rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).is_ok() {
            assert!(Instant::now() < end, "somebody lives");
            std::thread::yield_now();
        }
    }

    /// What there is of a process group, also of those that have ended and that nobody waited for.
    fn members(group: &str) -> Vec<String> {
        let mut members = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap() {
            let stat = std::fs::read_to_string(entry.unwrap().path().join("stat"));
            let stat = stat.unwrap_or_default();
            let Some((_, rest)) = stat.rsplit_once(')') else {
                continue;
            };
            if rest.split_whitespace().nth(2) == Some(group) {
                members.push(stat);
            }
        }
        members
    }

    #[test]
    fn nothing_is_left_of_what_it_started_not_even_ended_processes() {
        let folder = tempfile::tempdir().unwrap();
        let number = folder.path().join("number");
        for deadline in [Duration::from_millis(300), LONG] {
            let rest = match deadline {
                LONG => "sleep 1000 | cat & exit 1",
                _ => "sleep 1000 | cat",
            };
            let script = format!("echo $$ > {}; {rest}", number.display());
            assert!(run_shell(&script, deadline).is_err());
            let group = std::fs::read_to_string(&number).unwrap();
            assert_eq!(members(group.trim()), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn a_device_has_one_program_at_a_time_and_others_have_theirs_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        // Whoever meets another of the same device fails; each of the two devices waits for the other one's.
        let script = format!(
            "mkdir {place}/$0 || exit 1; : > {place}/$0.was; \
             until test -e {place}/A1.was && test -e {place}/A2.was; do sleep 0.01; done; rmdir {place}/$0"
        );
        let turns = Turns::default();
        let run = |serial: &str| {
            let values = [("serial".to_owned(), serial.to_owned())].into();
            let (turns, serial) = (turns.clone(), serial.to_owned());
            let program = shell(&script, LONG);
            async move { turns.run(&serial, program, values).await }
        };
        let all = tokio::join!(run("A1"), run("A2"), run("A1"), run("A2"));
        assert_eq!(all, (Ok(()), Ok(()), Ok(()), Ok(())));
        assert!(turns.0.lock().unwrap().len() <= 2);
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let start = Instant::now();
        assert_eq!(run_shell("sleep 1000 & exit 0", LONG), Ok(()));
        assert!(start.elapsed() < LONG);
    }
}
