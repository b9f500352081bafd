//! How long a snapshot and a clone take by the volume's size, at rest and while a pod writes, beside a copy of its file.

use super::{
    BackEnd, Extent, io,
    rig::{Mounted, Rig},
};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// GiB of a volume, and MiB that are really written in it.
const SIZES: [(u64, u64); 3] = [(1, 768), (10, 1024), (50, 2048)];
const QUICK: [(u64, u64); 2] = [(1, 32), (2, 64)];

/// Between two snapshots while a pod writes.
const BETWEEN: Duration = Duration::from_millis(300);

impl Extent {
    /// Snapshots of each kind.
    fn times(&self) -> u32 {
        if self.quick { 2 } else { 10 }
    }
}

/// What is in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Contents {
    /// Written in order.
    Ordered,
    /// Blocks of 4 KiB here and there: as many pieces on the disk as can be.
    Scattered,
}

/// Times for one volume, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cut {
    pub(super) back_end: &'static str,
    pub(super) contents: Contents,
    pub(super) gib: u64,
    /// Bytes of it that take room on the disk.
    pub(super) written: u64,
    pub(super) snapshot_ms: Vec<f64>,
    pub(super) clone_ms: Vec<f64>,
    /// While a pod writes as much as it can.
    pub(super) busy_snapshot_ms: Vec<f64>,
    /// The longest that one of its writes took, with snapshots and without.
    pub(super) longest_write_ms: [f64; 2],
    /// `cp --reflink=never` of the file, and fsync; holes stay holes.
    pub(super) copy_ms: Vec<f64>,
}

/// Measures the image back ends with file systems.
pub(super) fn measure(
    rows: &[(&Rig, BackEnd)],
    extent: Extent,
    say: &dyn Fn(&str),
) -> Result<Vec<Cut>> {
    let mut all = Vec::new();
    let sizes = if extent.quick { &QUICK[..] } else { &SIZES };
    for (rig, back_end) in rows
        .iter()
        .filter(|(_, of)| of.name.starts_with("image, ") && !of.class.block)
    {
        for &(gib, mib) in sizes {
            all.push(cut(
                rig,
                back_end,
                Contents::Ordered,
                gib,
                mib,
                extent,
                say,
            )?);
        }
        let (gib, mib) = if extent.quick { (1, 32) } else { (10, 64) };
        all.push(cut(
            rig,
            back_end,
            Contents::Scattered,
            gib,
            mib,
            extent,
            say,
        )?);
    }
    Ok(all)
}

fn cut(
    rig: &Rig,
    back_end: &BackEnd,
    contents: Contents,
    gib: u64,
    mib: u64,
    extent: Extent,
    say: &dyn Fn(&str),
) -> Result<Cut> {
    say(&format!(
        "volumes: snapshots, clones and copies of {}, {gib} GiB with {mib} MiB written",
        back_end.name
    ));
    let (times, copies) = (extent.times(), if extent.quick { 1 } else { 3 });
    let volume = rig.mounted(back_end, gib << 30, true)?;
    match contents {
        Contents::Ordered => io::filled(&volume.file(), mib)?,
        Contents::Scattered => scattered(&volume.file(), gib, mib)?,
    }
    let image = rig.image(&volume.id)?;
    let mut cut = Cut {
        back_end: back_end.name,
        contents,
        gib,
        written: 0,
        snapshot_ms: Vec::new(),
        clone_ms: Vec::new(),
        busy_snapshot_ms: Vec::new(),
        longest_write_ms: [0.0; 2],
        copy_ms: Vec::new(),
    };
    for _ in 0..times {
        cut.snapshot_ms.push(snapshot(rig, &volume)?);
        cut.clone_ms.push(clone(rig, back_end, &volume, gib << 30)?);
    }
    let alone = Writer::start(&volume)?;
    std::thread::sleep(BETWEEN * times);
    cut.longest_write_ms[1] = alone.end()?;
    let mut writer = Writer::start(&volume)?;
    for _ in 0..times {
        std::thread::sleep(BETWEEN);
        cut.busy_snapshot_ms.push(snapshot(rig, &volume)?);
    }
    ensure!(writer.writes()?, "fio ended before the last snapshot");
    cut.longest_write_ms[0] = writer.end()?;
    cut.written = on_disk(&image)?;
    for _ in 0..copies {
        cut.copy_ms.push(copy(rig, &image)?);
    }
    rig.removed(&volume)?;
    Ok(cut)
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn snapshot(rig: &Rig, of: &Mounted) -> Result<f64> {
    let name = rig.fresh();
    let start = Instant::now();
    let id = rig.client.snapshot(&name, &of.id)?;
    let took = millis(start);
    rig.client.delete_snapshot(&id)?;
    Ok(took)
}

fn clone(rig: &Rig, back_end: &BackEnd, of: &Mounted, bytes: u64) -> Result<f64> {
    let name = rig.fresh();
    let start = Instant::now();
    let id = rig
        .client
        .create(back_end.class.volume(&name, bytes, Some(&of.id), true))?;
    let took = millis(start);
    rig.client.delete(&id)?;
    Ok(took)
}

fn copy(rig: &Rig, image: &Path) -> Result<f64> {
    let to = rig.bare()?.join("copy");
    let start = Instant::now();
    let done = Command::new("cp")
        .arg("--reflink=never")
        .arg(image)
        .arg(&to)
        .status()
        .context("starting cp")?;
    ensure!(done.success(), "cp failed ({done})");
    fs::File::open(&to)?.sync_all()?;
    let took = millis(start);
    fs::remove_file(to)?;
    Ok(took)
}

fn on_disk(file: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata(file)?.blocks() * 512)
}

/// Writes blocks here and there in the whole volume.
fn scattered(file: &Path, gib: u64, mib: u64) -> Result<()> {
    // Some of the volume is the file system's.
    let size = format!("--size={}m", gib * 1024 * 9 / 10);
    let amount = format!("--io_size={mib}m");
    let options = [
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=32",
        "--fallocate=none",
        "--end_fsync=1",
    ];
    let options: Vec<_> = options.into_iter().chain([&*size, &*amount]).collect();
    io::fio(file, &options).map(drop)
}

/// fio that writes in a volume until it is ended.
struct Writer {
    child: Child,
}

impl Writer {
    fn start(volume: &Mounted) -> Result<Self> {
        let file = volume.at.join("written");
        io::filled(&file, 64)?;
        let child = Command::new("fio")
            .args([
                "--name=writer",
                "--ioengine=libaio",
                "--direct=1",
                "--output-format=json",
            ])
            .args([
                "--rw=randwrite",
                "--bs=4k",
                "--iodepth=1",
                "--size=64m",
                "--time_based",
            ])
            // Until it is told to end.
            .arg("--runtime=600")
            .arg(format!("--filename={}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting fio")?;
        Ok(Self { child })
    }

    fn writes(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it; the longest of its writes in milliseconds.
    fn end(self) -> Result<f64> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let output = self.child.wait_with_output()?;
        // Its exit code says that it was told to end.
        let said = io::told(&String::from_utf8_lossy(&output.stdout))?;
        let longest = said["jobs"][0]["write"]["lat_ns"]["max"].as_f64();
        Ok(longest.context("fio told no longest write")? / 1e6)
    }
}
