//! KVM: the version of its interface, a virtual machine, a processor of it.

use super::kernel;
use anyhow::{Context, Result, ensure};
use std::fs::OpenOptions;

/// The only one since 2007.
const VERSION: i32 = 12;

pub(super) fn run() -> Result<String> {
    let kvm = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("opening /dev/kvm")?;
    let version = kernel::version(&kvm).context("the version of KVM")?;
    ensure!(version == VERSION, "KVM has version {version}");
    let machine = kernel::machine(&kvm).context("a virtual machine")?;
    let _processor = kernel::processor(&machine).context("its processor")?;
    Ok(format!("KVM {version}: a virtual machine with a processor"))
}
