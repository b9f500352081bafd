//! Between a client that asks each call once and an agent that is killed during some of them: the proxy asks the next agent
//! again, with the same bytes, as the kubelet and the sidecars do when a driver is not there.

use super::{chance::Chance, node::Node};
use http_body_util::{BodyExt as _, Full};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{net::UnixListener, runtime::Runtime};
use tonic::{
    body::Body,
    codegen::{
        Bytes, Service as _,
        http::{HeaderMap, Request, Response, Uri, header},
        tokio_stream::wrappers::UnixListenerStream,
    },
    service::{AxumBody, AxumRouter, Routes},
    transport::{Channel, Endpoint, Server},
};

/// One in so many calls has its driver killed.
const ONE_IN: u64 = 5;
/// How long a call takes that was never seen to its end.
const GUESS: Duration = Duration::from_millis(15);
/// A driver that was killed under another call is asked again so often.
const ATTEMPTS: usize = 20;

/// What became of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) calls: u64,
    /// Kills before the driver had answered, and after it, when nobody was told.
    pub(super) during: u64,
    pub(super) after: u64,
}

struct State {
    node: Mutex<Node>,
    channel: Mutex<Channel>,
    chance: Mutex<Chance>,
    tally: Mutex<Tally>,
    /// What is usual of each method.
    durations: Mutex<BTreeMap<String, Duration>>,
}

/// The proxy and the node behind it.
pub(super) struct Proxy {
    /// None: it ends.
    runtime: Option<Runtime>,
    state: Arc<State>,
    socket: PathBuf,
}

impl Proxy {
    /// Serves in front of a node.
    pub(super) fn new(node: Node, chance: Chance) -> Self {
        let runtime = Runtime::new().unwrap();
        let socket = node.place("proxy.sock");
        let (listener, channel) = runtime.block_on(async {
            (
                UnixListener::bind(&socket).unwrap(),
                connect(&node.socket()),
            )
        });
        let state = Arc::new(State {
            node: Mutex::new(node),
            channel: Mutex::new(channel),
            chance: Mutex::new(chance),
            tally: Mutex::default(),
            durations: Mutex::default(),
        });
        let of_calls = state.clone();
        let router = AxumRouter::new().fallback(move |asked: Request<AxumBody>| {
            let state = of_calls.clone();
            async move { state.hand_on(asked).await }
        });
        let serving = Server::builder()
            .add_routes(Routes::from(router))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(serving);
        Self {
            runtime: Some(runtime),
            state,
            socket,
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn tally(&self) -> Tally {
        *self.state.tally.lock().unwrap()
    }

    /// Does something with the node while no call is under way.
    pub(super) fn with_node<T>(&self, look: impl FnOnce(&Node) -> T) -> T {
        look(&self.state.node.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The node goes with the last that has it: no call may be under way.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

fn connect(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    endpoint.connect_lazy()
}

/// An answer that came whole.
#[derive(Clone)]
struct Answer {
    headers: HeaderMap,
    bytes: Bytes,
    trailers: Option<HeaderMap>,
}

impl From<Answer> for Response<AxumBody> {
    fn from(answer: Answer) -> Self {
        let body = match answer.trailers {
            // Of a failure: all of it is in the head.
            None if answer.bytes.is_empty() => AxumBody::empty(),
            trailers => {
                let trailers = trailers.map(Ok);
                AxumBody::new(Full::new(answer.bytes).with_trailers(async move { trailers }))
            }
        };
        let mut response = Self::new(body);
        *response.headers_mut() = answer.headers;
        response
    }
}

async fn ask(mut channel: Channel, method: Uri, bytes: Bytes) -> Result<Answer, String> {
    let mut asked = Request::post(method)
        .body(Body::new(Full::new(bytes)))
        .unwrap();
    let headers = asked.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
    headers.insert(header::TE, "trailers".parse().unwrap());
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .map_err(|error| format!("{error:?}"))?;
    let answered = channel
        .call(asked)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let (head, body) = answered.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|status| format!("{status:?}"))?;
    Ok(Answer {
        headers: head.headers,
        trailers: body.trailers().cloned(),
        bytes: body.to_bytes(),
    })
}

impl State {
    /// When the driver is to be killed under a call, if it is.
    fn plan(&self, method: &str) -> Option<Duration> {
        let usual = self
            .durations
            .lock()
            .unwrap()
            .get(method)
            .copied()
            .unwrap_or(GUESS);
        let mut chance = self.chance.lock().unwrap();
        (chance.below(ONE_IN) == 0).then(|| chance.moment(usual))
    }

    fn learn(&self, method: &str, took: Duration) {
        let mut durations = self.durations.lock().unwrap();
        let usual = durations.entry(method.to_owned()).or_insert(took);
        *usual = (*usual * 3 + took) / 4;
    }

    async fn hand_on(self: Arc<Self>, asked: Request<AxumBody>) -> Response<AxumBody> {
        let (head, body) = asked.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let path = head.uri.path().to_owned();
        let method: Uri = path.parse().unwrap();
        self.tally.lock().unwrap().calls += 1;
        if let Some(moment) = self.plan(&path) {
            let channel = self.channel.lock().unwrap().clone();
            let asking = tokio::spawn(ask(channel, method.clone(), bytes.clone()));
            let state = self.clone();
            tokio::task::spawn_blocking(move || state.kill(moment))
                .await
                .unwrap();
            let answered = asking.await.is_ok_and(|answer| answer.is_ok());
            let mut tally = self.tally.lock().unwrap();
            match answered {
                true => tally.after += 1,
                false => tally.during += 1,
            }
        }
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            let channel = self.channel.lock().unwrap().clone();
            let began = Instant::now();
            match ask(channel, method.clone(), bytes.clone()).await {
                Ok(answer) => {
                    self.learn(&path, began.elapsed());
                    return answer.into();
                }
                Err(error) => problem = error,
            }
            // Killed under another call: it is there again when that lets the node go.
            let state = self.clone();
            let waited = tokio::task::spawn_blocking(move || drop(state.node.lock().unwrap()));
            waited.await.unwrap();
        }
        panic!("{path}: the driver doesn't answer: {problem}");
    }

    /// Kills the driver at a moment, to the microsecond, and starts the next one.
    fn kill(&self, moment: Duration) {
        std::thread::sleep(moment);
        let mut node = self.node.lock().unwrap();
        node.kill();
        node.start();
        *self.channel.lock().unwrap() = connect(&node.socket());
    }
}
