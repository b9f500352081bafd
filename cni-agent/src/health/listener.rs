//! Connections within bounds: so many at once, each for so long. A peer that sends slowly, or nothing, can
//! neither grow the agent nor keep others out: where all places are taken, the oldest makes way.

use axum::serve::Listener;
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, Sleep, sleep},
};

/// Most connections at once; one more makes the oldest end.
pub(super) const MAX_CONNECTIONS: usize = 16;
/// Longest wait for the first byte of a request.
pub(super) const LONGEST_SILENCE: Duration = Duration::from_secs(3);
/// Longest life of a connection, whatever goes on in it: scrapers connect anew.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, say), so that others end meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Bounded {
    socket: TcpListener,
    places: Arc<Semaphore>,
    open: Open,
}

/// The connections by age, the oldest first, each with what makes it end.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<Connections>>);

#[derive(Default)]
struct Connections {
    by_age: VecDeque<(u64, oneshot::Sender<()>)>,
    next: u64,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection; what is returned resolves when it has to end.
    fn enter(&self) -> (u64, oneshot::Receiver<()>) {
        let (end, ended) = oneshot::channel();
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.by_age.push_back((number, end));
        (number, ended)
    }

    fn leave(&self, number: u64) {
        self.lock().by_age.retain(|(other, _)| *other != number);
    }

    /// Its task is woken by the sender's end.
    fn end_oldest(&self) {
        self.lock().by_age.pop_front();
    }
}

impl Bounded {
    pub(crate) fn new(socket: TcpListener) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let open = Open::default();
        Self {
            socket,
            places,
            open,
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, peer) = loop {
            match self.socket.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection for health could not be accepted");
                    sleep(PAUSE).await;
                }
            }
        };
        if self.places.available_permits() == 0 {
            self.open.end_oldest();
        }
        // Nobody closes the semaphore.
        let place = self.places.clone().acquire_owned().await.ok();
        let (number, ended) = self.open.enter();
        let connection = Connection {
            stream,
            begin: Instant::now(),
            is_silent: true,
            over: Box::pin(sleep(LONGEST_SILENCE)),
            ended,
            displaced: false,
            number,
            open: self.open.clone(),
            _place: place,
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection that fails when its time is over, or another needs its place.
pub(crate) struct Connection {
    stream: TcpStream,
    begin: Instant,
    /// Nothing was read yet.
    is_silent: bool,
    over: Pin<Box<Sleep>>,
    /// Resolves when another needs the place.
    ended: oneshot::Receiver<()>,
    displaced: bool,
    number: u64,
    open: Open,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Why nothing more is read or written; none while it may.
    fn fault(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        // Resolves once only.
        self.displaced |= !self.displaced && Pin::new(&mut self.ended).poll(context).is_ready();
        if self.displaced {
            return Some(io::ErrorKind::ConnectionAborted.into());
        }
        let over = self.over.as_mut().poll(context).is_ready();
        over.then(|| io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.leave(self.number);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(fault) = self.fault(context) {
            return Poll::Ready(Err(fault));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.is_silent && buffer.filled().len() > before {
            self.is_silent = false;
            let end = self.begin + LONGEST_LIFE;
            self.over.as_mut().reset(end);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(fault) = self.fault(context) {
            return Poll::Ready(Err(fault));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(fault) = self.fault(context) {
            return Poll::Ready(Err(fault));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
