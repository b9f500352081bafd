//! Values fixed when the programs are loaded.

/// Name of the read-only global that holds the log level of the programs: 0 off, 1 error, 2 warn,
/// 3 info, 4 debug, 5 trace. aya-log's own; the verifier removes what a level switches off.
pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
