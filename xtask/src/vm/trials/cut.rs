//! Power cuts: a guest writes and tells what it was acknowledged, its machine is stopped dead, and the next guest looks at
//! the same disk.

use super::{DISKS, Guest, Trials};
use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Acknowledgements before the first cut, and how many more before each further one.
const FIRST: usize = 30;
const MORE: usize = 23;
/// A cut comes within this time after the last of them, so that it meets every step of an operation.
const WITHIN_MILLIS: u64 = 300;

impl Trials {
    /// Cuts the power so often.
    pub(super) fn cuts(&self, cuts: u32) -> Result<()> {
        for number in 0..cuts as usize {
            // On XFS volumes are files of the pool; on ext4 of an XFS that the driver makes in a file of it.
            let (name, mkfs) = DISKS[number % 2];
            let enough = FIRST + number * MORE;
            self.say(&format!(
                "power cut {} of {cuts}, on {name}, after {enough} acknowledgements",
                number + 1
            ));
            self.cut(mkfs, enough)
                .with_context(|| format!("power cut {} on {name}", number + 1))?;
        }
        Ok(())
    }

    fn cut(&self, mkfs: &str, enough: usize) -> Result<()> {
        let disk = self.disk()?;
        let on_disk = |command: Vec<OsString>| Guest {
            disks: vec![disk.clone()],
            ..Guest::new(command)
        };
        let writer = on_disk(Self::on_pool(mkfs, "noatime", Self::within(&["write"])?));
        let mut running = writer.start(&self.session, Stdio::piped())?;
        let pipe = running.process().child().stdout.take();
        let mut pipe = BufReader::new(pipe.context("the guest's output")?);
        let mut acknowledged = String::new();
        for _ in 0..enough {
            let read = pipe.read_line(&mut acknowledged)?;
            ensure!(
                read > 0,
                "the guest stopped writing: {acknowledged}\n{}",
                running.console()
            );
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        std::thread::sleep(Duration::from_millis(
            u64::from(now.subsec_nanos()) % WITHIN_MILLIS,
        ));
        running.cut()?;
        // What it told meanwhile is acknowledged, too, but for half a line.
        pipe.read_to_string(&mut acknowledged)?;
        let whole = acknowledged.rfind('\n').map_or(0, |at| at + 1);
        acknowledged.truncate(whole);
        println!(
            "           {} acknowledgements",
            acknowledged.lines().count()
        );
        let list = self.shared.path().join("acknowledged");
        fs::write(&list, acknowledged)?;
        let check = Self::within(&["check", &list.display().to_string()])?;
        let code = self.guest(&on_disk(Self::on_pool(":", "noatime", check)), |_| {})?;
        ensure!(
            code == 0,
            "something acknowledged is lost, or something is left over"
        );
        Ok(())
    }
}
