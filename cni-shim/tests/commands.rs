//! Each command through the executed plugin, with an agent that answers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use fake::{Runtime, answer, frame};
use rustix::fs::{fstat, stat};
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn add_passes_call_and_sandbox_on_and_prints_the_result_as_it_is() {
    for version in VERSIONS {
        let runtime = Runtime::new();
        let result = json!({"cniVersion": version, "ips": [{"address": "100.11.1.2/32"}]});
        let agent = runtime.agent(answer(&json!({"result": result})));
        let outcome = runtime.run("ADD", version);
        assert!(outcome.success, "{}", outcome.stdout);
        assert_eq!(outcome.json(), result);

        let (request, descriptor) = agent.request();
        let own = stat("/proc/self/ns/net").unwrap();
        let sandbox = fstat(descriptor.expect("a descriptor")).unwrap();
        assert_eq!((own.st_dev, own.st_ino), (sandbox.st_dev, sandbox.st_ino));
        let deadline = request["deadlineMs"].as_u64().unwrap();
        assert!((1..1000).contains(&deadline), "{deadline}");
        let mut expected = json!({
            "op": "cni", "command": "ADD", "containerId": "c1", "ifname": "eth0",
            "netns": "/proc/self/ns/net", "args": "IgnoreUnknown=1;K8S_POD_NAME=p",
            "path": "/opt/cni/bin",
        });
        expected["config"] = runtime.conf(version);
        expected["deadlineMs"] = deadline.into();
        // As told: a second after the call began, by a clock that the agent reads, too.
        let end = request["expiresAtMs"].as_u64().unwrap();
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = u64::try_from(since_boot.tv_sec).unwrap() * 1000;
        assert!((now - 60_000..now + 2_000).contains(&end), "{end} at {now}");
        expected["expiresAtMs"] = end.into();
        assert_eq!(request, expected);
    }
}

#[test]
fn commands_without_result_print_nothing() {
    for (command, version) in [
        ("DEL", "0.3.0"),
        ("DEL", "1.1.0"),
        ("CHECK", "0.4.0"),
        ("CHECK", "1.1.0"),
        ("GC", "1.1.0"),
        ("STATUS", "1.1.0"),
    ] {
        let runtime = Runtime::new();
        let agent = runtime.agent(answer(&json!({"result": null})));
        runtime.run(command, version).silent();
        assert_eq!(agent.request().0["command"], command);
    }
}

#[test]
fn gc_and_status_are_about_no_container() {
    for command in ["GC", "STATUS"] {
        let mut runtime = Runtime::new();
        for name in [
            "CNI_CONTAINERID",
            "CNI_NETNS",
            "CNI_IFNAME",
            "CNI_ARGS",
            "CNI_PATH",
        ] {
            runtime.set(name, "");
        }
        let agent = runtime.agent(answer(&json!({"result": null})));
        runtime.run(command, "1.1.0").silent();
        let (request, descriptor) = agent.request();
        assert_eq!(
            (&request["containerId"], &request["netns"]),
            (&json!(""), &json!(""))
        );
        assert!(descriptor.is_none());
    }
}

#[test]
fn del_goes_on_when_the_sandbox_is_gone() {
    for netns in [
        "",
        "/run/netns/no-such-sandbox",
        "/dev/null",
        "/proc/self/ns/net",
    ] {
        let mut runtime = Runtime::new();
        // Without the override the last one is refused to ADD; DEL just doesn't use it.
        runtime
            .set("CNI_NETNS", netns)
            .set("CNI_NETNS_OVERRIDE", "");
        let agent = runtime.agent(answer(&json!({"result": null})));
        runtime.run("DEL", "1.0.0").silent();
        assert!(agent.request().1.is_none(), "{netns}");
    }
}

#[test]
fn a_sandbox_that_is_none_is_a_fault_of_the_environment() {
    for command in ["ADD", "CHECK"] {
        for (netns, part) in [
            ("/run/netns/no-such-sandbox", "does not exist"),
            ("/dev/null/x", "does not exist"),
            ("/dev/null", "is not a network namespace"),
            ("/tmp", "is not a network namespace"),
            ("/proc/self/ns/net", "should not be the same"),
            ("relative", "no absolute path"),
        ] {
            let mut runtime = Runtime::new();
            runtime
                .set("CNI_NETNS", netns)
                .set("CNI_NETNS_OVERRIDE", "");
            let said = runtime.run(command, "1.1.0").fault(4);
            assert!(said.contains(part) && said.contains("CNI_NETNS"), "{said}");
        }
    }
}

#[test]
fn version_is_answered_without_an_agent_and_without_input() {
    let mut runtime = Runtime::new();
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
        runtime.set(name, "");
    }
    for (input, expected) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        ("", "1.1.0"),
        ("{{{", "1.1.0"),
    ] {
        let outcome = runtime.call("VERSION", input.as_bytes());
        assert!(outcome.success);
        let expected = json!({"cniVersion": expected, "supportedVersions": VERSIONS});
        assert_eq!(outcome.json(), expected);
    }
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let outcome = Runtime::new().call("", b"");
    outcome.silent();
    assert!(
        outcome.stderr.contains("CNI plugin fairlead-cni v"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_agents_error_is_printed_in_the_form_of_the_configurations_version() {
    for version in VERSIONS {
        for code in [1, 2, 3, 4, 5, 6, 7, 11, 50, 51, 100, 102, 999] {
            let runtime = Runtime::new();
            let error = json!({"code": code, "msg": "no \"luck\"\n", "details": "try\u{0} this"});
            let _agent = runtime.agent(answer(&json!({"error": error})));
            let outcome = runtime.run("ADD", version);
            assert!(!outcome.success);
            let mut expected = error;
            expected["cniVersion"] = version.into();
            assert_eq!(outcome.json(), expected);
        }
    }
}

#[test]
fn environment_faults_name_every_missing_variable() {
    let mut runtime = Runtime::new();
    runtime.set("CNI_CONTAINERID", "").set("CNI_IFNAME", "");
    let said = runtime.run("ADD", "1.1.0").fault(4);
    assert!(said.contains("[CNI_CONTAINERID,CNI_IFNAME]"), "{said}");
    let said = Runtime::new().run("FROB", "1.1.0").fault(4);
    assert!(said.contains("CNI_COMMAND"), "{said}");
    let said = Runtime::new()
        .set("CNI_CONTAINERID", "../../etc")
        .run("DEL", "1.1.0")
        .fault(4);
    assert!(said.contains("CNI_CONTAINERID"), "{said}");
}

#[test]
fn a_command_younger_than_the_configuration_is_an_incompatible_version() {
    for (command, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0")] {
        let outcome = Runtime::new().run(command, version);
        let said = outcome.fault(1);
        assert!(said.contains(command), "{said}");
        assert_eq!(outcome.json()["cniVersion"], version);
    }
    for version in ["0.1.0", "0.2.0", "1.2.0", "2.0.0"] {
        let outcome = Runtime::new().run("ADD", version);
        let said = outcome.fault(1);
        assert!(said.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{said}");
        assert_eq!(outcome.json()["cniVersion"], "1.1.0");
    }
}

#[test]
fn bad_input_is_refused_with_the_code_for_it() {
    let runtime = Runtime::new();
    for (input, code) in [
        (&b""[..], 6),
        (b"{", 6),
        (b"[]", 6),
        (b"\xff\xfe", 6),
        (br#"{"cniVersion":"1.1.0","name":"a","name":"b"}"#, 6),
        (br#"{"cniVersion":"1.1.0"}"#, 7),
        (br#"{"cniVersion":"1.1.0","name":"../a"}"#, 7),
        (
            br#"{"cniVersion":"1.1.0","name":"a","socket":"../agent.sock"}"#,
            7,
        ),
        (br#"{"cniVersion":"1.1.0","name":"a","spool":"spool"}"#, 7),
        (
            br#"{"cniVersion":"1.1.0","name":"a","timeoutSeconds":0}"#,
            7,
        ),
    ] {
        runtime.call("ADD", input).fault(code);
    }
}

#[test]
fn too_large_a_configuration_is_refused() {
    let runtime = Runtime::new();
    let mut conf = runtime.conf("1.1.0");
    conf["x"] = Value::String("y".repeat(2 << 20));
    let said = runtime.call("ADD", conf.to_string().as_bytes()).fault(7);
    assert!(said.contains("1048576"), "{said}");
}

#[test]
fn an_answer_that_makes_no_sense_is_no_result() {
    let ok = r#"{"result":{}}"#;
    for (answer, part) in [
        (frame(2, ok), "version 2"),
        (b"HTTP/1.1 400 Bad Request".to_vec(), "doesn't speak"),
        (frame(1, "{}"), "can't be read"),
        (frame(1, "not json"), "can't be read"),
        (frame(1, r#"{"result":null}"#), "holds no result"),
        (frame(1, r#"{"result":[]}"#), "holds no result"),
        (b"FL\0\x01\xff\xff\xff\xff".to_vec(), "4294967295 bytes"),
    ] {
        let runtime = Runtime::new();
        let _agent = runtime.agent(answer);
        let said = runtime.run("ADD", "1.1.0").fault(110);
        assert!(said.contains(part), "{said}");
    }
}
