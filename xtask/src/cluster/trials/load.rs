//! Pings from one node to the other and requests by a Service, which go on beside a trial.

use super::{
    super::{place::Cluster, pods},
    SPACE, agents,
};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::Read,
    process::{Child, Command, Stdio},
};

/// Does the work under load and tells what the load saw.
///
/// # Errors
/// Those of the work, and the first packet or request that was lost.
pub(super) fn under(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<String> {
    let load = Load::start(cluster)?;
    let done = work();
    let seen = load.stop();
    // What failed comes before what was lost by it.
    done?;
    seen
}

/// Traffic of the pod `client` that goes on beside a trial.
struct Load {
    pings: Pings,
    requests: Requests,
}

/// Pings one after the other.
pub(super) struct Pings(Child);

impl Pings {
    /// `ping` is the program somewhere; `interval` in seconds.
    ///
    /// # Errors
    /// When it can't be started.
    pub(super) fn start(mut ping: Command, to: &str, interval: &str) -> Result<Self> {
        ping.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(ping.args(["-q", "-i", interval, to]).spawn()?))
    }

    /// Ends it and tells how many were sent and how many came back.
    ///
    /// # Errors
    /// When it can't be ended, or says nothing.
    pub(super) fn stop(self) -> Result<(u64, u64)> {
        let text = end(self.0, Signal::INT)?;
        let line = text
            .lines()
            .find(|line| line.contains("packets transmitted"));
        let words = line.unwrap_or_default().split(' ');
        let counts: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        // After them, as `+3 errors` or not at all, what came back instead.
        let [sent, received, ..] = counts[..] else {
            anyhow::bail!("ping said {text:?}");
        };
        Ok((sent, received))
    }
}

/// What came of requests.
pub(super) struct Outcomes {
    pub(super) answered: usize,
    /// curl's exit code and when, of each that failed.
    pub(super) failures: Vec<String>,
}

/// Requests one after the other, each on a connection of its own.
pub(super) struct Requests(Child);

impl Requests {
    /// `shell` is `sh` somewhere.
    ///
    /// # Errors
    /// When it can't be started.
    pub(super) fn start(shell: &mut Command, at: &str) -> Result<Self> {
        // A dot for each that was answered, curl's exit code with the time for the others.
        let script = format!(
            "trap 'exit 0' TERM; while :; do curl -fs -m 5 -o /dev/null http://{at}/hostname && printf . || \
             printf 'F%s@%s;' $? $(date +%T); done"
        );
        shell.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(shell.args(["-c", &script]).spawn()?))
    }

    /// Ends them and tells what came of each.
    ///
    /// # Errors
    /// When the shell can't be ended.
    pub(super) fn stop(self) -> Result<Outcomes> {
        // A shell can't catch SIGINT where it was ignored from the beginning, as in the background of a script.
        let text = end(self.0, Signal::TERM)?;
        let failures = text.split('F').skip(1);
        let failures = failures.map(|rest| rest.split(';').next().unwrap_or_default().to_owned());
        Ok(Outcomes {
            answered: text.matches('.').count(),
            failures: failures.collect(),
        })
    }
}

impl Load {
    fn start(cluster: &Cluster) -> Result<Self> {
        let far = pods::address(cluster, SPACE, "far")?;
        let service = pods::cluster_ip(cluster, SPACE, "far")?;
        let sandbox = agents::endpoint(cluster, "n1", SPACE, "client")?.sandbox;
        let inside = |program: &str| -> Result<Command> {
            // Not by `kubectl exec`, which goes through the API server.
            let mut command = cluster.in_node("n1", "nsenter")?;
            command.args([&format!("--net={sandbox}"), program]);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            Ok(command)
        };
        let pings = Pings::start(inside("ping")?, &far, "0.002")?;
        let requests = Requests::start(&mut inside("sh")?, &service)?;
        Ok(Self { pings, requests })
    }

    /// Ends it and tells what was seen.
    ///
    /// # Errors
    /// What was lost.
    fn stop(self) -> Result<String> {
        let (sent, received) = self.pings.stop()?;
        let Outcomes { answered, failures } = self.requests.stop()?;
        let (failed, done) = (failures.len(), answered + failures.len());
        ensure!(sent > 1000 && done > 100, "{sent} pings, {done} requests");
        // The last one may be under way when ping is ended.
        ensure!(
            received + 1 >= sent,
            "{} of {sent} pings lost",
            sent - received
        );
        ensure!(failed == 0, "{failed} of {done} requests failed");
        Ok(format!("{sent} pings and {done} requests, none lost"))
    }
}

/// Sends a program a signal and returns what it wrote.
fn end(mut child: Child, signal: Signal) -> Result<String> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a child's pid")?;
    // nsenter starts it as its child when it changes the pid namespace, and hands nothing on.
    let of = |what: &str| std::fs::read_to_string(format!("/proc/{0}/{what}", child.id()));
    if of("comm")?.trim() == "nsenter" {
        for inner in of(&format!("task/{}/children", child.id()))?.split_whitespace() {
            if let Some(inner) = Pid::from_raw(inner.parse()?) {
                kill_process(inner, signal)?;
            }
        }
    } else {
        kill_process(pid, signal)?;
    }
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    child.wait()?;
    Ok(text)
}
