//! Reads and writes by fio, past the page cache, of a volume on each back end and of a bare directory in the file system
//! of its pool.

use super::super::stats::paired_ratio;
use super::{
    BackEnd, Estimate, Extent,
    rig::{Mounted, PoolFs, Rig},
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What one run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Job {
    RandomRead1,
    RandomRead32,
    RandomWrite1,
    RandomWrite32,
    Commit,
    Read,
    Write,
}

impl Job {
    pub(super) const ALL: [Self; 7] = [
        Self::RandomRead1,
        Self::RandomRead32,
        Self::RandomWrite1,
        Self::RandomWrite32,
        Self::Commit,
        Self::Read,
        Self::Write,
    ];

    /// Name and unit.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::RandomRead1 => "4 KiB random reads, 1 at a time, 1/s",
            Self::RandomRead32 => "4 KiB random reads, 32 at a time, 1/s",
            Self::RandomWrite1 => "4 KiB random writes, 1 at a time, 1/s",
            Self::RandomWrite32 => "4 KiB random writes, 32 at a time, 1/s",
            Self::Commit => "4 KiB random writes, each with fdatasync, 1/s",
            Self::Read => "1 MiB reads in order, 4 at a time, 1/s",
            Self::Write => "1 MiB writes in order, 4 at a time, 1/s",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::RandomRead1 => &["--rw=randread", "--bs=4k", "--iodepth=1"],
            Self::RandomRead32 => &["--rw=randread", "--bs=4k", "--iodepth=32"],
            Self::RandomWrite1 => &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
            Self::RandomWrite32 => &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
            Self::Commit => &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fdatasync=1"],
            Self::Read => &["--rw=read", "--bs=1m", "--iodepth=4"],
            Self::Write => &["--rw=write", "--bs=1m", "--iodepth=4"],
        }
    }

    fn reads(self) -> bool {
        matches!(self, Self::RandomRead1 | Self::RandomRead32 | Self::Read)
    }
}

/// One place's rates, for each job one a round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Series {
    pub(super) place: String,
    pub(super) pool: PoolFs,
    /// What the others of its pool are compared with.
    pub(super) bare: bool,
    pub(super) rates: BTreeMap<Job, Vec<f64>>,
}

/// A place's rates as parts of the bare directory's in the same rounds.
pub(super) fn compared(all: &[Series], job: Job) -> Vec<(&Series, Estimate)> {
    let bare = |pool| all.iter().find(|one| one.bare && one.pool == pool);
    let others = all.iter().filter(|one| !one.bare);
    others
        .filter_map(|one| {
            let reference = bare(one.pool)?.rates.get(&job)?;
            Some((one, paired_ratio(one.rates.get(&job)?, reference)))
        })
        .collect()
}

/// Measures every job at every place, in turns.
pub(super) fn measure(
    rigs: &[Rig],
    rows: &[(&Rig, BackEnd)],
    extent: Extent,
    say: &dyn Fn(&str),
) -> Result<Vec<Series>> {
    let mib: u64 = if extent.quick { 32 } else { 256 };
    let mut all = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    let mut volumes: Vec<(&Rig, Mounted)> = Vec::new();
    for rig in rigs
        .iter()
        .filter(|rig| rows.iter().any(|(of, _)| of.pool == rig.pool))
    {
        // The same twice: what they differ by is the noise.
        for (name, bare) in [("bare", true), ("bare, again", false)] {
            files.push(rig.bare()?.join(name));
            all.push(Series {
                place: format!("{name} ({})", rig.pool.name()),
                pool: rig.pool,
                bare,
                rates: BTreeMap::new(),
            });
        }
    }
    for (rig, back_end) in rows {
        let volume = rig.mounted(back_end, 1 << 30, false)?;
        files.push(volume.file());
        volumes.push((rig, volume));
        all.push(Series {
            place: back_end.name.to_owned(),
            pool: rig.pool,
            bare: false,
            rates: BTreeMap::new(),
        });
    }
    let places = files.len();
    say(&format!(
        "volumes: {mib} MiB are written at each of {places} places"
    ));
    for file in &files {
        filled(file, mib)?;
    }
    for round in 0..extent.rounds {
        say(&format!(
            "volumes: round {} of {}, {} runs of fio of {} ms",
            round + 1,
            extent.rounds,
            places * Job::ALL.len(),
            extent.time.as_millis()
        ));
        let mut order: Vec<_> = (0..places).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for job in Job::ALL {
            for &index in &order {
                let rate = rate(job, &files[index], mib, extent.time)
                    .with_context(|| all[index].place.clone())?;
                all[index].rates.entry(job).or_default().push(rate);
            }
        }
    }
    for (rig, volume) in &volumes {
        rig.removed(volume)?;
    }
    for (file, series) in files.iter().zip(&all) {
        if series.place.starts_with("bare") {
            std::fs::remove_file(file)?;
        }
    }
    Ok(all)
}

/// Writes so much in order, so that every block has its place.
pub(super) fn filled(file: &Path, mib: u64) -> Result<()> {
    let size = format!("--size={mib}m");
    fio(
        file,
        &[
            "--rw=write",
            "--bs=1m",
            "--iodepth=4",
            "--end_fsync=1",
            &size,
        ],
    )
    .map(drop)
}

/// Runs of a job a second.
fn rate(job: Job, file: &Path, mib: u64, time: Duration) -> Result<f64> {
    let (size, runtime) = (
        format!("--size={mib}m"),
        format!("--runtime={}ms", time.as_millis()),
    );
    let mut options = vec![
        "--time_based",
        "--norandommap",
        "--randrepeat=0",
        &size,
        &runtime,
    ];
    options.extend(job.options());
    let said = fio(file, &options)?;
    let side = if job.reads() { "read" } else { "write" };
    let rate = said["jobs"][0][side]["iops"].as_f64();
    rate.with_context(|| format!("fio told no rate: {said}"))
}

/// Runs fio on a file, past the page cache, and reads what it says.
pub(super) fn fio(file: &Path, options: &[&str]) -> Result<serde_json::Value> {
    let mut command = Command::new("fio");
    command
        .args([
            "--name=bench",
            "--ioengine=libaio",
            "--direct=1",
            "--output-format=json",
        ])
        .arg(format!("--filename={}", file.display()))
        .args(options);
    let said = crate::workspace::output(&mut command)?;
    told(&said)
}

/// The object in what fio says; warnings, or that it was told to end, may stand before it.
pub(super) fn told(said: &str) -> Result<serde_json::Value> {
    let start = said.find('{').context("fio said nothing")?;
    Ok(serde_json::from_str(&said[start..])?)
}
