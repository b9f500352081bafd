//! The log and its level, which can be changed while the agent runs: what goes wrong on a node is rarely
//! there any more after a restart.

use crate::{cni::CniError, config::LogFormat, query::LogRow};
use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};
use tracing_subscriber::{
    EnvFilter, Registry,
    layer::SubscriberExt,
    reload::{self, Handle},
    util::{SubscriberInitExt, TryInitError},
};

/// Longest filter that is taken.
const LONGEST: usize = 1024;

/// The client of the API server tells each attempt at one that is away or refuses; the source tells it
/// once.
const QUIET: [&str; 2] = [
    "kube_client::client::builder=off",
    "kube_runtime::watcher=off",
];

/// The level in force, and the way to another.
#[derive(Clone)]
pub struct LogLevel(Arc<Mutex<State>>);

struct State {
    /// As it was given.
    filter: String,
    handle: Handle<EnvFilter, Registry>,
}

/// Logs to standard error from here on.
///
/// # Errors
/// A filter that can't be read; a log that was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<LogLevel, String> {
    let (level, layer) = LogLevel::new(filter)?;
    let registry = tracing_subscriber::registry().with(layer);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|e: TryInitError| e.to_string())?;
    Ok(level)
}

impl LogLevel {
    fn new(filter: &str) -> Result<(Self, reload::Layer<EnvFilter, Registry>), String> {
        let (layer, handle) = reload::Layer::new(parse(filter)?);
        let filter = filter.to_owned();
        Ok((Self(Arc::new(Mutex::new(State { filter, handle }))), layer))
    }

    /// The filter in force, after changing it to `set` if that is given.
    ///
    /// # Errors
    /// A filter that can't be read: nothing changes then.
    pub fn ask(&self, set: Option<&str>) -> Result<LogRow, CniError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.filter.clone();
        if let Some(filter) = set {
            let fault = |fault: String| CniError::decode("the log filter", &fault);
            let parsed = parse(filter).map_err(fault)?;
            let changed = state.handle.reload(parsed);
            changed.map_err(|e| CniError::internal(&e.to_string()))?;
            filter.clone_into(&mut state.filter);
            tracing::warn!(filter, before, "another log level");
        }
        let filter = state.filter.clone();
        Ok(LogRow { filter, before })
    }
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    let remedy = "try info or info,cni_agent=debug";
    if filter.trim().is_empty() {
        return Err(format!("it is empty; {remedy}, or off"));
    }
    if filter.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} bytes; {remedy}"));
    }
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("{e}; {remedy}"))?;
    let quiet = QUIET.iter().filter_map(|quiet| quiet.parse().ok());
    Ok(quiet.fold(filter, EnvFilter::add_directive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn another_level_counts_at_once_and_a_bad_one_changes_nothing() {
        let (level, layer) = LogLevel::new("info").unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(!tracing::enabled!(Level::DEBUG));
            let row = level.ask(Some("debug")).unwrap();
            assert_eq!(
                (row.before.as_str(), row.filter.as_str()),
                ("info", "debug")
            );
            assert!(tracing::enabled!(Level::DEBUG));
            for bad in ["", "info,=,", "cni_agent=loud"] {
                let error = level.ask(Some(bad)).unwrap_err();
                assert!(error.to_string().contains("try info"), "{bad}: {error}");
            }
            assert_eq!(level.ask(None).unwrap().filter, "debug");
            assert!(tracing::enabled!(Level::DEBUG));
        });
    }
}
