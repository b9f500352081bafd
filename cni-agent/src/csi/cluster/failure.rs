//! Why a task did not succeed, and whether people are told.

use super::work::Outcome;
use tonic::{Code, Status};

/// The end of a task that did not succeed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    /// Reason of the Event about the object; none: the log is enough.
    pub(super) reason: Option<&'static str>,
    pub(super) outcome: Outcome,
}

impl Failure {
    /// It may succeed later.
    pub(super) fn told(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            reason: Some(reason),
            outcome: Outcome::Failed,
        }
    }

    /// It won't succeed as it is asked for.
    pub(super) fn hopeless(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Hopeless,
            ..Self::told(reason, text)
        }
    }

    /// For the log alone.
    pub(super) fn quiet(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            reason: None,
            outcome: Outcome::Failed,
        }
    }

    /// The same, and it takes a change of the cluster.
    pub(super) fn waiting(text: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Hopeless,
            ..Self::quiet(text)
        }
    }

    /// The cluster is not as it was seen: news of it are on their way.
    pub(super) fn overtaken(text: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Done,
            ..Self::quiet(text)
        }
    }

    /// Another node may do it.
    pub(super) fn given_back(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::GaveBack,
            ..Self::told(reason, text)
        }
    }

    /// Of the driver.
    pub(super) fn driver(reason: &'static str, status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument => Self::hopeless(reason, status.message()),
            _ => Self::told(reason, status.message()),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let outcome = match &error {
            // Somebody else was faster, or it is gone: news of it are on their way.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Outcome::Done,
            _ => Outcome::Failed,
        };
        Self {
            outcome,
            ..Self::quiet(error.to_string())
        }
    }
}

/// Whether nothing goes on any more after this error of the driver. A lack of room is its own answer here, and the end of
/// the call: no transport is between that could say the same of a message.
pub(super) fn is_final(code: Code) -> bool {
    !matches!(
        code,
        Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted
    )
}

/// Whether the same can't succeed later.
pub(super) fn is_infeasible(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::OutOfRange | Code::NotFound
    )
}
