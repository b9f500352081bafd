//! The source against an API server on loopback that plays what real ones do: lists and watches, streamed
//! or in pages, bookmarks, 410 Gone, disconnects, objects that can't be used, and being away.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod fake;
mod life;
mod scale;
mod watching;
