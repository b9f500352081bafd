//! Values fixed when the programs are loaded.

/// Name of the read-only global that holds the log level of the programs (aya-log): 0 off,
/// 1 error, 2 warn, 3 info, 4 debug, 5 trace.
pub const LOG_LEVEL: &str = "LOG_LEVEL";
