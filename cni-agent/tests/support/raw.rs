//! Sends frames as they are from an interface, as a hostile pod does.
#![expect(unsafe_code, reason = "packet sockets have no safe wrapper")]

use super::Netns;
use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Sends each frame from an interface of a namespace.
pub fn inject(netns: &Netns, ifname: &str, frames: &[Vec<u8>]) {
    let ifindex = i32::try_from(netns.ifindex(ifname)).expect("a small number");
    netns.within(|| {
        let socket = open().expect("root may open a packet socket");
        for frame in frames {
            send(&socket, ifindex, frame).unwrap_or_else(|e| panic!("{} bytes: {e}", frame.len()));
        }
    });
}

/// Sends a frame whose checksum the device shall complete, the sum beginning at `from` bytes: a
/// driver's promise that the kernel holds everyone after it to.
pub fn inject_with_checksum(netns: &Netns, ifname: &str, frame: &[u8], from: u16) {
    const NEEDS_CSUM: u8 = 1;
    let ifindex = i32::try_from(netns.ifindex(ifname)).expect("a small number");
    // `struct virtio_net_hdr`.
    let mut header = [0; 10];
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&from.to_ne_bytes());
    netns.within(|| {
        let socket = open().expect("root may open a packet socket");
        let on: libc::c_int = 1;
        // SAFETY: the option is an integer that lives until the call ends, and its size is given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of_val(&on) as u32,
            )
        };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        send(&socket, ifindex, &[&header, frame].concat()).unwrap_or_else(|e| panic!("{e}"));
    });
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: takes three integers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(socket: &OwnedFd, ifindex: i32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: a structure of integers, for which zeros are a value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex;
    // SAFETY: both buffers live until the call ends, and their sizes are given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as u32,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Runs a function on a thread with mounts of its own: what it mounts nobody else sees.
pub fn with_own_mounts<T: Send>(function: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: file descriptors stay shared, which is all that could go wrong.
            unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
                .expect("root may have mounts of its own");
            super::run("mount --make-rprivate /");
            function()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
