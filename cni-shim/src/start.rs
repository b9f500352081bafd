//! The process's entry. Rust's own start-up code reads /proc/self/maps through the C library's
//! formatted input, which makes a static plugin a fifth larger in memory: what the plugin needs of
//! it is done here instead.
#![expect(
    unsafe_code,
    reason = "the C entry point, and the one signal that must be ignored"
)]

use rustix::{
    fs::{Mode, OFlags, open},
    io::{Errno, fcntl_getfd},
};
use std::{
    ffi::{CStr, c_char, c_int},
    io::{stderr, stdin, stdout},
    os::fd::IntoRawFd,
};

const SIGPIPE: c_int = 13;
const SIG_IGN: usize = 1;

unsafe extern "C" {
    fn signal(number: c_int, handler: usize) -> usize;
}

/// Opens what is closed of standard input and standard error: a file opened later must become
/// neither, and the error that a runtime is told by standard output must reach it all the same.
///
/// # Errors
/// When standard output is closed: nobody could be told anything. When there is no /dev/null.
fn fill_streams() -> Result<(), Errno> {
    fcntl_getfd(stdout())?;
    for closed in [
        fcntl_getfd(stdin()).is_err(),
        fcntl_getfd(stderr()).is_err(),
    ] {
        if closed {
            // The kernel gives the lowest free number, which is the closed stream's; it is kept open.
            let null = open("/dev/null", OFlags::RDWR, Mode::empty())?;
            let _stream = null.into_raw_fd();
        }
    }
    Ok(())
}

// SAFETY: the C library calls the one symbol of this name, with these arguments.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: SIG_IGN is no function that could be called.
    unsafe { signal(SIGPIPE, SIG_IGN) };
    if fill_streams().is_err() {
        return 1;
    }
    let called = match count {
        // SAFETY: there is a first argument, which is text that ends with zero and lives to the end.
        1.. => unsafe { CStr::from_ptr(*arguments) }.to_bytes(),
        _ => &[],
    };
    c_int::from(!crate::plugin(called))
}
