//! Follows the packets of one talk. Every function is a subprogram of its own: to the verifier all of them are
//! walked once for each place that calls them, and none has more than some words on the stack, which is 512
//! bytes for all.

use crate::{
    flow::{UNTOUCHED, unpack_code},
    maps, policy,
    transport::Tuple,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    event::Event,
    policy::EndpointPolicy,
    trace::{DIRECTION_SHIFT, Judgement, Program, StepKind},
    verdict::{DropReason, Path},
};

/// Follows this packet, if it is meant.
#[inline(always)]
pub(crate) fn begin(ctx: &TcContext, program: Program) {
    let _meant_or_not = maps::begin_walk(ctx, program as u32);
}

/// Tells of it.
#[inline(always)]
pub(crate) fn end(action: i32) {
    let _told_or_lost = maps::end_walk(action);
}

/// Something was done or found out.
#[inline(always)]
pub(crate) fn step(kind: StepKind, value: u32, endpoint: u32) {
    // What policies watch is told by what they said.
    if kind as u32 == StepKind::Path as u32 && value == Path::Audited as u32 {
        return;
    }
    let _kept_or_not = maps::add_step(kind as u32, value, endpoint);
}

/// The packet got these addresses and ports.
#[inline(always)]
pub(crate) fn rewritten(to: &Tuple) {
    let _kept_or_not = maps::add_rewritten(to);
}

/// What policies said of it. `flags`: those of the endpoint's row. `told`, `packed`: what judging it ended with.
#[inline(always)]
pub(crate) fn judged(id: u32, side: u32, flags: u32, told: u32, packed: u32) {
    let direction = side & (policy::INGRESS | policy::EGRESS);
    let asked = flags & (direction | direction << EndpointPolicy::AUDIT_SHIFT) != 0;
    let said = match unpack_code(packed) {
        Err(DropReason::PolicyIngress | DropReason::PolicyEgress) => Judgement::Denied,
        // It says itself what it is.
        Err(_) => return,
        Ok(_) if told & Event::AUDITED != 0 => Judgement::Audited,
        Ok(_) if told != 0 => Judgement::Begins,
        Ok(UNTOUCHED) => Judgement::NotKnown,
        Ok(_) if asked => Judgement::Known,
        Ok(_) => Judgement::NotAsked,
    };
    let value = direction << DIRECTION_SHIFT | said as u32;
    step(StepKind::Judged, value, id);
}
