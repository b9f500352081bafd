//! A service whose calls are counted as they are answered.

use crate::metrics::VolumeCounts;
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

/// Passes calls to a service on.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    service: S,
    counts: VolumeCounts,
}

impl<S> Counted<S> {
    pub(super) fn new(service: S, counts: VolumeCounts) -> Self {
        Self { service, counts }
    }
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        let call = path.rsplit('/').next().unwrap_or_default().to_owned();
        let counts = self.counts.clone();
        let begin = Instant::now();
        let answering = self.service.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            // A failure is told before its end, in the head of the answer.
            let status = Status::from_header_map(answer.headers());
            let code = status.map_or(Code::Ok, |status| status.code());
            // What nobody serves has no name of its own, so that no caller makes up series.
            let call = if code == Code::Unimplemented {
                "other"
            } else {
                &call
            };
            counts.answered(call, word(code), begin.elapsed());
            Ok(answer)
        })
    }
}

/// As gRPC names it.
const fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Recorder, Snapshot, encode};

    /// Answers as a service does whose call ends so.
    #[derive(Clone)]
    struct Ends(Option<Code>);

    impl Service<http::Request<()>> for Ends {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<()>) -> Self::Future {
            std::future::ready(Ok(match self.0 {
                None => http::Response::new(Body::empty()),
                Some(code) => Status::new(code, "no").into_http(),
            }))
        }
    }

    #[tokio::test]
    async fn calls_are_counted_by_name_and_code_and_unknown_ones_together() {
        let recorder = Recorder::default();
        for (path, code) in [
            ("/csi.v1.Controller/CreateVolume", None),
            ("/csi.v1.Controller/CreateVolume", Some(Code::Aborted)),
            ("/csi.v1.Controller/MadeUp", Some(Code::Unimplemented)),
        ] {
            let mut counted = Counted::new(Ends(code), recorder.volumes());
            let request = http::Request::builder().uri(path).body(()).unwrap();
            counted.call(request).await.unwrap();
        }
        let text = encode(&recorder, &Snapshot::default()).unwrap();
        for line in [
            "fairlead_csi_calls_total{call=\"CreateVolume\",code=\"Ok\"} 1",
            "fairlead_csi_calls_total{call=\"CreateVolume\",code=\"Aborted\"} 1",
            "fairlead_csi_calls_total{call=\"other\",code=\"Unimplemented\"} 1",
            "fairlead_csi_call_duration_seconds_count{call=\"CreateVolume\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(!text.contains("MadeUp"), "{text}");
    }
}
