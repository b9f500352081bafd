//! Builds frames.
