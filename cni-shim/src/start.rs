//! The process's entry. Rust's own start-up code reads /proc/self/maps through the C library's
//! formatted input, which makes a static plugin a fifth larger in memory: what the plugin needs of
//! it is done here instead.
#![expect(
    unsafe_code,
    reason = "the C entry point, and the one signal that must be ignored"
)]

use rustix::io::fcntl_getfd;
use std::{
    ffi::{c_char, c_int},
    io::{stderr, stdin, stdout},
};

const SIGPIPE: c_int = 13;
const SIG_IGN: usize = 1;

unsafe extern "C" {
    fn signal(number: c_int, handler: usize) -> usize;
}

// SAFETY: the C library calls the one symbol of this name, with these arguments.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    // SAFETY: SIG_IGN is no function that could be called.
    unsafe { signal(SIGPIPE, SIG_IGN) };
    // A file opened later must not become standard output.
    let streams = [
        fcntl_getfd(stdin()).is_ok(),
        fcntl_getfd(stdout()).is_ok(),
        fcntl_getfd(stderr()).is_ok(),
    ];
    if streams.contains(&false) {
        return 1;
    }
    c_int::from(!crate::plugin())
}
