//! Every call in the agent's log, when it ends: its method, how long it took, how it ended, what was asked and answered as
//! [`super::told`] has it. Calls that change something at level info, the others, which come again and again, at debug.

use super::told::{self, Told};
use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use http_body_util::BodyExt as _;
use prost_reflect::MethodDescriptor;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tonic::{Code, Status};

/// What is kept of a message; longer ones are cut short in the log anyway.
const MOST: usize = 64 << 10;

/// The beginning of what somebody says.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn hear(&self, bytes: &[u8]) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST.saturating_sub(said.len());
        said.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn read(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A call that goes on. Its end is logged, whatever it is.
struct Call {
    method: MethodDescriptor,
    began: Instant,
    request: Said,
    response: Said,
    /// None: whoever called doesn't wait any more.
    status: Option<Status>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let (code, problem) = match &self.status {
            Some(status) if status.code() == Code::Ok => ("Ok".to_owned(), None),
            Some(status) => (
                format!("{:?}", status.code()),
                Some(Told::words(status.message())),
            ),
            None => ("none: the caller went away".to_owned(), None),
        };
        let request = Told::framed(self.method.input(), &self.request.read());
        let response = match self.response.read() {
            none if none.is_empty() => None,
            said => Some(Told::framed(self.method.output(), &said)),
        };
        let (call, ms) = (self.method.name(), self.began.elapsed().as_millis());
        let response = response.as_ref().map(tracing::field::display);
        let problem = problem.as_ref().map(tracing::field::display);
        match is_change(call) {
            true => tracing::info!(call, code, ms, %request, response, problem, "CSI"),
            false => tracing::debug!(call, code, ms, %request, response, problem, "CSI"),
        }
    }
}

/// PURE: whether a method does more than tell.
fn is_change(method: &str) -> bool {
    !["Get", "List", "Probe", "Validate"]
        .iter()
        .any(|word| method.contains(word))
}

/// Hears a call while it passes.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let method = told::method(request.uri().path());
    let shown = |method: &MethodDescriptor| match is_change(method.name()) {
        true => tracing::enabled!(tracing::Level::INFO),
        false => tracing::enabled!(tracing::Level::DEBUG),
    };
    let Some(method) = method.filter(shown) else {
        return next.run(request).await;
    };
    let mut call = Call {
        method,
        began: Instant::now(),
        request: Said::default(),
        response: Said::default(),
        status: None,
    };
    let heard = call.request.clone();
    let request = request.map(|body| {
        Body::new(body.map_frame(move |frame| {
            frame
                .data_ref()
                .into_iter()
                .for_each(|bytes| heard.hear(bytes));
            frame
        }))
    });
    let response = next.run(request).await;
    // Of a call that failed at once.
    call.status = Status::from_header_map(response.headers());
    response.map(|body| {
        // It ends with the body.
        Body::new(body.map_frame(move |frame| {
            frame
                .data_ref()
                .into_iter()
                .for_each(|bytes| call.response.hear(bytes));
            if let Some(trailers) = frame.trailers_ref() {
                call.status = Status::from_header_map(trailers);
            }
            frame
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_only_tell_are_polls() {
        for method in [
            "Probe",
            "GetCapacity",
            "ListVolumes",
            "NodeGetVolumeStats",
            "ValidateVolumeCapabilities",
        ] {
            assert!(!is_change(method), "{method}");
        }
        for method in [
            "CreateVolume",
            "NodePublishVolume",
            "DeleteVolumeGroupSnapshot",
            "ControllerModifyVolume",
        ] {
            assert!(is_change(method), "{method}");
        }
    }
}
