//! Why slices can't be published, for people, with the remedy where there is one.

use crate::source::kubernetes::with_sources;
use kube::runtime::watcher;

/// What went wrong, for people.
pub(super) struct Fault {
    pub(super) text: String,
    /// News of it are on their way.
    pub(super) is_quiet: bool,
}

fn fault(code: Option<u16>, text: String) -> Fault {
    let text = match code {
        Some(403) => format!("{text}; give the agent's role that right (deploy/devices/dra)"),
        _ => text,
    };
    Fault {
        text,
        is_quiet: false,
    }
}

/// Of a write.
pub(super) fn of_write(error: &kube::Error) -> Fault {
    let code = code(error);
    Fault {
        is_quiet: code == Some(409),
        ..fault(code, with_sources(error))
    }
}

/// Of the watch.
pub(super) fn of_watch(error: &watcher::Error) -> Fault {
    let code = match error {
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => code(error),
        watcher::Error::NoResourceVersion => None,
    };
    match code {
        Some(404) => Fault {
            text: "the cluster does not serve resource.k8s.io/v1, as Kubernetes does from 1.34 on: write `serve: devicePlugin`"
                .to_owned(),
            is_quiet: false,
        },
        code => fault(code, with_sources(error)),
    }
}

/// What the API server says, if it says anything.
pub(super) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
