//! The kernel's helpers as safe functions: each takes values, none a packet pointer.
#![expect(unsafe_code, reason = "calls of kernel helpers")]

use crate::address::Ip;
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_REDIRECT,
        bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, bpf_hdr_start_off::BPF_HDR_START_NET,
        bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::{
        bpf_check_mtu, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_head,
        bpf_skb_change_tail, bpf_skb_change_type,
        generated::{
            bpf_ktime_get_coarse_ns, bpf_l3_csum_replace, bpf_l4_csum_replace,
            bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
        },
    },
    programs::TcContext,
};
use cni_ebpf_common::verdict::DropReason;
use core::{mem::size_of, ptr};

const PACKET_HOST: u32 = 0;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Gives the packet to the namespace behind a veth's host end, as if it had arrived there.
/// Kernel 5.10.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> Result<i32, DropReason> {
    // SAFETY: takes two integers.
    redirected(unsafe { bpf_redirect_peer(ifindex, 0) })
}

/// Sends the frame out of an interface as it is.
#[inline(always)]
pub(crate) fn redirect_out(ifindex: u32) -> Result<i32, DropReason> {
    // SAFETY: takes two integers.
    redirected(unsafe { bpf_redirect(ifindex, 0) })
}

/// Sends the packet by an interface to a neighbour, whose MAC the kernel finds. Kernel 5.10.
#[inline(always)]
pub(crate) fn redirect_neighbor(ifindex: u32, next_hop: Ip) -> Result<i32, DropReason> {
    let mut params = if next_hop.is_v4() {
        bpf_redir_neigh {
            nh_family: AF_INET,
            // The whole union is set: the kernel reads all of it.
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: [next_hop.v4(), 0, 0, 0],
            },
        }
    } else {
        let [high, low] = next_hop.words();
        let half = |word: u64, i: usize| {
            let bytes = word.to_ne_bytes();
            u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]])
        };
        bpf_redir_neigh {
            nh_family: AF_INET6,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: [half(high, 0), half(high, 4), half(low, 0), half(low, 4)],
            },
        }
    };
    // SAFETY: the parameters live on the stack during the call, and their size is given.
    redirected(unsafe {
        bpf_redirect_neigh(
            ifindex,
            &raw mut params,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        )
    })
}

/// Sends the packet by an interface to wherever the host's routes by it lead. Kernel 5.10.
#[inline(always)]
pub(crate) fn redirect_route(ifindex: u32) -> Result<i32, DropReason> {
    // SAFETY: no parameters means that the kernel looks the route up.
    redirected(unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) })
}

#[inline(always)]
fn redirected(action: i64) -> Result<i32, DropReason> {
    if action == TC_ACT_REDIRECT as i64 {
        Ok(action as i32)
    } else {
        Err(DropReason::Redirect)
    }
}

/// Whether each segment of a large buffer, encapsulated or not, fits an interface. Kernel 5.12.
#[inline(always)]
pub(crate) fn segments_fit(ctx: &TcContext, ifindex: u32) -> bool {
    let mut mtu = 0;
    // SAFETY: the out parameter lives on the stack during the call.
    let result = unsafe {
        bpf_check_mtu(
            ctx.as_ptr(),
            ifindex,
            &raw mut mtu,
            0,
            BPF_MTU_CHK_SEGS.into(),
        )
    };
    result == 0
}

/// Writes one byte and corrects a checksum that the device has computed over the packet.
#[inline(always)]
pub(crate) fn store_byte(ctx: &TcContext, at: u32, value: u8) -> Result<(), DropReason> {
    store(ctx, at, &value, BPF_F_RECOMPUTE_CSUM.into())
}

/// Writes words and corrects a checksum that the device has computed over the packet.
#[inline(always)]
pub(crate) fn store_counted<T: Plain>(
    ctx: &TcContext,
    at: u32,
    value: &T,
) -> Result<(), DropReason> {
    store(ctx, at, value, BPF_F_RECOMPUTE_CSUM.into())
}

/// Writes words whose change a checksum within the packet makes good.
#[inline(always)]
pub(crate) fn store_balanced<T: Plain>(
    ctx: &TcContext,
    at: u32,
    value: &T,
) -> Result<(), DropReason> {
    store(ctx, at, value, 0)
}

/// Integers and arrays of them: no padding that the kernel would copy.
pub(crate) trait Plain {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for [u32; 2] {}
impl Plain for [u64; 2] {}
impl Plain for [u64; 4] {}

#[inline(always)]
fn store<T: Plain>(ctx: &TcContext, at: u32, value: &T, flags: u64) -> Result<(), DropReason> {
    // SAFETY: the value lives during the call, and its size is given; the kernel checks the offset.
    let result = unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb,
            at,
            ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
            flags,
        )
    };
    done(result)
}

/// Corrects the checksum of an IPv4 header, or one without a pseudo header that changes, by a ones'
/// complement difference of what it covers.
#[inline(always)]
pub(crate) fn correct_header(ctx: &TcContext, at: u32, change: u32) -> Result<(), DropReason> {
    // SAFETY: takes integers; the kernel checks the offset.
    done(unsafe { bpf_l3_csum_replace(ctx.skb.skb, at, 0, change.into(), 0) })
}

/// Corrects a TCP or UDP checksum after a change of addresses, as the pseudo header has them.
/// `optional`: 0 means that there is none, and stays.
#[inline(always)]
pub(crate) fn correct_addresses(
    ctx: &TcContext,
    at: u32,
    change: u32,
    optional: bool,
) -> Result<(), DropReason> {
    let flags = u64::from(BPF_F_PSEUDO_HDR) | mangled(optional);
    // SAFETY: takes integers; the kernel checks the offset.
    done(unsafe { bpf_l4_csum_replace(ctx.skb.skb, at, 0, change.into(), flags) })
}

/// Corrects a TCP or UDP checksum after a change of 4 bytes that it covers. One that is still to be
/// computed will cover them anyway, and is left alone.
#[inline(always)]
pub(crate) fn correct_word(
    ctx: &TcContext,
    at: u32,
    (old, new): (u32, u32),
    optional: bool,
) -> Result<(), DropReason> {
    let flags = 4 | mangled(optional);
    // SAFETY: takes integers; the kernel checks the offset.
    done(unsafe { bpf_l4_csum_replace(ctx.skb.skb, at, old.into(), new.into(), flags) })
}

#[inline(always)]
fn mangled(optional: bool) -> u64 {
    if optional {
        BPF_F_MARK_MANGLED_0.into()
    } else {
        0
    }
}

#[inline(always)]
fn done(result: i64) -> Result<(), DropReason> {
    if result == 0 {
        Ok(())
    } else {
        Err(DropReason::Redirect)
    }
}

/// Nanoseconds of the monotonic clock, to some milliseconds. Kernel 5.11.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Makes the packet this long.
#[inline(always)]
pub(crate) fn resize(ctx: &TcContext, len: u32) -> Result<(), DropReason> {
    // SAFETY: the context is the program's own.
    let result = unsafe { bpf_skb_change_tail(ctx.skb.skb, len, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(DropReason::Redirect)
    }
}

/// Adds this many zeros in front of the packet, as its new Ethernet header.
#[inline(always)]
pub(crate) fn add_header(ctx: &TcContext, len: u32) -> Result<(), DropReason> {
    // SAFETY: the context is the program's own.
    let result = unsafe { bpf_skb_change_head(ctx.skb.skb, len, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(DropReason::Redirect)
    }
}

/// First 16 bytes of the network header, wherever the packet starts.
#[inline(always)]
pub(crate) fn network_header(ctx: &TcContext) -> Option<[u64; 2]> {
    let mut words = [0u64; 2];
    // SAFETY: the words live on the stack during the call, and their size is given.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            0,
            (&raw mut words).cast(),
            size_of_val(&words) as u32,
            BPF_HDR_START_NET,
        )
    };
    (result == 0).then_some(words)
}

/// Says that the packet is addressed to its receiver: it was a broadcast before.
#[inline(always)]
pub(crate) fn address_to_receiver(ctx: &TcContext) -> Result<(), DropReason> {
    // SAFETY: the context is the program's own.
    let result = unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
    if result == 0 {
        Ok(())
    } else {
        Err(DropReason::Redirect)
    }
}
