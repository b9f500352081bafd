//! Ring 1: exit codes of `fairlead health`, which is what a kubelet sees of its probes: 0 as it should be,
//! 1 not, 2 nobody answers.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

use cni_agent::{
    cni::{CniError, caller::Caller, protocol::CniCall},
    parts::Shutdown,
    query::Query,
    server::{self, Handler},
};
use serde_json::{Value, json};
use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

/// An agent that lives or not and is ready or not.
struct Agent {
    dead: &'static [&'static str],
    unready: &'static [&'static str],
}

impl Handler for Agent {
    async fn cni(
        self: Arc<Self>,
        _: CniCall,
        _: Option<OwnedFd>,
        _: Caller,
    ) -> Result<Value, CniError> {
        unreachable!("a probe asks no CNI command")
    }

    async fn query(self: Arc<Self>, query: Query) -> Result<Value, CniError> {
        Ok(match query {
            Query::Dead => json!(self.dead),
            Query::Unready => json!(self.unready),
            other => panic!("a probe does not ask {other:?}"),
        })
    }
}

/// `fairlead health` at a socket.
fn probe(socket: &Path, what: &str) -> Output {
    let mut fairlead = Command::new(env!("CARGO_BIN_EXE_fairlead"));
    fairlead.args(["health", what, "--socket"]).arg(socket);
    fairlead.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_end_by_what_the_agent_says() {
    const WHY: &[&str] = &["no Node object named \"n1\": register the node"];
    for (dead, unready, live_code, ready_code) in
        [(&[][..], &[][..], 0, 0), (&[], WHY, 0, 1), (WHY, WHY, 1, 1)]
    {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let (stop, shutdown) = Shutdown::new();
        let agent = Arc::new(Agent { dead, unready });
        let listener = server::listen(&socket).unwrap();
        let serving = tokio::spawn(server::serve(listener, agent, shutdown));
        let asked = socket.clone();
        let [live, ready] = tokio::task::spawn_blocking(move || {
            ["--live", "--ready"].map(|what| probe(&asked, what))
        })
        .await
        .unwrap();
        assert_eq!((code(&live), code(&ready)), (live_code, ready_code));
        for (output, code) in [(live, live_code), (ready, ready_code)] {
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.contains(WHY[0]), code == 1, "{said:?}");
        }
        stop.send_replace(true);
        serving.await.unwrap();
    }
}

#[test]
fn a_probe_of_no_agent_says_so_and_ends_with_another_code() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("agent.sock");
    let dead = folder.path().join("dead.sock");
    // What a killed agent leaves: a socket on which nobody listens.
    drop(UnixListener::bind(&dead).unwrap());
    for socket in [nowhere, dead] {
        for what in ["--live", "--ready"] {
            let output = probe(&socket, what);
            assert_eq!(code(&output), 2, "{}", socket.display());
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("agent"), "{said:?}");
        }
    }
}
