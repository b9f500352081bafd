//! Probes over real sockets of the loopback, on a clock that stands still where time counts.

use super::{
    listener::{Connection, LONGEST_LIFE, LONGEST_SILENCE, MAX_CONNECTIONS},
    *,
};
use axum::serve::Listener;
use std::{io::ErrorKind, sync::Mutex};
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

async fn bounded() -> (Bounded, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (Bounded::new(socket), address)
}

async fn fault(mut connection: Connection) -> ErrorKind {
    connection.read(&mut [0; 16]).await.unwrap_err().kind()
}

#[tokio::test]
async fn where_all_places_are_taken_the_oldest_makes_way() {
    let (mut bounded, address) = bounded().await;
    let mut peers = Vec::new();
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        peers.push(TcpStream::connect(address).await.unwrap());
        held.push(tokio::spawn(fault(bounded.accept().await.0)));
    }
    let mut scraper = TcpStream::connect(address).await.unwrap();
    let (mut connection, _) = bounded.accept().await;
    assert_eq!(held.remove(0).await.unwrap(), ErrorKind::ConnectionAborted);
    assert!(held.iter().all(|held| !held.is_finished()));
    scraper.write_all(b"GET").await.unwrap();
    assert_eq!(connection.read(&mut [0; 16]).await.unwrap(), 3);
}

#[tokio::test]
async fn a_place_that_is_free_again_costs_nobody_else_one() {
    let (mut bounded, address) = bounded().await;
    let mut peers = Vec::new();
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        peers.push(TcpStream::connect(address).await.unwrap());
        held.push(bounded.accept().await.0);
    }
    drop(held.pop());
    peers.push(TcpStream::connect(address).await.unwrap());
    held.push(bounded.accept().await.0);
    tokio::time::pause();
    for connection in held {
        assert_eq!(fault(connection).await, ErrorKind::TimedOut);
    }
}

#[tokio::test]
async fn a_connection_ends_that_is_silent_or_slow() {
    let (mut bounded, address) = bounded().await;
    let cases = [
        ("", Duration::ZERO, LONGEST_SILENCE),
        ("GET /heal", LONGEST_SILENCE, LONGEST_LIFE),
    ];
    for (said, least, most) in cases {
        let mut peer = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        peer.write_all(said.as_bytes()).await.unwrap();
        if !said.is_empty() {
            assert!(connection.read(&mut [0; 16]).await.unwrap() > 0);
        }
        tokio::time::pause();
        let begin = tokio::time::Instant::now();
        assert_eq!(fault(connection).await, ErrorKind::TimedOut);
        let left = begin.elapsed();
        tokio::time::resume();
        // Some of it may have passed before the clock was stopped.
        let most = most + Duration::from_millis(100);
        assert!(left >= least && left <= most, "{said:?}: {left:?}");
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
