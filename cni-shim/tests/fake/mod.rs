//! A stand-in for the agent, and the plugin executed as a runtime does.
#![allow(dead_code, reason = "each test file uses a part of it")]

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use std::{
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
};
use tempfile::TempDir;

/// What a call left on standard output, and how it ended.
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {:?} {:?}", self.stdout, self.stderr))
    }

    /// Asserts an error object of that code and returns message and details.
    pub(crate) fn fault(&self, code: u32) -> String {
        assert!(!self.success, "{}", self.stdout);
        let value = self.json();
        assert_eq!(value["code"], code, "{value}");
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        assert!(
            !text("cniVersion").is_empty() && !text("msg").is_empty(),
            "{value}"
        );
        format!("{}; {}", text("msg"), text("details"))
    }

    /// Asserts success without output.
    pub(crate) fn silent(&self) {
        assert!(
            self.success && self.stdout.is_empty(),
            "{} {}",
            self.stdout,
            self.stderr
        );
    }
}

/// A folder with socket and spool, and the variables of a whole call.
pub(crate) struct Runtime {
    pub(crate) folder: TempDir,
    pub(crate) env: Vec<(String, String)>,
}

impl Runtime {
    /// The sandbox is this process's own namespace, which the override allows: tests need no root.
    pub(crate) fn new() -> Self {
        let mut runtime = Self {
            folder: tempfile::tempdir().unwrap(),
            env: Vec::new(),
        };
        // The agent's --state-dir.
        std::fs::create_dir(runtime.folder.path().join("state")).unwrap();
        for (name, value) in [
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_NETNS_OVERRIDE", "1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=p"),
            ("CNI_PATH", "/opt/cni/bin"),
        ] {
            runtime.set(name, value);
        }
        runtime
    }

    /// Sets a variable; an empty value counts as unset, as for every plugin.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.folder.path().join("state/spool")
    }

    /// A configuration of that version for this folder.
    pub(crate) fn conf(&self, version: &str) -> Value {
        json!({
            "cniVersion": version, "name": "pods", "type": "fairlead-cni",
            "socket": self.socket(), "spool": self.spool(), "timeoutSeconds": 1,
        })
    }

    /// Starts the plugin.
    pub(crate) fn start(&self, command: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_fairlead-cni"))
            .env_clear()
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Executes the plugin.
    pub(crate) fn call(&self, command: &str, stdin: &[u8]) -> Outcome {
        let mut child = self.start(command);
        // The plugin may end without reading all of it.
        let _unread = child.stdin.take().unwrap().write_all(stdin).is_err();
        let output = child.wait_with_output().unwrap();
        Outcome {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Executes the plugin with this folder's configuration.
    pub(crate) fn run(&self, command: &str, version: &str) -> Outcome {
        self.call(command, self.conf(version).to_string().as_bytes())
    }

    /// Starts an agent that takes one request and answers with these bytes, then closes.
    pub(crate) fn agent(&self, answer: Vec<u8>) -> Agent {
        Agent::start(&self.socket(), answer)
    }
}

/// A frame of that version around a body.
pub(crate) fn frame(version: u16, body: &str) -> Vec<u8> {
    let mut frame = b"FL".to_vec();
    frame.extend(version.to_be_bytes());
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body.as_bytes());
    frame
}

/// A version 1 frame.
pub(crate) fn answer(body: &Value) -> Vec<u8> {
    frame(1, &body.to_string())
}

/// An agent under way.
pub(crate) struct Agent(JoinHandle<(Value, Option<OwnedFd>)>);

impl Agent {
    fn start(socket: &Path, answer: Vec<u8>) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        Self(std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (header, descriptor) = receive_header(&stream);
            assert_eq!(&header[..4], b"FL\0\x01");
            let length = u32::from_be_bytes(header[4..].try_into().unwrap());
            let mut body = vec![0; length as usize];
            stream.read_exact(&mut body).unwrap();
            stream.write_all(&answer).unwrap();
            (serde_json::from_slice(&body).unwrap(), descriptor)
        }))
    }

    /// The request it got, and the descriptor that came with it.
    pub(crate) fn request(self) -> (Value, Option<OwnedFd>) {
        self.0.join().unwrap()
    }
}

fn receive_header(stream: &UnixStream) -> ([u8; 8], Option<OwnedFd>) {
    let (mut header, mut descriptor, mut got) = ([0; 8], None, 0);
    while got < header.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut rest = [IoSliceMut::new(&mut header[got..])];
        got += recvmsg(stream, &mut rest, &mut control, RecvFlags::empty())
            .unwrap()
            .bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                descriptor = descriptors.next();
            }
        }
    }
    (header, descriptor)
}
