//! The address in a socket's system call, as a program of a control group reads and changes it.
//! Each word is read and written by itself: the verifier knows no other access.
#![expect(
    unsafe_code,
    reason = "access to the context, and calls of kernel helpers"
)]

use crate::address::Ip;
use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_set_retval,
    },
    programs::SockAddrContext,
};

/// The call of a socket. `V4`: the program's hook is one of IPv4, which has an address of its own.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a, const V4: bool>(&'a SockAddrContext);

impl<'a, const V4: bool> Call<'a, V4> {
    /// `V4` must be that of the hook, or the verifier refuses the program.
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a SockAddrContext) -> Self {
        Self(ctx)
    }

    /// Read anew for each use: the compiler would else keep `pointer + offset` between two of them,
    /// and the verifier wants the context's own pointer.
    #[inline(always)]
    fn raw(self) -> *mut bpf_sock_addr {
        // SAFETY: a field of a living reference.
        unsafe { (&raw const self.0.sock_addr).read_volatile() }
    }

    /// The protocol's number.
    #[inline(always)]
    pub(crate) fn protocol(self) -> u32 {
        // SAFETY: one aligned word of the program's own context.
        unsafe { (&raw const (*self.raw()).protocol).read_volatile() }
    }

    /// The address and the port, as it lies in memory. An IPv4 address that an IPv6 socket talks to
    /// is mapped, as all are here.
    #[inline(always)]
    pub(crate) fn peer(self) -> (Ip, u16) {
        let ctx = self.raw();
        // SAFETY: aligned words of the program's own context; the kernel lets the IPv6 address be
        // read by two of 8 bytes.
        let (ip, port) = unsafe {
            let ip = if V4 {
                Ip::from_v4((&raw const (*ctx).user_ip4).read_volatile())
            } else {
                let words = (&raw const (*ctx).user_ip6).cast::<u64>();
                Ip::from_words([words.read_volatile(), words.add(1).read_volatile()])
            };
            (ip, (&raw const (*ctx).user_port).read_volatile())
        };
        (ip, port as u16)
    }

    /// Changes both. An IPv4 hook takes no IPv6 address: it is left as it is.
    #[inline(always)]
    pub(crate) fn set_peer(self, (ip, port): (Ip, u16)) {
        let ctx = self.raw();
        if V4 && !ip.is_v4() {
            return;
        }
        // SAFETY: as in `peer`.
        unsafe {
            if V4 {
                (&raw mut (*ctx).user_ip4).write_volatile(ip.v4());
            } else {
                let [high, low] = ip.words();
                let words = (&raw mut (*ctx).user_ip6).cast::<u64>();
                words.write_volatile(high);
                words.add(1).write_volatile(low);
            }
            (&raw mut (*ctx).user_port).write_volatile(port.into());
        }
    }

    /// The kernel's number of the socket.
    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_socket_cookie(self.0.as_ptr()) }
    }

    /// The kernel's number of the socket's network namespace. Kernel 5.7.
    #[inline(always)]
    pub(crate) fn netns(self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) }
    }

    /// Lets the call fail with an error number. Kernel 5.18.
    #[inline(always)]
    pub(crate) fn fail(self, errno: i32) -> i32 {
        // SAFETY: takes an integer. It can't fail for a number of an error.
        let _always_set = unsafe { bpf_set_retval(-errno) };
        REFUSE
    }
}

/// The call goes on.
pub(crate) const ALLOW: i32 = 1;
/// The call fails.
const REFUSE: i32 = 0;

/// A random number.
#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { bpf_get_prandom_u32() }
}
