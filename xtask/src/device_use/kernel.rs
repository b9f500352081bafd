//! Calls of the kernel that have no safe wrapper: ioctls of KVM and TUN, and namespaces of one's own.
#![expect(unsafe_code, reason = "the kernel's calls")]

use rustix::{
    fd::{AsFd, FromRawFd as _, OwnedFd},
    ffi::c_void,
    io::Result,
    ioctl::{Ioctl, IoctlOutput, Opcode, Updater, ioctl},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Moves this process into namespaces of its own.
///
/// # Errors
/// When the kernel or a profile of seccomp forbids it.
pub(super) fn unshare(what: UnshareFlags) -> Result<()> {
    // SAFETY: it is asked for before the process has a second thread, and never for files (CLONE_FILES).
    unsafe { unshare_unsafe(what) }
}

/// A call of KVM without an argument (0), whose answer is its result.
struct Call(Opcode);

// SAFETY: the kernel takes the argument of these calls as a number, here 0, and writes nothing.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(answer)
    }
}

const GET_API_VERSION: Opcode = 0xae00;
const CREATE_VM: Opcode = 0xae01;
const CREATE_VCPU: Opcode = 0xae41;

/// The version of KVM's interface.
pub(super) fn version(kvm: impl AsFd) -> Result<i32> {
    // SAFETY: see `Call`.
    unsafe { ioctl(kvm, Call(GET_API_VERSION)) }
}

/// A virtual machine.
pub(super) fn machine(kvm: impl AsFd) -> Result<OwnedFd> {
    made(kvm, CREATE_VM)
}

/// The first processor of a virtual machine.
pub(super) fn processor(machine: impl AsFd) -> Result<OwnedFd> {
    made(machine, CREATE_VCPU)
}

fn made(of: impl AsFd, number: Opcode) -> Result<OwnedFd> {
    // SAFETY: see `Call`; these two answer a descriptor that the kernel made for this call alone.
    unsafe { Ok(OwnedFd::from_raw_fd(ioctl(of, Call(number))?)) }
}

const TUNSETIFF: Opcode = 0x4004_54ca;
/// A tap without a header of its own.
const TAP_WITHOUT_HEADER: u16 = 0x1002;

/// As `struct ifreq` has it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes a network interface. The name has at most 15 bytes.
pub(super) fn interface(tun: impl AsFd, name: &str) -> Result<()> {
    let mut request = Request {
        name: [0; 16],
        flags: TAP_WITHOUT_HEADER,
        rest: [0; 22],
    };
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the call reads and writes a `struct ifreq`, which `Request` is.
    unsafe { ioctl(tun, Updater::<{ TUNSETIFF }, _>::new(&mut request)) }
}
