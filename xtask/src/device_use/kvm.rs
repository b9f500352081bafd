//! KVM: the version of its interface, a virtual machine, a processor of it.
#![expect(unsafe_code, reason = "ioctls that answer a descriptor")]

use anyhow::{Context, Result, ensure};
use rustix::{
    fd::{AsFd, FromRawFd as _, OwnedFd},
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl},
};
use std::fs::OpenOptions;

const GET_API_VERSION: Opcode = 0xae00;
const CREATE_VM: Opcode = 0xae01;
const CREATE_VCPU: Opcode = 0xae41;
/// The only one since 2007.
const VERSION: i32 = 12;

/// A call without an argument (0), whose answer is its result.
struct Call(Opcode);

// SAFETY: the calls take a number, here 0, and write nothing.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        answer: IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(answer)
    }
}

fn call(of: impl AsFd, number: Opcode) -> Result<i32> {
    // SAFETY: see `Call`.
    Ok(unsafe { ioctl(of, Call(number)) }?)
}

fn made(of: impl AsFd, number: Opcode) -> Result<OwnedFd> {
    let descriptor = call(of, number)?;
    // SAFETY: the kernel made it for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

pub(super) fn run() -> Result<String> {
    let kvm = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("opening /dev/kvm")?;
    let version = call(&kvm, GET_API_VERSION).context("the version of KVM")?;
    ensure!(version == VERSION, "KVM has version {version}");
    let machine = made(&kvm, CREATE_VM).context("a virtual machine")?;
    let _processor = made(&machine, CREATE_VCPU).context("its processor")?;
    Ok(format!("KVM {version}: a virtual machine with a processor"))
}
