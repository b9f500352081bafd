//! What pods must not notice: an update of the agents, agents that are killed, an API server that is away.
//! Pings from one node to the other and requests by a Service go on all the time; none may be lost.

use super::{
    place::{Cluster, until},
    smoke,
};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::Read,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Everything of it is in this namespace of Kubernetes.
const SPACE: &str = "fairlead-trials";
/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(60);

/// Runs every trial, prints each, and removes what it made.
///
/// # Errors
/// The first packet or request that was lost, or an agent that does not come back.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    smoke::remove(cluster, SPACE)?;
    smoke::start_pods(cluster, SPACE, &["client", "far"])?;
    let load = || Load::start(cluster);
    let pings = trial(load()?, || {
        rollout(cluster)?;
        rollout(cluster)
    })
    .context("a rolling update")?;
    println!("ok      two rolling updates of the agents under load: {pings}");
    let pings = trial(load()?, || away(cluster)).context("the API server away")?;
    println!(
        "ok      {} s without the API server, agents killed meanwhile: {pings}",
        AWAY.as_secs()
    );
    smoke::remove(cluster, SPACE)
}

fn trial(load: Load, work: impl FnOnce() -> Result<()>) -> Result<String> {
    let done = work();
    let seen = load.stop()?;
    done?;
    Ok(seen)
}

fn rollout(cluster: &Cluster) -> Result<()> {
    let daemon_set = |words: &[&str]| {
        let place = ["-n", "kube-system", "rollout"];
        cluster.ask(&[&place[..], words, &["daemonset/fairlead"]].concat())
    };
    daemon_set(&["restart"])?;
    daemon_set(&["status", "--timeout=120s"]).map(|_| ())
}

/// Stops the API server, kills the agents, and lets it go on once the kubelets have started new ones.
fn away(cluster: &Cluster) -> Result<()> {
    let server = cluster.pid_of("kube-apiserver")?;
    let server = Pid::from_raw(server).context("the API server's pid")?;
    let before = agents(cluster)?;
    kill_process(server, Signal::STOP)?;
    let all = (|| {
        for node in ["n1", "n2"] {
            let kill = "kill -9 $(busybox pidof fairlead)";
            let mut shell = cluster.in_node(node, "sh")?;
            crate::workspace::run(shell.args(["-c", kill]))?;
        }
        thread::sleep(AWAY);
        agents(cluster)
    })();
    kill_process(server, Signal::CONT)?;
    let after = all?;
    ensure!(
        after.iter().all(|agent| !before.contains(agent)),
        "agents {before:?} were killed and {after:?} run"
    );
    until(LIMIT, "the agents are ready again", || {
        let words = "-n kube-system get daemonset fairlead -o jsonpath={.status.numberReady}";
        let words: Vec<_> = words.split(' ').collect();
        Ok(cluster.ask(&words).ok().filter(|ready| ready == "2"))
    })
    .map(|_| ())
}

/// The agents' pids, in their nodes, as text.
fn agents(cluster: &Cluster) -> Result<Vec<String>> {
    ["n1", "n2"]
        .into_iter()
        .map(|node| {
            let mut pidof = cluster.in_node(node, "busybox")?;
            let pid = crate::workspace::output(pidof.args(["pidof", "fairlead"]))
                .with_context(|| format!("no agent on {node}"))?;
            Ok(format!("{node}: {}", pid.trim()))
        })
        .collect()
}

/// Traffic of the pod `client` that goes on beside a trial.
struct Load {
    pings: Child,
    requests: Child,
}

impl Load {
    fn start(cluster: &Cluster) -> Result<Self> {
        let far = smoke::address(cluster, SPACE, "far")?;
        let service = smoke::service(cluster, SPACE, "far")?;
        let sandbox = sandbox(cluster)?;
        let inside = |program: &str| -> Result<Command> {
            // Not by `kubectl exec`, which goes through the API server.
            let mut command = cluster.in_node("n1", "nsenter")?;
            command.args([&format!("--net={sandbox}"), program]);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            Ok(command)
        };
        let pings = inside("ping")?.args(["-q", "-i", "0.002", &far]).spawn()?;
        // Each on a connection of its own; a letter for each outcome.
        let url = format!("http://{service}/hostname");
        let script = format!(
            "trap 'exit 0' INT; while :; do curl -fsS -m 5 -o /dev/null {url} && printf . || printf F; done"
        );
        let requests = inside("sh")?.args(["-c", &script]).spawn()?;
        Ok(Self { pings, requests })
    }

    /// Ends it and tells what was seen.
    ///
    /// # Errors
    /// What was lost.
    fn stop(self) -> Result<String> {
        let pings = end(self.pings)?;
        let counts: Vec<u64> = pings
            .lines()
            .find(|line| line.contains("packets transmitted"))
            .with_context(|| format!("ping said {pings:?}"))?
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        let [sent, received] = counts[..] else {
            anyhow::bail!("ping said {pings:?}");
        };
        let outcomes = end(self.requests)?;
        let failed = outcomes.matches('F').count();
        let done = outcomes.len();
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

/// Interrupts a program and returns what it wrote.
fn end(mut child: Child) -> Result<String> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a child's pid")?;
    // nsenter starts it as its child when it changes the pid namespace, and hands nothing on.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
    for inner in children.split_whitespace() {
        if let Some(inner) = Pid::from_raw(inner.parse()?) {
            kill_process(inner, Signal::INT)?;
        }
    }
    if children.trim().is_empty() {
        kill_process(pid, Signal::INT)?;
    }
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    child.wait()?;
    Ok(text)
}

/// Path of the client's network namespace, on its node.
fn sandbox(cluster: &Cluster) -> Result<String> {
    let words = "-n kube-system get pods -l app.kubernetes.io/name=fairlead --field-selector spec.nodeName=n1 -o jsonpath={.items[0].metadata.name}";
    let agent = cluster.ask(&words.split(' ').collect::<Vec<_>>())?;
    let words = ["-n", "kube-system", "exec", &agent, "--"];
    let list = ["fairlead", "endpoint", "list", "-o", "json"];
    let text = cluster.ask(&[&words[..], &list].concat())?;
    let rows: serde_json::Value = serde_json::from_str(&text)?;
    let rows = rows.as_array().context("no list of endpoints")?;
    let ours = rows.iter().find(|row| {
        let text = row.to_string();
        text.contains(SPACE) && text.contains("client")
    });
    let path = ours.and_then(|row| row["sandbox"].as_str());
    Ok(path
        .with_context(|| format!("the client is not among {text}"))?
        .to_owned())
}
