//! Calls of the driver and looks at what became of them: each is shown, and held to what it should do.

use super::{
    DRIVER,
    say::{Way, text_of},
    walk::{Driver, Walk},
};
use node_api::{
    csi::{
        controller_client::ControllerClient, identity_client::IdentityClient,
        node_client::NodeClient,
    },
    registration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
};
use prost_reflect::prost::Message;
use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// How long the driver has to open its pool.
const PATIENCE: Duration = Duration::from_secs(60);

impl<P: FnMut(&str) + Send> Walk<'_, P> {
    /// Asks the driver, and shows both.
    pub(super) async fn call<Q: Message, A: Message>(
        &mut self,
        call: &str,
        meaning: &str,
        asked: Q,
        send: impl AsyncFnOnce(Q) -> Result<Response<A>, Status>,
    ) -> Result<A, String> {
        match self.ask(call, meaning, asked, send).await? {
            (Ok(answer), took) => {
                self.say.held(took);
                Ok(answer)
            }
            (Err(status), _) => Err(self.broken(format!(
                "{call} was refused: {:?}: {}",
                status.code(),
                status.message()
            ))),
        }
    }

    /// The same of a call that has to be refused with a code.
    pub(super) async fn refused<Q: Message, A: Message>(
        &mut self,
        (call, meaning): (&str, &str),
        code: Code,
        asked: Q,
        send: impl AsyncFnOnce(Q) -> Result<Response<A>, Status>,
    ) -> Result<(), String> {
        match self.ask(call, meaning, asked, send).await? {
            (Err(status), took) if status.code() == code => {
                self.say.held(took);
                Ok(())
            }
            (Err(status), _) => {
                let found = status.code();
                Err(self.broken(format!("refused with {found:?}, not with {code:?}")))
            }
            (Ok(_), _) => Err(self.broken(format!("{call} was not refused"))),
        }
    }

    pub(super) async fn ask<Q: Message, A: Message>(
        &mut self,
        call: &str,
        meaning: &str,
        asked: Q,
        send: impl AsyncFnOnce(Q) -> Result<Response<A>, Status>,
    ) -> Result<(Result<A, Status>, Duration), String> {
        self.say.step(call, meaning);
        let request = text_of(call, Way::Request, &asked);
        self.say.detail('>', &request);
        let begin = Instant::now();
        let answer = send(asked).await.map(Response::into_inner);
        let took = begin.elapsed();
        let text = match &answer {
            Ok(answer) => text_of(call, Way::Response, answer),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        self.say.detail('<', &text);
        Ok((answer, took))
    }

    pub(super) fn broken(&mut self, problem: String) -> String {
        self.say.broken(&problem);
        let step = self.say.steps();
        format!("step {step}: {problem}")
    }

    /// Looks at something: what there is to see, or what is wrong.
    pub(super) async fn look<T: Send + 'static>(
        &mut self,
        (what, meaning): (&str, &str),
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
        judge: impl FnOnce(&T) -> Result<String, String>,
    ) -> Result<T, String> {
        self.say.step(what, meaning);
        let begin = Instant::now();
        let done = tokio::task::spawn_blocking(work).await;
        let took = begin.elapsed();
        let done = done.map_err(|error| self.broken(error.to_string()))?;
        let seen = done.map_err(|error| self.broken(error.to_string()))?;
        match judge(&seen) {
            Ok(text) => {
                self.say.detail('=', &text);
                self.say.held(took);
                Ok(seen)
            }
            Err(problem) => Err(self.broken(problem)),
        }
    }

    pub(super) async fn register(&mut self) -> Result<Driver, String> {
        self.say.part("The kubelet finds the driver");
        let socket = self.config.registry_socket();
        let channel = self.connect(&socket).await?;
        let mut registration = RegistrationClient::new(channel);
        self.say.step(
            "GetInfo",
            "the kubelet finds a socket in plugins_registry and asks who it is",
        );
        let begin = Instant::now();
        let info = registration.get_info(InfoRequest {}).await;
        let info = info
            .map_err(|status| self.broken(status.to_string()))?
            .into_inner();
        self.say
            .detail('<', &text_of("GetInfo", Way::Response, &info));
        if (info.r#type.as_str(), info.name.as_str()) != ("CSIPlugin", DRIVER) {
            return Err(self.broken("another plugin answers".to_owned()));
        }
        self.say.held(begin.elapsed());
        self.say
            .step("NotifyRegistrationStatus", "it takes the driver");
        let begin = Instant::now();
        let taken = RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        };
        let told = registration.notify_registration_status(taken).await;
        told.map_err(|status| self.broken(status.to_string()))?;
        self.say.held(begin.elapsed());
        let channel = self.connect(Path::new(&info.endpoint)).await?;
        Ok(Driver {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        })
    }

    /// Waits for a socket and connects.
    pub(super) async fn connect(&mut self, socket: &Path) -> Result<Channel, String> {
        const AGAIN: Duration = Duration::from_millis(10);
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        let end = Instant::now() + PATIENCE;
        loop {
            match endpoint.connect().await {
                Ok(channel) => return Ok(channel),
                Err(error) if Instant::now() >= end => {
                    return Err(format!("nobody answers at {}: {error}", socket.display()));
                }
                Err(_not_yet) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}
