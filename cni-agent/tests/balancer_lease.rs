//! Agents agree by a Lease, through a small API server that knows one.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use cni_agent::balancer::lease::{Share, remove_free};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::{net::TcpListener, task::JoinHandle};

#[derive(Default)]
struct Inner {
    lease: Option<Value>,
    version: u64,
    /// Answers 503.
    away: bool,
    /// Somebody else writes between a read and a write.
    overtaken: bool,
}

struct Fake {
    inner: Arc<Mutex<Inner>>,
    leases: Api<Lease>,
    server: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Mutex::new(Inner::default()));
        let router = Router::new().fallback(answer).with_state(inner.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut config = Config::new(url.parse().unwrap());
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        Self {
            inner,
            leases: Api::namespaced(client, "kube-system"),
            server,
        }
    }

    fn share(&self, node: &str) -> Share {
        Share::new(self.leases.clone(), "test".to_owned(), node.to_owned())
    }

    fn holder(&self) -> Option<String> {
        let inner = self.inner.lock().unwrap();
        let spec = &inner.lease.as_ref()?["spec"];
        spec["holderIdentity"].as_str().map(str::to_owned)
    }

    fn set(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().unwrap());
    }
}

async fn answer(State(inner): State<Arc<Mutex<Inner>>>, method: Method, body: Bytes) -> Response {
    let mut inner = inner.lock().unwrap();
    if inner.away {
        return status(StatusCode::SERVICE_UNAVAILABLE);
    }
    let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    let now = inner.version.to_string();
    match (method, inner.lease.clone()) {
        (Method::GET, None) => return status(StatusCode::NOT_FOUND),
        (Method::GET, Some(lease)) => {
            if std::mem::take(&mut inner.overtaken) {
                inner.version += 1;
            }
            return axum::response::Response::new(lease.to_string().into());
        }
        (Method::POST, Some(_)) => return status(StatusCode::CONFLICT),
        (Method::PUT | Method::DELETE, None) => return status(StatusCode::NOT_FOUND),
        (Method::DELETE, Some(lease)) => {
            let wanted = &sent["preconditions"]["resourceVersion"];
            if *wanted != json!(now) {
                return status(StatusCode::CONFLICT);
            }
            inner.lease = None;
            return axum::response::Response::new(lease.to_string().into());
        }
        (Method::PUT, Some(_)) if sent["metadata"]["resourceVersion"] != json!(now) => {
            return status(StatusCode::CONFLICT);
        }
        _ => {}
    }
    inner.version += 1;
    let mut lease = sent;
    lease["metadata"]["resourceVersion"] = json!(inner.version.to_string());
    inner.lease = Some(lease.clone());
    axum::response::Response::new(lease.to_string().into())
}

fn status(code: StatusCode) -> Response {
    let reason = match code {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::CONFLICT => "Conflict",
        _ => "ServiceUnavailable",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": "", "reason": reason, "code": code.as_u16()});
    (code, status.to_string()).into_response()
}

#[tokio::test]
async fn one_holds_a_lease_until_it_gives_it_up() {
    let fake = Fake::start().await;
    let (mut a, mut b) = (fake.share("a"), fake.share("b"));
    a.look(false).await.unwrap();
    assert_eq!(fake.holder(), None, "nobody asked for it");
    a.look(true).await.unwrap();
    b.look(true).await.unwrap();
    a.look(true).await.unwrap();
    assert_eq!([a.holds(), b.holds()], [true, false]);
    assert!(a.sure_until().is_some() && a.due().is_none());
    assert!(b.sure_until().is_none() && b.due().is_some());
    b.give_up().await;
    assert_eq!(fake.holder().as_deref(), Some("a"), "it was not b's");
    a.give_up().await;
    b.look(true).await.unwrap();
    assert_eq!([a.holds(), b.holds()], [false, true]);
    // Not a candidate any more: released without waiting.
    b.look(false).await.unwrap();
    assert!(!b.holds());
    a.look(true).await.unwrap();
    assert!(a.holds());
}

#[tokio::test]
async fn an_agent_that_starts_again_goes_on_at_once() {
    let fake = Fake::start().await;
    fake.share("a").look(true).await.unwrap();
    let mut again = fake.share("a");
    again.look(true).await.unwrap();
    assert!(again.holds());
}

#[tokio::test]
async fn what_is_held_stays_held_while_the_server_is_away() {
    let fake = Fake::start().await;
    let (mut a, mut b) = (fake.share("a"), fake.share("b"));
    a.look(true).await.unwrap();
    b.look(true).await.unwrap();
    fake.set(|inner| inner.away = true);
    for share in [&mut a, &mut b] {
        share.look(true).await.unwrap_err();
        assert!(share.failing());
    }
    assert_eq!([a.holds(), b.holds()], [true, false]);
    fake.set(|inner| inner.away = false);
    a.look(true).await.unwrap();
    assert!(a.holds() && !a.failing());
}

#[tokio::test]
async fn who_is_overtaken_does_not_hold_it() {
    let fake = Fake::start().await;
    let (mut a, mut b) = (fake.share("a"), fake.share("b"));
    a.look(true).await.unwrap();
    a.give_up().await;
    fake.set(|inner| inner.overtaken = true);
    b.look(true).await.unwrap();
    assert!(!b.holds());
}

#[tokio::test]
async fn a_lease_that_is_held_is_not_removed() {
    let fake = Fake::start().await;
    let mut a = fake.share("a");
    a.look(true).await.unwrap();
    remove_free(&fake.leases, "test").await.unwrap();
    assert_eq!(fake.holder().as_deref(), Some("a"));
    a.give_up().await;
    remove_free(&fake.leases, "test").await.unwrap();
    assert!(fake.inner.lock().unwrap().lease.is_none());
    remove_free(&fake.leases, "test").await.unwrap();
}
