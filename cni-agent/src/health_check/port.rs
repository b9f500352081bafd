//! One port, on all addresses of the node.

use super::Problems;
use crate::{health::Bounded, service::HealthCheck};
use axum::{
    Router,
    extract::State,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse, Response},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};
use serde::Serialize;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::sleep};

/// Pauses between attempts to bind, doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Local endpoints, for load balancers that share out by them (KEP-4568 and kube-proxy).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Ends when dropped.
pub(super) struct Port {
    told: watch::Sender<HealthCheck>,
    task: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Port {
    pub(super) fn open(number: u16, check: HealthCheck, problems: Problems) -> Self {
        let (told, reads) = watch::channel(check);
        let task = tokio::spawn(async move {
            let socket = bound(number, &reads, &problems).await;
            problems.set(number, None);
            tracing::info!(port = number, "a Service's health check is served");
            // Bounded never ends, nor does what serves it.
            if let Err(error) = axum::serve(Bounded::new(socket), router(reads)).await {
                tracing::error!(port = number, %error, "a Service's health check is no longer served");
            }
        });
        Self { told, task }
    }

    /// What is answered from now on.
    pub(super) fn tell(&self, check: HealthCheck) {
        self.told.send_if_modified(|told| {
            let new = *told != check;
            *told = check;
            new
        });
    }

    /// Returns when the socket is closed.
    pub(super) async fn close(mut self) {
        self.task.abort();
        let _aborted = (&mut self.task).await.is_err();
    }
}

async fn bound(
    number: u16,
    reads: &watch::Receiver<HealthCheck>,
    problems: &Problems,
) -> TcpListener {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener(number) {
            Ok(socket) => return socket,
            Err(error) => {
                let service = reads.borrow().service.clone();
                problems.set(number, Some(format!(
                    "the health check of Service {service} is not served at port {number}: {error}; free the port (kube-proxy serves it too, where it runs), or give the Service another spec.healthCheckNodePort"
                )));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Listens at a port of all addresses, in both families where the kernel has IPv6.
pub(super) fn listener(number: u16) -> io::Result<TcpListener> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, number));
    let socket = match socket(AddressFamily::INET6) {
        Ok(socket) => {
            // Whatever net.ipv6.bindv6only says.
            sockopt::set_ipv6_v6only(&socket, false)?;
            bind(&socket, &any)?;
            socket
        }
        Err(Errno::AFNOSUPPORT) => {
            let socket = socket(AddressFamily::INET)?;
            bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, number)))?;
            socket
        }
        Err(error) => return Err(error.into()),
    };
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // A port that was just closed is not held up by its last connections.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

/// Any path and method, as kube-proxy.
pub(super) fn router(reads: watch::Receiver<HealthCheck>) -> Router {
    Router::new().fallback(answer).with_state(reads)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Named<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

async fn answer(State(reads): State<watch::Receiver<HealthCheck>>) -> Response {
    let check = reads.borrow().clone();
    let (namespace, name) = check.service.split_once('/').unwrap_or_default();
    let body = Body {
        service: Named { namespace, name },
        local_endpoints: check.local_endpoints,
        service_proxy_healthy: true,
    };
    let status = match check.local_endpoints {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let Ok(body) = serde_json::to_string(&body) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let word = HeaderValue::from_static;
    let headers = [
        (CONTENT_TYPE, word("application/json")),
        (X_CONTENT_TYPE_OPTIONS, word("nosniff")),
        (WEIGHT, HeaderValue::from(check.local_endpoints)),
        // Who keeps the connection would be answered after the port is closed.
        (CONNECTION, word("close")),
    ];
    (status, headers, body).into_response()
}
