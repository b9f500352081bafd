//! Probes over real sockets of the loopback, on a clock that stands still where time counts.

use super::{
    listener::{LONGEST_LIFE, MAX_CONNECTIONS},
    *,
};
use std::sync::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Says what a test lets it say.
#[derive(Default)]
struct Node {
    dead: Mutex<Vec<String>>,
    unready: Mutex<Vec<String>>,
}

impl Probed for Node {
    fn dead(&self) -> Vec<String> {
        self.dead.lock().unwrap().clone()
    }

    async fn unready(&self) -> Vec<String> {
        self.unready.lock().unwrap().clone()
    }

    async fn metrics(&self) -> Result<String, String> {
        Ok("# EOF\n".to_owned())
    }
}

async fn served(node: Arc<Node>) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(Bounded::new(socket), router(node)).await });
    address
}

async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_node_that_cannot_serve_says_why_and_stays_alive() {
    let node = Arc::new(Node::default());
    let address = served(node.clone()).await;
    assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    *node.unready.lock().unwrap() = vec!["the node has no podCIDR".to_owned()];
    let answer = ask(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("the node has no podCIDR\n"), "{answer}");
    assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    *node.dead.lock().unwrap() = vec!["supervision has ended".to_owned()];
    assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 503"));
    let answer = ask(address, "/metrics").await;
    assert!(answer.contains(OPENMETRICS), "{answer}");
    assert!(ask(address, "/pods").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(start_paused = true)]
async fn peers_that_say_nothing_lose_their_place() {
    let address = served(Arc::default()).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let begin = tokio::time::Instant::now();
    // Behind them in the queue, so answered only once they are gone. Time moves when all wait.
    let answer = ask(address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begin.elapsed() >= LONGEST_LIFE);
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_in_use_is_told_and_tried_again() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (problem, mut told) = watch::channel(None);
    let (stop, shutdown) = Shutdown::new();
    let serving = tokio::spawn(serve(address, Arc::new(Node::default()), problem, shutdown));
    let text = told
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert!(text.contains("--health-address"), "{text}");
    drop(taken);
    told.wait_for(Option::is_none).await.unwrap();
    stop.send_replace(true);
    serving.await.unwrap();
}
