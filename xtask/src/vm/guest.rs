//! A guest: a machine of QEMU's with Debian's kernel that has this machine's files, can't change them, and runs one
//! command as root.

use super::initramfs;
use crate::{
    lab::{Process, Session},
    setup::{self, Extra, GuestKernel},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a guest may take until its command runs; without KVM some ten seconds are usual.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long it may take to go off after its command.
const OFF_LIMIT: Duration = Duration::from_secs(30);

/// What a guest is to be.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// Debian's package of its kernel.
    pub(crate) kernel: String,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// Files that it has as `/dev/vda` and on.
    pub(crate) disks: Vec<PathBuf>,
    /// Variables of the command's environment.
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) command: Vec<OsString>,
    /// How long the command may take.
    pub(crate) limit: Duration,
}

/// A running guest. Its end takes everything of it away, but for its disks.
pub(crate) struct Running {
    process: Process,
    folder: tempfile::TempDir,
    limit: Duration,
    /// What runs it.
    pub(crate) by: &'static str,
    pub(crate) kernel: String,
}

impl Guest {
    /// One for a command, with what suffices for most.
    pub(crate) fn new(command: Vec<OsString>) -> Self {
        Self {
            kernel: setup::DEFAULT_KERNEL.to_owned(),
            memory_mib: 2048,
            cpus: 2,
            disks: Vec::new(),
            env: Vec::new(),
            command,
            limit: Duration::from_secs(600),
        }
    }

    /// Starts it. What its command prints goes to `output`.
    ///
    /// # Errors
    /// When something is missing, or QEMU can't be started.
    pub(crate) fn start(&self, session: &Arc<Session>, output: Stdio) -> Result<Running> {
        ensure!(
            std::env::consts::ARCH == "x86_64",
            "guests are of x86_64, and so has this machine to be"
        );
        setup::ensure_extra(Extra::Guest)?;
        let kernel = setup::guest_kernel(&self.kernel)?;
        let folder = tempfile::Builder::new()
            .prefix("guest")
            .tempdir_in(session.dir())?;
        let by = accelerator();
        let mut command = self.qemu(&kernel, folder.path(), by)?;
        command
            // Never written to and open until the end: without it QEMU takes its side for closed, and the guest's
            // command waits for ever.
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(File::create(folder.path().join("qemu"))?);
        Ok(Running {
            process: Process::spawn(session, "a guest", &mut command)?,
            folder,
            limit: self.limit,
            by,
            kernel: kernel.version,
        })
    }

    /// What the shell of the guest runs.
    fn script(&self) -> Result<Vec<u8>> {
        ensure!(!self.command.is_empty(), "a guest needs a command");
        let here = std::env::current_dir()?;
        ensure!(
            !["/tmp", "/run"].iter().any(|own| here.starts_with(own)),
            "a guest has a /tmp and a /run of its own, and {} is not in them: work in a folder elsewhere",
            here.display()
        );
        let mut script = b"cd ".to_vec();
        script.extend(initramfs::quoted(here.as_os_str()));
        script.extend(b" || exit\n");
        for (name, value) in &self.env {
            script.extend(format!("export {name}=").as_bytes());
            script.extend(initramfs::quoted(value));
            script.push(b'\n');
        }
        script.extend(b"exec");
        for word in &self.command {
            script.push(b' ');
            script.extend(initramfs::quoted(word));
        }
        script.push(b'\n');
        Ok(script)
    }

    fn qemu(&self, kernel: &GuestKernel, folder: &Path, by: &str) -> Result<Command> {
        let initramfs = initramfs::write(folder, kernel, &self.script()?)?;
        let file = |name: &str| in_option(folder.join(name).as_os_str());
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-cpu", "max", "-accel", by])
            .args(["-m", &format!("{}M", self.memory_mib)])
            .args(["-smp", &self.cpus.to_string()])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 panic=-1 loglevel=5"])
            .arg("-serial")
            .arg(joined("file:", &folder.join("console")))
            .args([
                "-virtfs",
                "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            ])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", "stdio,id=output,signal=off"])
            .args(["-device", "virtserialport,chardev=output,name=output"])
            .arg("-chardev")
            .arg(joined("file,id=status,path=", Path::new(&file("status"))))
            .args(["-device", "virtserialport,chardev=status,name=status"]);
        for disk in &self.disks {
            // What the guest was told is on the disk is in the file, whatever becomes of QEMU.
            let options = "if=virtio,format=raw,cache=none,discard=unmap,file=";
            command
                .arg("-drive")
                .arg(joined(options, Path::new(&in_option(disk.as_os_str()))));
        }
        Ok(command)
    }
}

/// KVM where the processor has what it takes; a device node alone says little.
fn accelerator() -> &'static str {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpus.lines().find(|line| line.starts_with("flags"));
    let able = flags.is_some_and(|line| {
        line.split_whitespace()
            .any(|flag| matches!(flag, "vmx" | "svm"))
    });
    let node = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if able && node.is_ok() { "kvm" } else { "tcg" }
}

fn joined(before: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(before);
    joined.push(path);
    joined
}

/// A value within one of QEMU's options, in which commas are doubled.
fn in_option(value: &OsStr) -> OsString {
    let mut doubled = Vec::new();
    for &byte in value.as_bytes() {
        doubled.push(byte);
        if byte == b',' {
            doubled.push(byte);
        }
    }
    OsStr::from_bytes(&doubled).to_owned()
}

impl Running {
    fn status(&self) -> String {
        fs::read_to_string(self.folder.path().join("status")).unwrap_or_default()
    }

    /// The child process, for its output.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until its command runs.
    ///
    /// # Errors
    /// When the guest ends before or takes too long; with the end of its console.
    pub(crate) fn wait_up(&mut self) -> Result<()> {
        self.wait_for("start", BOOT_LIMIT, |status| status.starts_with("up\n"))
    }

    /// Waits until its command has ended and it is off; the command's exit code.
    ///
    /// # Errors
    /// When it ends without one or takes too long; with the end of its console.
    pub(crate) fn wait(mut self) -> Result<i32> {
        self.wait_up()?;
        let code = |status: &str| {
            let line = status.strip_suffix('\n')?.lines().last()?;
            line.strip_prefix("exit ")?.parse().ok()
        };
        let limit = self.limit;
        self.wait_for("end", limit, |status| code(status).is_some())?;
        let code = code(&self.status()).context("the exit code of the guest's command")?;
        self.process.wait(OFF_LIMIT).context("the guest")?;
        Ok(code)
    }

    /// Takes its power away.
    ///
    /// # Errors
    /// When it had ended already.
    pub(crate) fn cut(mut self) -> Result<()> {
        self.process.signal(rustix::process::Signal::KILL)?;
        self.process.wait(OFF_LIMIT).map(drop)
    }

    fn wait_for(&mut self, what: &str, limit: Duration, done: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            // First: what it wrote before its end is seen.
            let ended = self.process.exited()?;
            if done(&self.status()) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!(
                    "the guest has ended ({status}) instead of its {what}\n{}",
                    self.console()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "the guest's {what} takes longer than {limit:?}\n{}",
                    self.console()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what its kernel and QEMU said.
    pub(crate) fn console(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read(self.folder.path().join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        format!("{}\n{}", tail("console"), tail("qemu"))
    }
}
