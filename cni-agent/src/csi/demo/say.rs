//! What the demonstration prints: numbered steps, each with what it means, its request and its answer.

use crate::csi::told::{self, Told};
use prost_reflect::prost::Message;
use std::time::Duration;

/// Prints lines.
pub(super) struct Say<P> {
    print: P,
    steps: usize,
}

impl<P: FnMut(&str)> Say<P> {
    pub(super) fn new(print: P) -> Self {
        Self { print, steps: 0 }
    }

    /// How many steps there were.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    pub(super) fn plain(&mut self, line: &str) {
        (self.print)(line);
    }

    /// A part of the life begins.
    pub(super) fn part(&mut self, title: &str) {
        self.plain("");
        self.plain(&format!("== {title}"));
    }

    /// A step begins: who does what.
    pub(super) fn step(&mut self, what: &str, meaning: &str) {
        self.steps += 1;
        let step = self.steps;
        self.plain(&format!("{step:3}. {what}: {meaning}"));
    }

    /// What is asked (`>`), answered (`<`) or seen (`=`).
    pub(super) fn detail(&mut self, mark: char, text: &str) {
        self.plain(&format!("     {mark} {text}"));
    }

    /// It did what it should.
    pub(super) fn held(&mut self, took: Duration) {
        let millis = took.as_secs_f64() * 1000.0;
        self.plain(&format!("     held, {millis:.1} ms"));
    }

    /// It did not.
    pub(super) fn broken(&mut self, problem: &str) {
        self.plain(&format!("     BROKEN: {problem}"));
    }
}

/// Which of a call's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Request,
    Response,
}

/// A message as the driver's log has it: without secrets.
pub(super) fn text_of(call: &str, way: Way, message: &impl Message) -> String {
    const INTERFACES: [&str; 4] = [
        "csi.v1.Identity",
        "csi.v1.Controller",
        "csi.v1.Node",
        "pluginregistration.v1.Registration",
    ];
    let mut interfaces = INTERFACES.iter();
    let method = interfaces.find_map(|of| told::method(&format!("/{of}/{call}")));
    let Some(method) = method else {
        return format!("<{} bytes>", message.encoded_len());
    };
    let description = match way {
        Way::Request => method.input(),
        Way::Response => method.output(),
    };
    Told::read(description, &message.encode_to_vec()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::csi::{CreateVolumeRequest, ProbeResponse};

    #[test]
    fn messages_are_shown_as_in_the_log() {
        let asked = CreateVolumeRequest {
            name: "pvc-1".into(),
            secrets: [("key".to_owned(), "hush".to_owned())].into(),
            ..CreateVolumeRequest::default()
        };
        let shown = text_of("CreateVolume", Way::Request, &asked);
        assert!(
            shown.contains("name: \"pvc-1\"") && !shown.contains("hush"),
            "{shown}"
        );
        let answer = ProbeResponse { ready: Some(true) };
        let shown = text_of("Probe", Way::Response, &answer);
        assert!(shown.contains("ready"), "{shown}");
    }
}
