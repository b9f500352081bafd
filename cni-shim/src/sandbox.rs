//! Opens the sandbox's network namespace. The descriptor, not the path, goes to the agent: the path
//! may mean something else in the agent's mount namespace, and may change under its eyes.

use crate::{
    call::Call,
    fault::{Fault, code, shown},
};
use rustix::{
    fs::{Mode, OFlags, fstat, fstatfs, open as open_file, stat},
    io::Errno,
};
use std::os::fd::OwnedFd;

/// `NSFS_MAGIC` of linux/magic.h: the file system of namespaces.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Opens `CNI_NETNS` where the command uses it. A DEL goes on without: the sandbox may be gone.
///
/// # Errors
/// For ADD and CHECK: 4 when there is no such namespace or it is the plugin's own, 5 when it can't
/// be opened. Not 3 (unknown container): a runtime may take that to mean that there is nothing to
/// clean up, and would leave out the DEL that frees what an earlier call made.
pub(crate) fn open(call: &Call) -> Result<Option<OwnedFd>, Fault> {
    if call.netns.is_empty() {
        return Ok(None);
    }
    match open_namespace(call) {
        Ok(sandbox) => Ok(Some(sandbox)),
        Err(_) if !call.command.needs_sandbox() => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn open_namespace(call: &Call) -> Result<OwnedFd, Fault> {
    let netns = shown(&call.netns);
    // Without NONBLOCK, a path to a FIFO would hold the plugin until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open_file(&call.netns, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Fault::new(
            code::ENVIRONMENT,
            format!("CNI_NETNS {netns} does not exist"),
        )
        .with_details("the runtime must make the network namespace before it calls ADD"),
        error => Fault::new(code::IO, format!("can't open CNI_NETNS {netns}: {error}")),
    })?;
    let unreadable = |e| Fault::new(code::IO, format!("can't inspect CNI_NETNS {netns}: {e}"));
    if fstatfs(&file).map_err(unreadable)?.f_type as u64 != NSFS_MAGIC {
        return Err(Fault::new(
            code::ENVIRONMENT,
            format!("CNI_NETNS {netns} is not a network namespace"),
        )
        .with_details(
            "nothing is mounted there: the namespace was removed, or the path is wrong",
        ));
    }
    if !call.netns_override {
        let sandbox = fstat(&file).map_err(unreadable)?;
        // Where /proc isn't mounted, the agent's own check remains.
        let own = stat("/proc/self/ns/net");
        if own.is_ok_and(|own| (own.st_dev, own.st_ino) == (sandbox.st_dev, sandbox.st_ino)) {
            return Err(Fault::new(
                code::ENVIRONMENT,
                "plugin's netns and netns from CNI_NETNS should not be the same",
            )
            .with_details("a pod of the host's network needs no CNI: the runtime must not call the plugin for it"));
        }
    }
    Ok(file)
}
