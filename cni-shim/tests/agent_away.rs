//! What the plugin does when no agent answers: nothing hangs, nothing leaks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use fake::{Runtime, answer, frame};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// printf 'c1\0eth0' | sha256sum
const FILE: &str = "ec43057c07aaa51f882664a65fed7b1844e3af9fae71c9a7bcb41f33491c2342.json";

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn is_spooled(runtime: &Runtime) -> Value {
    assert_eq!(files(&runtime.spool()), [FILE]);
    serde_json::from_slice(&fs::read(runtime.spool().join(FILE)).unwrap()).unwrap()
}

#[test]
fn without_an_agent_the_runtime_is_told_to_try_again() {
    for (command, code) in [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let runtime = Runtime::new();
        let said = runtime.run(command, "1.1.0").fault(code);
        assert!(
            said.contains("fairlead agent") && said.contains("fairlead status"),
            "{said}"
        );
        assert!(said.contains(runtime.socket().to_str().unwrap()), "{said}");
        assert!(!runtime.spool().exists());
    }
}

#[test]
fn del_without_an_agent_is_kept_for_root_alone() {
    let runtime = Runtime::new();
    let before = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let outcome = runtime.run("DEL", "0.4.0");
    outcome.silent();
    assert!(outcome.stderr.contains(FILE), "{}", outcome.stderr);
    let deletion = is_spooled(&runtime);
    let at = deletion["at"].as_u64().unwrap();
    assert!((before..before + 60).contains(&at), "{at}");
    let expected =
        json!({"version": 1, "containerId": "c1", "ifname": "eth0", "network": "pods", "at": at});
    assert_eq!(deletion, expected);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&runtime.spool()), 0o700);
    assert_eq!(mode(&runtime.spool().join(FILE)), 0o600);

    runtime.run("DEL", "0.4.0").silent();
    is_spooled(&runtime);
}

#[test]
fn a_dead_agents_socket_is_as_good_as_none() {
    let runtime = Runtime::new();
    drop(UnixListener::bind(runtime.socket()).unwrap());
    runtime.run("ADD", "1.1.0").fault(11);
    runtime.run("DEL", "1.1.0").silent();
    is_spooled(&runtime);
}

#[test]
fn an_agent_that_hangs_holds_nobody_longer_than_the_deadline() {
    for (command, code) in [("ADD", Some(11)), ("STATUS", Some(50)), ("DEL", None)] {
        let runtime = Runtime::new();
        // Connections are taken by the kernel, requests by nobody.
        let _listener = UnixListener::bind(runtime.socket()).unwrap();
        let start = Instant::now();
        let outcome = runtime.run(command, "1.1.0");
        let took = start.elapsed();
        assert!((0.9..3.0).contains(&took.as_secs_f64()), "{took:?}");
        match code {
            Some(code) => assert!(outcome.fault(code).contains("in time")),
            None => {
                outcome.silent();
                is_spooled(&runtime);
            }
        }
    }
}

#[test]
fn a_full_queue_and_a_request_that_nobody_reads_end_at_the_deadline_too() {
    let runtime = Runtime::new();
    let listener = UnixListener::bind(runtime.socket()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(runtime.socket()).unwrap();
    let start = Instant::now();
    runtime.run("ADD", "1.1.0").fault(11);
    assert!(start.elapsed() < Duration::from_secs(3));
    drop((listener, _first));

    fs::remove_file(runtime.socket()).unwrap();
    let _listener = UnixListener::bind(runtime.socket()).unwrap();
    let mut conf = runtime.conf("1.1.0");
    conf["x"] = Value::String("y".repeat(1_000_000));
    let start = Instant::now();
    runtime.call("ADD", conf.to_string().as_bytes()).fault(11);
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn an_agent_that_dies_or_talks_nonsense_during_del_leaves_a_spooled_deletion() {
    let half = frame(1, r#"{"result":null}"#)[..12].to_vec();
    let starting = answer(&json!({"error": {"code": 11, "msg": "the agent is ending"}}));
    for reply in [
        Vec::new(),
        half,
        b"nonsense".to_vec(),
        frame(7, "{}"),
        starting,
    ] {
        let runtime = Runtime::new();
        let _agent = runtime.agent(reply);
        runtime.run("DEL", "1.1.0").silent();
        is_spooled(&runtime);
    }
}

#[test]
fn a_deletion_that_the_agent_refuses_is_not_spooled() {
    let runtime = Runtime::new();
    let _agent = runtime.agent(answer(&json!({"error": {"code": 101, "msg": "netlink"}})));
    runtime.run("DEL", "1.1.0").fault(101);
    assert!(!runtime.spool().exists());
}

#[test]
fn a_spool_that_others_could_write_to_is_not_used() {
    let runtime = Runtime::new();
    let folder = runtime.spool();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
    let said = runtime.run("DEL", "1.1.0").fault(5);
    assert!(said.contains("root alone"), "{said}");
    assert_eq!(files(&folder), [""; 0]);

    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    runtime.run("DEL", "1.1.0").fault(5);
    fs::remove_file(&folder).unwrap();
    std::os::unix::fs::symlink("/tmp", &folder).unwrap();
    runtime.run("DEL", "1.1.0").fault(5);
}

#[test]
fn a_state_folder_that_is_not_there_is_not_made_up() {
    let runtime = Runtime::new();
    let state = runtime.spool().parent().unwrap().to_owned();
    fs::remove_dir(&state).unwrap();
    let said = runtime.run("DEL", "1.1.0").fault(5);
    let spool = runtime.spool();
    for part in [
        spool.to_str().unwrap(),
        &format!("there is no {}", state.display()),
        "--state-dir",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!state.exists());
}

#[test]
fn closed_input_and_errors_keep_no_answer_back() {
    let runtime = Runtime::new();
    let call = |command: &str, redirections: &str| {
        std::process::Command::new("sh")
            .args(["-c", &format!("exec \"$0\" {redirections}")])
            .arg(env!("CARGO_BIN_EXE_fairlead-cni"))
            .env_clear()
            .envs(runtime.env.iter().map(|(n, v)| (n, v)))
            .env("CNI_COMMAND", command)
            .output()
            .unwrap()
    };
    for redirections in ["0<&-", "2>&-", "0<&- 2>&-"] {
        let output = call("ADD", redirections);
        assert_eq!(output.status.code(), Some(1));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["code"], 6, "{redirections}: {said}");
        assert!(call("VERSION", redirections).status.success());
    }
    assert_eq!(call("ADD", "1>&-").status.code(), Some(1));
}

#[test]
fn many_deletions_at_once_are_all_kept() {
    let runtime = Runtime::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (conf, env) = (runtime.conf("1.1.0"), &runtime.env);
            scope.spawn(move || {
                let mut other = Runtime::new();
                other.env.clone_from(env);
                other.set("CNI_CONTAINERID", &format!("c{number}"));
                other.call("DEL", conf.to_string().as_bytes()).silent();
            });
        }
    });
    let kept = files(&runtime.spool());
    assert_eq!(kept.len(), 8, "{kept:?}");
    assert!(kept.iter().all(|name| name.ends_with(".json")), "{kept:?}");
}

#[test]
fn readers_that_are_gone_kill_nothing() {
    let runtime = Runtime::new();
    let mut child = runtime.start("DEL");
    // Neither output has a reader any more; SIGPIPE would end the plugin by a signal.
    drop((child.stdout.take(), child.stderr.take()));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(runtime.conf("1.1.0").to_string().as_bytes())
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    is_spooled(&runtime);

    let mut child = runtime.start("ADD");
    drop((child.stdout.take(), child.stderr.take()));
    child.stdin.take().unwrap().write_all(b"{}").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
