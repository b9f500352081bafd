//! gRPC over Unix sockets.

use super::authority::Lenient;
use crate::server;
use futures_util::{
    TryStreamExt,
    stream::{self, Stream},
};
use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt as _, path::Path};
use tokio::net::{UnixListener, UnixStream};

/// Binds a socket for root alone, in place of what a dead process left there.
///
/// # Errors
/// When the folder can't be written.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)?;
    }
    server::bind(path).map(|(listener, _)| listener)
}

/// Connections as they come.
pub(crate) fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

/// The same, from clients that may call the socket what they like.
pub(crate) fn lenient(listener: UnixListener) -> impl Stream<Item = io::Result<Lenient>> {
    connections(listener).map_ok(Lenient::new)
}
