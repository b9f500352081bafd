//! Asks a running agent.

use crate::query::Query;
use serde::de::DeserializeOwned;
use std::{path::Path, time::Duration};

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Sends one question and reads the answer.
///
/// # Errors
/// Says what to do when no agent answers.
pub(super) fn ask<T: DeserializeOwned>(socket: &Path, query: Query) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("can't start: {e}"))?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(DEADLINE, crate::server::query(socket, query)).await
    });
    let value = match answer {
        Err(_late) => Err(format!(
            "the agent at {} gave no answer within {} s; its log says why",
            socket.display(),
            DEADLINE.as_secs()
        )),
        Ok(answer) => answer,
    }?;
    serde_json::from_value(value)
        .map_err(|e| format!("the agent's answer is of another version: {e}"))
}
