//! How the C library keeps memory. By default each thread gets an arena of its own, and what was freed
//! in one is no use to another: after a burst of short-lived threads an agent would keep several times
//! of what it ever needs at once.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "mallopt(3) has no safe wrapper")
)]

/// One arena for all threads, whatever `MALLOC_ARENA_MAX` says. To be called first, while there is one
/// thread.
pub(crate) fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number inside the C library; no other thread allocates yet.
    let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // Refused, the agent is only larger. Other C libraries have one arena anyway.
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(taken, 1, "mallopt knows M_ARENA_MAX");
}
