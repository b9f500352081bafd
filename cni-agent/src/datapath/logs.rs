//! Carries what the programs log (aya-log) into the agent's log.

use super::DatapathError;
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use std::time::Duration;

/// Lines wait in a ring of 128 KiB: enough for a thousand in this time. There is nothing to read
/// unless somebody debugs, so looking often costs nobody anything.
const PAUSE: Duration = Duration::from_millis(20);

/// The programs' log; at most one reader gets each line.
pub struct LogReader {
    logger: EbpfLogger<Bridge>,
}

impl LogReader {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        EbpfLogger::init_with_logger(ebpf, Bridge)
            .map(|logger| Self { logger })
            .map_err(|fault| DatapathError::Log(fault.to_string()))
    }

    /// Passes lines on until the task is stopped.
    pub async fn run(mut self) {
        loop {
            self.logger.flush();
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// From aya-log's facade to ours. The level was chosen when the programs were loaded.
struct Bridge;

impl Log for Bridge {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (text, program) = (record.args(), record.target());
        match record.level() {
            Level::Error => tracing::error!(target: "fairlead::ebpf", program, "{text}"),
            Level::Warn => tracing::warn!(target: "fairlead::ebpf", program, "{text}"),
            Level::Info => tracing::info!(target: "fairlead::ebpf", program, "{text}"),
            Level::Debug => tracing::debug!(target: "fairlead::ebpf", program, "{text}"),
            Level::Trace => tracing::trace!(target: "fairlead::ebpf", program, "{text}"),
        }
    }

    fn flush(&self) {}
}
