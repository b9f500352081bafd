//! What the kernel tells of its devices, as it happens (NETLINK_KOBJECT_UEVENT): only that something changed is taken
//! from it, and only from the kernel itself.

use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket,
    protocols::NETLINK_KOBJECT_UEVENT,
};
use std::io;

/// The group of messages that the kernel sends; that of udev's own is 2.
const KERNEL: u32 = 1;
/// Longer than any message: the kernel makes them in 2 KiB.
const LONGEST: usize = 8 << 10;
/// Room for a storm of messages. What doesn't fit is told as lost, which is a change too.
const ROOM: i32 = 1 << 20;
const CHANGES: [&[u8]; 8] = [
    b"add@",
    b"remove@",
    b"change@",
    b"move@",
    b"bind@",
    b"unbind@",
    b"online@",
    b"offline@",
];

/// The kernel's messages.
pub(super) struct Uevents(TokioSocket);

impl Uevents {
    /// Within a runtime.
    ///
    /// # Errors
    /// The socket can't be had.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_KOBJECT_UEVENT)?;
        // What the node grants will do.
        let _granted = socket.socket_ref().set_rx_buf_sz(ROOM);
        socket.socket_mut().bind(&SocketAddr::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// Waits for a message of the kernel's that something changed.
    ///
    /// # Errors
    /// There will be no more.
    pub(super) async fn next(&self) -> io::Result<()> {
        let mut message = Vec::with_capacity(LONGEST);
        loop {
            message.clear();
            match self.0.recv_from(&mut message).await {
                Ok(sender) if is_change(&sender, &message) => return Ok(()),
                Ok(_) => {}
                // Some were lost: whatever they said.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// PURE: processes have numbers, the kernel has none.
fn is_change(sender: &SocketAddr, message: &[u8]) -> bool {
    sender.port_number() == 0 && CHANGES.iter().any(|change| message.starts_with(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_tells_changes() {
        let kernel = SocketAddr::new(0, KERNEL);
        let process = SocketAddr::new(4711, KERNEL);
        let add = b"add@/devices/pci0000:00/0000:00:14.0/usb1/1-2\0ACTION=add\0";
        assert!(is_change(&kernel, add));
        assert!(!is_change(&process, add));
        for other in [&b"libudev\0"[..], b"add", b"", b"adding@x"] {
            assert!(!is_change(&kernel, other));
        }
    }

    #[tokio::test]
    async fn the_socket_is_had_without_rights() {
        let uevents = Uevents::open().unwrap();
        // The machine is silent, or it isn't: both are fine.
        let short = std::time::Duration::from_millis(1);
        drop(tokio::time::timeout(short, uevents.next()).await);
    }
}
