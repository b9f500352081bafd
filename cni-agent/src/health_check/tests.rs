//! Over real sockets of the loopback.

use super::*;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn check(local_endpoints: usize) -> HealthCheck {
    HealthCheck {
        service: "shop/web".to_owned(),
        local_endpoints,
    }
}

/// Status and headers, and the body.
async fn ask(at: SocketAddr) -> (String, Value) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn a_port_answers_in_both_families_what_kube_proxy_would() {
    let socket = port::listener(0).unwrap();
    let number = socket.local_addr().unwrap().port();
    let (told, reads) = watch::channel(check(2));
    tokio::spawn(async move { axum::serve(socket, port::router(reads)).await });
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    let (head, body) = ask(at).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("x-load-balancing-endpoint-weight: 2"),
        "{head}"
    );
    let service = json!({"namespace": "shop", "name": "web"});
    let expected = json!({"service": service, "localEndpoints": 2, "serviceProxyHealthy": true});
    assert_eq!(body, expected);
    told.send_replace(check(0));
    let (head, body) = ask(SocketAddr::from((Ipv6Addr::LOCALHOST, number))).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(body["localEndpoints"], 0);
}

#[tokio::test]
async fn a_port_of_another_is_told_by_its_number_and_had_once_it_is_free() {
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let number = other.local_addr().unwrap().port();
    let (desired, wants) = watch::channel(Checks::from([(number, check(1))]));
    let problems = Problems::default();
    let serving = tokio::spawn(serve(wants, problems.clone()));
    while problems.snapshot().is_empty() {
        tokio::task::yield_now().await;
    }
    let told = problems.snapshot().concat();
    let parts = ["shop/web", &format!("port {number}"), "healthCheckNodePort"];
    assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    drop(other);
    while !problems.snapshot().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    assert_eq!(ask(at).await.1["localEndpoints"], 1);
    desired.send_replace(Checks::from([(number, check(3))]));
    while ask(at).await.1["localEndpoints"] != 3 {
        tokio::task::yield_now().await;
    }
    desired.send_replace(Checks::new());
    while TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // Nobody tells any more.
    drop(desired);
    serving.await.unwrap();
}
