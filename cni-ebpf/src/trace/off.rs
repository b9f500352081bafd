//! Nothing is followed.

use crate::transport::Tuple;
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::trace::{Program, StepKind};

#[inline(always)]
pub(crate) const fn begin(_: &TcContext, _: Program) {}

#[inline(always)]
pub(crate) const fn end(_: i32) {}

#[inline(always)]
pub(crate) const fn step(_: StepKind, _: u32, _: u32) {}

#[inline(always)]
pub(crate) const fn rewritten(_: &Tuple) {}

#[inline(always)]
pub(crate) const fn judged(_: u32, _: u32, _: u32, _: u32, _: u32) {}
