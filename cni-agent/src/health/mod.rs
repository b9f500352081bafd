//! Health and metrics over HTTP, for probes and Prometheus: `/healthz` (alive), `/readyz` (can serve),
//! `/metrics`. Nothing here can change the node, so nobody has to prove who they are; by default only the
//! node itself reaches it. [`Probed`] is what is asked, [`serve`] answers, `listener` keeps peers within
//! bounds.

mod listener;

use crate::parts::Shutdown;
use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
pub(crate) use listener::Bounded;
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

/// Pauses between attempts to bind, doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Longest that an answer may take: probes give up earlier.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);
/// What OpenMetrics asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What health and metrics are read from.
pub trait Probed: Send + Sync + 'static {
    /// What keeps the agent from doing its work at all, so that only another start helps; empty: alive.
    fn dead(&self) -> Vec<String>;

    /// What keeps the node from serving pods, each with its remedy; empty: ready.
    fn unready(&self) -> impl Future<Output = Vec<String>> + Send;

    /// The text for Prometheus.
    fn metrics(&self) -> impl Future<Output = Result<String, String>> + Send;
}

/// Serves until `shutdown`. An address that can't be had keeps no pod from its network: it is told in
/// `problem` and the log, and tried again.
pub async fn serve(
    address: SocketAddr,
    probed: Arc<impl Probed>,
    problem: watch::Sender<Option<String>>,
    mut shutdown: Shutdown,
) {
    let serving = async {
        let socket = bind(address, &problem).await;
        problem.send_replace(None);
        tracing::info!(%address, "health and metrics are served");
        // Bounded never ends, nor does what serves it.
        if let Err(error) = axum::serve(Bounded::new(socket), router(probed)).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    };
    tokio::select! {
        () = serving => {}
        () = shutdown.requested() => {}
    }
}

async fn bind(address: SocketAddr, problem: &watch::Sender<Option<String>>) -> TcpListener {
    let mut pause = FIRST_PAUSE;
    loop {
        match TcpListener::bind(address).await {
            Ok(socket) => return socket,
            Err(error) => {
                let text = format!(
                    "health and metrics are not served: {address}: {error}; free the address or give another --health-address, `off` to do without"
                );
                if problem.borrow().as_ref() != Some(&text) {
                    tracing::error!("{text}");
                }
                problem.send_replace(Some(text));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

struct Shared<P> {
    probed: Arc<P>,
    /// Scrapes are made one after the other: however many ask, the maps are read by one.
    scrape: Semaphore,
}

fn router<P: Probed>(probed: Arc<P>) -> Router {
    let scrape = Semaphore::new(1);
    Router::new()
        .route("/healthz", get(healthz::<P>))
        .route("/readyz", get(readyz::<P>))
        .route("/metrics", get(metrics::<P>))
        .with_state(Arc::new(Shared { probed, scrape }))
}

async fn healthz<P: Probed>(State(shared): State<Arc<Shared<P>>>) -> Response {
    verdict(&shared.probed.dead())
}

async fn readyz<P: Probed>(State(shared): State<Arc<Shared<P>>>) -> Response {
    match timeout(LONGEST_ANSWER, shared.probed.unready()).await {
        Ok(reasons) => verdict(&reasons),
        Err(_late) => verdict(&["the agent is late to tell: see its log".to_owned()]),
    }
}

async fn metrics<P: Probed>(State(shared): State<Arc<Shared<P>>>) -> Response {
    let scraped = async {
        let _alone = shared.scrape.acquire().await;
        shared.probed.metrics().await
    };
    match timeout(LONGEST_ANSWER, scraped).await {
        Ok(Ok(text)) => {
            let kind = HeaderValue::from_static(OPENMETRICS);
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Ok(Err(fault)) => (StatusCode::INTERNAL_SERVER_ERROR, fault + "\n").into_response(),
        Err(_late) => (StatusCode::SERVICE_UNAVAILABLE, "the scrape is late\n").into_response(),
    }
}

/// One line for each reason.
fn verdict(reasons: &[String]) -> Response {
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

#[cfg(test)]
mod tests;
