//! Which plugins are chained after ours. A plugin of the list that is missing, or doesn't speak the
//! list's version, makes every ADD of the node fail: so each is asked first.

use super::conflist::{Chained, OFFERED};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Chained when they are installed and nobody said what to chain: what host ports need.
const USUAL: [&str; 1] = ["portmap"];
/// Longest wait for a plugin to tell its versions.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
/// Longest answer that is read.
const MAX_BYTES: u64 = 64 << 10;

/// Device, inode, size, and time of change with nanoseconds: another one is another file.
type Identity = (u64, u64, u64, i64, i64);

/// The chain, and what was asked already.
#[derive(Default)]
pub(super) struct Chain {
    answers: BTreeMap<PathBuf, (Identity, Result<Vec<String>, String>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    supported_versions: Vec<String>,
}

impl Chain {
    /// The plugins to chain, in order, and what is wrong with the others. `wanted` is what the
    /// administrator named, if anything: of those each has to be there.
    ///
    /// # Errors
    /// A plugin that was named and can't be chained, with the remedy: pods would lack what it does.
    pub(super) fn choose(
        &mut self,
        folder: &Path,
        wanted: Option<&[String]>,
    ) -> Result<(Vec<Chained>, Vec<String>), String> {
        let usual = USUAL.map(str::to_owned);
        let (mut chain, mut problems): (Vec<Chained>, _) = (Vec::new(), Vec::new());
        for name in wanted.unwrap_or(&usual) {
            let path = folder.join(name);
            let Ok(metadata) = fs::metadata(&path) else {
                if wanted.is_some() {
                    return Err(format!(
                        "--cni-chain names {name}, and {} is not there: install it or take it out of --cni-chain",
                        path.display()
                    ));
                }
                continue;
            };
            let identity = (
                metadata.dev(),
                metadata.ino(),
                metadata.size(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            );
            let known = self.answers.get(&path).filter(|(of, _)| *of == identity);
            let answer = match known {
                Some((_, answer)) => answer.clone(),
                None => {
                    let answer = ask(&path);
                    // A failure may be of the moment: another installer still writes, the node starts.
                    if answer.is_ok() {
                        self.answers
                            .insert(path.clone(), (identity, answer.clone()));
                    }
                    answer
                }
            };
            match answer.and_then(|versions| common(&chain, versions)) {
                Ok(versions) => chain.push(Chained {
                    name: name.clone(),
                    versions,
                }),
                Err(fault) => {
                    let text = format!(
                        "{} can't be chained: {fault}; install containernetworking plugins 1.0 or newer",
                        path.display()
                    );
                    if wanted.is_some() {
                        return Err(text);
                    }
                    problems.push(text);
                }
            }
        }
        Ok((chain, problems))
    }
}

/// The versions that are offered and spoken, unless none of them is spoken by the whole chain.
fn common(chain: &[Chained], versions: Vec<String>) -> Result<Vec<String>, String> {
    let by_all = |version: &&str| {
        let spoken = |versions: &[String]| versions.iter().any(|v| v == version);
        spoken(&versions) && chain.iter().all(|plugin| spoken(&plugin.versions))
    };
    if OFFERED.iter().any(by_all) {
        return Ok(versions);
    }
    Err(format!(
        "it speaks {}, and none of {} with the rest of the chain",
        versions.join(", "),
        OFFERED.join(", ")
    ))
}

/// Asks a plugin by the command VERSION of the CNI specification.
fn ask(plugin: &Path) -> Result<Vec<String>, String> {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("it can't be executed: {e}"))?;
    let answer = answer(&mut child).map_err(|e| format!("it gives no answer to VERSION: {e}"));
    // With what it started. It has ended already, unless it was too late; its number is its own until it
    // is waited for.
    let _gone = kill_process_group(Pid::from_child(&child), Signal::KILL);
    drop(child.wait());
    let versions: Versions = serde_json::from_slice(&answer?)
        .map_err(|e| format!("its answer to VERSION is none: {e}"))?;
    Ok(versions.supported_versions)
}

/// What it wrote until it ended. Bounded in time by [`PATIENCE`], in size by what a pipe holds: one that
/// writes more waits for a reader, and is late.
fn answer(child: &mut Child) -> io::Result<Vec<u8>> {
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(br#"{"cniVersion":"1.0.0"}"#) {
            // It needs no input to answer.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&PATIENCE))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut bytes = Vec::new();
    if let Some(output) = child.stdout.take() {
        // What it left running may hold the pipe open: its end is not waited for.
        fcntl_setfl(&output, OFlags::NONBLOCK)?;
        match output.take(MAX_BYTES).read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => drop(read?),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(folder: &Path, name: &str, answer: &str) {
        // By another process: a program that this one has open for writing, also by a fork of another
        // test's, can't be executed.
        let script = format!("#!/bin/sh\necho '{answer}'\n");
        let write = r#"printf %s "$0" > "$1" && chmod 755 "$1""#;
        let made = Command::new("sh")
            .args(["-c", write, &script])
            .arg(folder.join(name))
            .status()
            .unwrap();
        assert!(made.success());
    }

    fn names(chain: &[Chained]) -> Vec<&str> {
        chain.iter().map(|plugin| plugin.name.as_str()).collect()
    }

    const MODERN: &str = r#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}"#;
    const OLD: &str = r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}"#;

    #[test]
    fn without_a_word_portmap_is_chained_where_it_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        let mut chain = Chain::default();
        assert_eq!(chain.choose(dir.path(), None), Ok((vec![], vec![])));
        plugin(dir.path(), "portmap", MODERN);
        let (chosen, problems) = chain.choose(dir.path(), None).unwrap();
        assert_eq!((names(&chosen), problems), (vec!["portmap"], vec![]));
        // Replaced by one that would make every ADD fail.
        fs::remove_file(dir.path().join("portmap")).unwrap();
        plugin(dir.path(), "portmap", OLD);
        let (chosen, problems) = chain.choose(dir.path(), None).unwrap();
        assert_eq!(names(&chosen), [""; 0]);
        assert!(problems[0].contains("0.4.0"), "{problems:?}");
    }

    #[test]
    fn a_plugin_that_leaves_a_program_behind_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        plugin(
            dir.path(),
            "portmap",
            &format!("{MODERN}'; sleep 600 & echo '"),
        );
        let (chosen, problems) = Chain::default().choose(dir.path(), None).unwrap();
        assert_eq!((names(&chosen), problems), (vec!["portmap"], vec![]));
    }

    #[test]
    fn a_plugin_that_was_asked_for_has_to_be_there_and_to_answer() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = ["tuning".to_owned()];
        let mut chain = Chain::default();
        let missing = chain.choose(dir.path(), Some(&wanted)).unwrap_err();
        assert!(missing.contains("--cni-chain"), "{missing}");
        plugin(dir.path(), "tuning", "no JSON");
        let silent = chain.choose(dir.path(), Some(&wanted)).unwrap_err();
        assert!(silent.contains("VERSION"), "{silent}");
        assert_eq!(chain.choose(dir.path(), Some(&[])), Ok((vec![], vec![])));
    }
}
