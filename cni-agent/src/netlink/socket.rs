//! One blocking netlink socket that sends many requests by one system call. The kernel carries a
//! netlink request out inside `send`, so all answers are queued when it returns: reading them never
//! waits, and only the last request of a batch asks for an acknowledgement (failures are always
//! answered). A whole endpoint thus costs three `send`s, where a request/answer client makes twelve.

use super::{
    error::{NetlinkError, Refusal},
    wire::{NLMSG_DONE, NLMSG_ERROR, Part, Parts},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
        NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    packet_route::RouteNetlinkMessage,
    sys::{self, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{io, marker::PhantomData, os::fd::AsFd};

/// Answers of a full batch must fit the receive buffer (failures of about 1 KiB each).
const MAX_BATCH: usize = 64;
/// The kernel fills dumps up to this size.
pub(super) const RECEIVE_BYTES: usize = 32 * 1024;
/// How often a dump that changed under our eyes is taken again.
const MAX_DUMPS: usize = 8;

/// A request and the words that an error about it begins with.
pub(super) struct Request<M> {
    pub(super) message: M,
    pub(super) flags: u16,
    /// Follows "the kernel refused to".
    pub(super) action: String,
}

/// What came back for a batch.
pub(super) struct Answers<M> {
    pub(super) replies: Vec<M>,
    /// Refused requests by their place in the batch.
    pub(super) refusals: Vec<(usize, Refusal)>,
}

impl<M> Answers<M> {
    /// The replies, or the first refusal.
    pub(super) fn complete(self) -> Result<Vec<M>, NetlinkError> {
        match self.refusals.into_iter().next() {
            None => Ok(self.replies),
            Some((_, refusal)) => Err(NetlinkError::Refused(refusal)),
        }
    }
}

/// A socket of one netlink protocol in the namespace of the thread that opened it. It stays in that
/// namespace wherever it is used later.
pub(super) struct Socket<M> {
    inner: sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
    message: PhantomData<fn() -> M>,
}

/// rtnetlink: links, addresses, routes, neighbours.
pub(super) type RouteSocket = Socket<RouteNetlinkMessage>;

impl RouteSocket {
    /// Opens a socket for rtnetlink that checks the filters of dumps strictly.
    pub(super) fn route() -> Result<Self, NetlinkError> {
        let socket = Self::open(NETLINK_ROUTE)?;
        socket
            .inner
            .set_netlink_get_strict_chk(true)
            .map_err(fault("ask for strict checks"))?;
        Ok(socket)
    }
}

impl<M: NetlinkSerializable + NetlinkDeserializable> Socket<M> {
    pub(super) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let inner = sys::Socket::new(protocol).map_err(fault("open"))?;
        // Connected to the kernel: no other process can put an answer in.
        inner
            .connect(&SocketAddr::new(0, 0))
            .map_err(fault("connect"))?;
        // Failures carry the kernel's words and not the request that we know anyway.
        inner
            .set_ext_ack(true)
            .map_err(fault("ask for error messages"))?;
        inner
            .set_cap_ack(true)
            .map_err(fault("ask for short answers"))?;
        let buffer = Vec::with_capacity(RECEIVE_BYTES);
        Ok(Self {
            inner,
            sequence: 0,
            buffer,
            message: PhantomData,
        })
    }

    /// The descriptor, to wait on for notifications.
    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Subscribes to a multicast group. Such a socket is for `notifications` only.
    pub(super) fn join(&self, group: rtnetlink::MulticastGroup) -> Result<(), NetlinkError> {
        self.inner
            .add_membership(group as u32)
            .map_err(fault("subscribe"))
    }

    /// Lets one `send` carry `bytes` (sets the limit past the system-wide one, as root may).
    pub(super) fn allow(&self, bytes: usize) -> Result<(), NetlinkError> {
        let what = "enlarge the send buffer";
        rustix::net::sockopt::set_socket_send_buffer_size_force(self.fd(), bytes).map_err(|errno| {
            NetlinkError::Socket {
                what,
                source: errno.into(),
            }
        })
    }

    /// Carries out all requests in order; goes on after a refused one. Fails only when the socket
    /// does.
    pub(super) fn send(&mut self, requests: Vec<Request<M>>) -> Result<Answers<M>, NetlinkError> {
        let mut answers = Answers {
            replies: Vec::new(),
            refusals: Vec::new(),
        };
        let mut requests = requests.into_iter().peekable();
        let mut done = 0;
        while requests.peek().is_some() {
            let chunk: Vec<_> = requests.by_ref().take(MAX_BATCH).collect();
            let count = chunk.len();
            self.send_chunk(chunk, done, &mut answers)?;
            done += count;
        }
        Ok(answers)
    }

    /// Like `send` for one request that must succeed.
    pub(super) fn one(&mut self, request: Request<M>) -> Result<Vec<M>, NetlinkError> {
        self.send(vec![request])?.complete()
    }

    fn send_chunk(
        &mut self,
        chunk: Vec<Request<M>>,
        offset: usize,
        answers: &mut Answers<M>,
    ) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let count = chunk.len();
        let mut bytes = Vec::with_capacity(count * 128);
        let mut actions = Vec::with_capacity(count);
        for (place, request) in chunk.into_iter().enumerate() {
            let last = place + 1 == count;
            let flags = NLM_F_REQUEST | request.flags | if last { NLM_F_ACK } else { 0 };
            self.encode(request.message, flags, &mut bytes);
            actions.push(request.action);
        }
        self.write(&bytes)?;
        let mut acknowledged = false;
        while !acknowledged {
            self.read(|| actions[0].clone())?;
            for part in Parts(&self.buffer) {
                let place = part.sequence.wrapping_sub(first) as usize;
                let Some(action) = actions.get_mut(place) else {
                    continue;
                };
                match part.kind {
                    NLMSG_ERROR => {
                        acknowledged |= place + 1 == count;
                        if let Some((errno, reason)) = part.failure() {
                            let action = std::mem::take(action);
                            answers.refusals.push((
                                offset + place,
                                Refusal {
                                    action,
                                    errno,
                                    reason,
                                },
                            ));
                        }
                    }
                    NLMSG_DONE => {}
                    _ => answers.replies.push(part.decode(action)?),
                }
            }
        }
        Ok(())
    }

    /// Sends several requests that count only together (an nftables transaction) by one system
    /// call. Succeeds when nothing was refused.
    pub(super) fn transaction(&mut self, requests: Vec<Request<M>>) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut actions = Vec::with_capacity(requests.len());
        for request in requests {
            self.encode(request.message, NLM_F_REQUEST | request.flags, &mut bytes);
            actions.push(request.action);
        }
        self.allow(bytes.len() + RECEIVE_BYTES)?;
        self.write(&bytes)?;
        let mut refusal = None;
        let mut answered = false;
        while self.try_read()? {
            for part in Parts(&self.buffer) {
                let place = part.sequence.wrapping_sub(first) as usize;
                let Some(action) = actions.get(place) else {
                    continue;
                };
                if part.kind != NLMSG_ERROR {
                    continue;
                }
                answered = true;
                if let (None, Some((errno, reason))) = (&refusal, part.failure()) {
                    refusal = Some(Refusal {
                        action: action.clone(),
                        errno,
                        reason,
                    });
                }
            }
        }
        match (refusal, answered) {
            (Some(refusal), _) => Err(NetlinkError::Refused(refusal)),
            (None, true) => Ok(()),
            (None, false) => Err(silent(actions.pop().unwrap_or_default())),
        }
    }

    /// Reads a whole table; again when it changed meanwhile, so that the result is one state. A
    /// table that does not exist is empty.
    pub(super) fn dump(&mut self, request: Request<M>) -> Result<Vec<M>, NetlinkError>
    where
        M: Clone,
    {
        self.dump_with(request, |part, object| part.decode(object))
    }

    /// Like `dump`, with a reader of messages other than the usual one. It gets each message and
    /// the words for an error about it.
    pub(super) fn dump_with<T>(
        &mut self,
        request: Request<M>,
        decode: impl Fn(&Part<'_>, &str) -> Result<T, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError>
    where
        M: Clone,
    {
        let mut replies = Vec::new();
        for _ in 0..MAX_DUMPS {
            replies.clear();
            if self.dump_once(&request, &decode, &mut replies)? {
                break;
            }
        }
        // So busy a table that no consistent look succeeded: the last one is as good as any, since
        // the next change will be seen by the next look.
        Ok(replies)
    }

    fn dump_once<T>(
        &mut self,
        request: &Request<M>,
        decode: impl Fn(&Part<'_>, &str) -> Result<T, NetlinkError>,
        replies: &mut Vec<T>,
    ) -> Result<bool, NetlinkError>
    where
        M: Clone,
    {
        let sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256);
        let flags = NLM_F_REQUEST | NLM_F_DUMP | request.flags;
        self.encode(request.message.clone(), flags, &mut bytes);
        self.write(&bytes)?;
        let mut consistent = true;
        loop {
            self.read(|| request.action.clone())?;
            for part in Parts(&self.buffer) {
                if part.sequence != sequence {
                    continue;
                }
                consistent &= part.flags & NLM_F_DUMP_INTR == 0;
                match part.kind {
                    NLMSG_ERROR | NLMSG_DONE => match part.failure() {
                        None | Some((libc::ENOENT, _)) => return Ok(consistent),
                        Some((errno, reason)) => {
                            let action = request.action.clone();
                            return Err(NetlinkError::Refused(Refusal {
                                action,
                                errno,
                                reason,
                            }));
                        }
                    },
                    _ => replies.push(decode(&part, &request.action)?),
                }
            }
        }
    }

    /// The notifications queued since the last call; does not wait. `None` when some were lost.
    pub(super) fn notifications(&mut self) -> Result<Option<Vec<M>>, NetlinkError> {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(false) => return Ok(Some(messages)),
                Ok(true) => {}
                Err(NetlinkError::Socket { source, .. })
                    if source.raw_os_error() == Some(libc::ENOBUFS) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            messages.extend(decode_notifications(&self.buffer)?);
        }
    }

    fn encode(&mut self, message: M, flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        // Messages begin at multiples of four.
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn write(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        loop {
            match self.inner.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(NetlinkError::Socket {
                        what: "send",
                        source,
                    });
                }
            }
        }
    }

    fn read(&mut self, action: impl FnOnce() -> String) -> Result<(), NetlinkError> {
        if self.try_read()? {
            Ok(())
        } else {
            Err(silent(action()))
        }
    }

    /// Fills the buffer with one datagram; false when there is none.
    fn try_read(&mut self) -> Result<bool, NetlinkError> {
        loop {
            self.buffer.clear();
            match self
                .inner
                .recv(&mut self.buffer, libc::MSG_DONTWAIT | libc::MSG_TRUNC)
            {
                Ok(length) if length > self.buffer.len() => {
                    let source = io::Error::from_raw_os_error(libc::EMSGSIZE);
                    return Err(NetlinkError::Socket {
                        what: "receive",
                        source,
                    });
                }
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(source) => {
                    return Err(NetlinkError::Socket {
                        what: "receive",
                        source,
                    });
                }
            }
        }
    }
}

/// The messages of one datagram of a multicast group.
pub(super) fn decode_notifications<M: NetlinkDeserializable>(
    datagram: &[u8],
) -> Result<Vec<M>, NetlinkError> {
    Parts(datagram)
        .map(|part| part.decode("a notification"))
        .collect()
}

fn fault(what: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |source| NetlinkError::Socket { what, source }
}

fn silent(object: String) -> NetlinkError {
    NetlinkError::Answer {
        object,
        fault: "there was none".into(),
    }
}
