//! Why a call failed, for who reads it: it may reach end users, so that it has no path of the host and no secret.

use tonic::{Code, Status};

/// The failure of a call; each kind has one code of gRPC, as the specification's tables name it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// A field can't be used.
    #[error("{field}: {message}")]
    Invalid {
        field: &'static str,
        message: String,
    },
    #[error("{0}")]
    NotFound(String),
    /// It is there, and another one than is asked for.
    #[error("{0}")]
    Exists(String),
    /// There is no room.
    #[error("{0}")]
    Exhausted(String),
    #[error("{0}")]
    OutOfRange(String),
    /// It would do in another state.
    #[error("{0}")]
    Precondition(String),
    /// Something else goes on with it: the same call again may succeed.
    #[error("{0}")]
    Busy(String),
    /// The machine fails us.
    #[error("{0}")]
    Internal(String),
}

impl Fault {
    pub(super) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            message: message.into(),
        }
    }

    /// Of a field that has to be there.
    pub(super) fn missing(field: &'static str) -> Self {
        Self::invalid(field, "is missing")
    }

    /// Of the machine: what failed, without where.
    pub(super) fn internal(action: &str, error: impl std::fmt::Display) -> Self {
        Self::Internal(format!("{action}: {error}"))
    }

    pub(super) const fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Exists(_) => Code::AlreadyExists,
            Self::Exhausted(_) => Code::ResourceExhausted,
            Self::OutOfRange(_) => Code::OutOfRange,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Busy(_) => Code::Aborted,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code(), fault.to_string())
    }
}
