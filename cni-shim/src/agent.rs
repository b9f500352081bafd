//! Asks the agent: one connection, one request, one response, all before one deadline.

use crate::{
    call::{Call, Command},
    conf::Conf,
    fault::{Fault, code},
    protocol::{self, HEADER, Request, Response, Term},
};
use rustix::{
    io::{Errno, read, retry_on_intr},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, connect, sendmsg, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
    time::{ClockId, clock_gettime},
};
use serde_json::value::RawValue;
use std::{
    fmt,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// When waiting ends.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(patience: Duration) -> Self {
        Self(Instant::now() + patience)
    }

    /// What is left, at least a millisecond: zero would mean "for ever" to a socket.
    fn left(self) -> Result<Duration, Failure> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            Err(Failure::Late)
        } else {
            Ok(left)
        }
    }

    /// What the agent is given: a little less, so that its own word on being late still arrives. The
    /// end by a clock that both sides read alike: an agent that was frozen meanwhile must know that
    /// nobody waits any more.
    fn for_agent(self) -> Result<Term, Failure> {
        let left = self.left()?;
        let given = left - (left / 10).min(Duration::from_millis(500));
        let now = clock_gettime(ClockId::Boottime);
        let now = Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        );
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Ok(Term {
            deadline_ms: millis(given).max(1),
            expires_at_ms: millis(now + left),
        })
    }
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No agent listens, or it went away before it answered.
    Unreachable(String),
    /// The deadline passed.
    Late,
    /// The call can't be put into a request.
    TooLarge(String),
    /// The answer makes no sense.
    Garbled(String),
    /// The agent's own error.
    Refused(Fault),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the fairlead agent can't be reached: {why}"),
            Self::Late => f.write_str("the fairlead agent gave no answer in time"),
            Self::TooLarge(why) => f.write_str(why),
            Self::Garbled(why) => write!(f, "the fairlead agent's answer can't be read: {why}"),
            Self::Refused(fault) => write!(f, "the fairlead agent answered: {}", fault.msg),
        }
    }
}

impl Failure {
    /// The error for the runtime: STATUS says "not available", the others "try again later".
    pub(crate) fn into_fault(self, command: Command, conf: &Conf<'_>) -> Fault {
        let msg = self.to_string();
        let (code, details) = match self {
            Self::Refused(fault) => return fault,
            Self::TooLarge(_) => (code::CONFIG, "shorten the network configuration".to_owned()),
            Self::Garbled(_) => (
                code::PROTOCOL,
                "agent and plugin are of different releases: install both from one".to_owned(),
            ),
            Self::Unreachable(_) => (
                code::TRY_AGAIN,
                format!(
                    "is `fairlead agent` running on this node with --socket {}? its log and `fairlead status` tell more",
                    conf.socket
                ),
            ),
            Self::Late => (
                code::TRY_AGAIN,
                format!(
                    "waited {} s (timeoutSeconds); the agent's log and `fairlead status` tell more",
                    conf.timeout.as_secs()
                ),
            ),
        };
        let code = if command == Command::Status && code != code::CONFIG {
            code::NOT_AVAILABLE
        } else {
            code
        };
        Fault::new(code, msg).with_details(details)
    }
}

/// Sends the call with the sandbox's descriptor and returns the agent's result.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn ask(
    call: &Call,
    conf: &Conf<'_>,
    sandbox: Option<&OwnedFd>,
    deadline: Deadline,
) -> Result<Box<RawValue>, Failure> {
    let socket = dial(&conf.socket, deadline)?;
    let request = Request::new(call, conf, deadline.for_agent()?);
    let frame = request.to_frame().map_err(Failure::TooLarge)?;
    let sent = send(&socket, &frame, sandbox, deadline);
    if matches!(sent, Err(Failure::Late)) {
        return Err(Failure::Late);
    }
    // An agent that refuses us may answer and close before it has read all: hear it out.
    match (receive(&socket, deadline), sent) {
        (Ok(Response::Result(result)), Ok(())) => Ok(result),
        (Ok(Response::Error(fault)), _) => Err(Failure::Refused(fault)),
        (_, Err(failure)) | (Err(failure), Ok(())) => Err(failure),
    }
}

fn dial(path: &str, deadline: Deadline) -> Result<OwnedFd, Failure> {
    let at = |e: Errno| match e {
        // The time set for sending is over: the agent's queue is full.
        Errno::AGAIN => Failure::Late,
        e => Failure::Unreachable(format!("{path}: {e}")),
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(at)?;
    let address = SocketAddrUnix::new(path).map_err(at)?;
    // Also bounds the wait for a place in the agent's queue.
    set_socket_timeout(&socket, Timeout::Send, Some(deadline.left()?)).map_err(at)?;
    retry_on_intr(|| connect(&socket, &address)).map_err(at)?;
    Ok(socket)
}

fn ended(error: Errno) -> Failure {
    match error {
        Errno::AGAIN => Failure::Late,
        e => Failure::Unreachable(format!("it broke the connection off: {e}")),
    }
}

fn send(
    socket: &OwnedFd,
    frame: &[u8],
    sandbox: Option<&OwnedFd>,
    deadline: Deadline,
) -> Result<(), Failure> {
    let mut sent = 0;
    while sent < frame.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = sandbox.map(|sandbox| [sandbox.as_fd()]);
        if let (0, Some(descriptors)) = (sent, &descriptors)
            && !control.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(Failure::Unreachable(
                "no room for the descriptor".to_owned(),
            ));
        }
        set_socket_timeout(socket, Timeout::Send, Some(deadline.left()?)).map_err(ended)?;
        let rest = [IoSlice::new(&frame[sent..])];
        sent += retry_on_intr(|| sendmsg(socket, &rest, &mut control, SendFlags::NOSIGNAL))
            .map_err(ended)?;
    }
    Ok(())
}

fn receive(socket: &OwnedFd, deadline: Deadline) -> Result<Response, Failure> {
    let mut header = [0; HEADER];
    fill(socket, &mut header, deadline)?;
    let length = protocol::body_length(header).map_err(Failure::Garbled)?;
    let mut body = vec![0; length];
    fill(socket, &mut body, deadline)?;
    serde_json::from_slice(&body).map_err(|e| Failure::Garbled(e.to_string()))
}

fn fill(socket: &OwnedFd, mut space: &mut [u8], deadline: Deadline) -> Result<(), Failure> {
    while !space.is_empty() {
        set_socket_timeout(socket, Timeout::Recv, Some(deadline.left()?)).map_err(ended)?;
        let count = retry_on_intr(|| read(socket, &mut *space)).map_err(ended)?;
        if count == 0 {
            return Err(Failure::Unreachable(
                "it ended before it answered".to_owned(),
            ));
        }
        space = &mut space[count..];
    }
    Ok(())
}
