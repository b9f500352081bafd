//! From the request for a volume until a pod has it: CreateVolume, NodeStageVolume, NodePublishVolume over the driver's
//! socket, one at a time and many; beside a file, a file system and a mount made by hand.

use super::{BackEnd, Extent, rig::Rig};
use crate::lab::run;
use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// The least that mkfs.xfs takes is 300 MiB.
const BYTES: u64 = 320 << 20;
/// What stands for the reference in the figures.
pub(super) const BY_HAND: &str = "by hand, ext4";

/// Times of one back end, by rounds, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) back_end: &'static str,
    /// How many at a time.
    pub(super) parallel: usize,
    /// From the first request to the last answer.
    pub(super) whole_ms: Vec<Vec<f64>>,
    pub(super) create_ms: Vec<Vec<f64>>,
    pub(super) stage_ms: Vec<Vec<f64>>,
    pub(super) publish_ms: Vec<Vec<f64>>,
}

/// One volume: when each of the three calls was answered, from the start.
type Times = [Duration; 3];

/// Measures each back end in turns.
pub(super) fn measure(rows: &[(&Rig, BackEnd)], extent: Extent) -> Result<Vec<Latency>> {
    let (rounds, alone, many) = match extent.quick {
        true => (2, 2, 4),
        false => (extent.rounds.min(4), 20, 50),
    };
    let mut all = Vec::new();
    for parallel in [1, many] {
        let names = std::iter::once(BY_HAND).chain(rows.iter().map(|(_, of)| of.name));
        let mut latencies: Vec<_> = names
            .map(|back_end| Latency {
                back_end,
                parallel,
                whole_ms: Vec::new(),
                create_ms: Vec::new(),
                stage_ms: Vec::new(),
                publish_ms: Vec::new(),
            })
            .collect();
        let count = if parallel == 1 { alone } else { many };
        for round in 0..rounds {
            let mut order: Vec<_> = (0..latencies.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let latency = &mut latencies[index];
                let times = match index.checked_sub(1) {
                    None => by_hand(rows, count, parallel)?,
                    Some(row) => through_driver(rows[row].0, &rows[row].1, count, parallel)?,
                };
                latency.add(&times);
            }
        }
        all.extend(latencies);
    }
    Ok(all)
}

impl Latency {
    fn add(&mut self, times: &[Times]) {
        let ms = |of: &dyn Fn(&Times) -> Duration| -> Vec<f64> {
            times
                .iter()
                .map(|one| of(one).as_secs_f64() * 1e3)
                .collect()
        };
        self.create_ms.push(ms(&|[create, ..]| *create));
        self.stage_ms
            .push(ms(&|[create, stage, _]| *stage - *create));
        self.publish_ms
            .push(ms(&|[_, stage, publish]| *publish - *stage));
        self.whole_ms.push(ms(&|[.., publish]| *publish));
    }
}

/// Does something `count` times, so many at a time, and returns what each returned.
fn together<T: Send>(
    count: usize,
    parallel: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if parallel == 1 {
        return (0..count).map(work).collect();
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let work = &work;
                scope.spawn(move || work(number))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let done = thread.join();
            done.map_err(|_panic| anyhow::anyhow!("a thread of the bench ended badly"))?
        });
        joined.collect()
    })
}

fn through_driver(
    rig: &Rig,
    back_end: &BackEnd,
    count: usize,
    parallel: usize,
) -> Result<Vec<Times>> {
    let client = &rig.client;
    let names: Vec<_> = (0..count).map(|_| rig.fresh()).collect();
    let places: Vec<_> = names.iter().map(|name| rig.places(name)).collect();
    let made = together(count, parallel, |number| {
        let (stage, at) = &places[number];
        let start = Instant::now();
        let id = client.create(back_end.class.volume(&names[number], BYTES, None, false))?;
        let create = start.elapsed();
        client.stage(&id, stage, back_end.class)?;
        let staged = start.elapsed();
        client.publish(&id, stage, at, back_end.class)?;
        Ok((id, [create, staged, start.elapsed()]))
    })
    .with_context(|| back_end.name)?;
    for ((id, _), (stage, at)) in made.iter().zip(&places) {
        client.unpublish(id, at)?;
        client.unstage(id, stage)?;
        client.delete(id)?;
    }
    Ok(made.into_iter().map(|(_, times)| times).collect())
}

/// The least that somebody at a shell would do for the same: no name is remembered, nothing is asked over a socket.
fn by_hand(rows: &[(&Rig, BackEnd)], count: usize, parallel: usize) -> Result<Vec<Times>> {
    let (rig, _) = rows
        .first()
        .context("the driver takes none of the back ends")?;
    let bare = rig.bare()?;
    let place = |number: usize, kind: &str| -> PathBuf { bare.join(format!("{kind}-{number}")) };
    let text = |path: PathBuf| path.display().to_string();
    for number in 0..count {
        fs::create_dir_all(place(number, "stage"))?;
        fs::create_dir_all(place(number, "at"))?;
    }
    let times = together(count, parallel, |number| {
        let [file, stage, at] = ["file", "stage", "at"].map(|kind| text(place(number, kind)));
        let start = Instant::now();
        run("fallocate", &["-l", &BYTES.to_string(), &file])?;
        let create = start.elapsed();
        let mkfs = [
            "-q",
            "-F",
            "-b",
            "4096",
            "-m",
            "0",
            "-E",
            "nodiscard",
            &file,
        ];
        run("mkfs.ext4", &mkfs)?;
        run("mount", &["-o", "loop", &file, &stage])?;
        let staged = start.elapsed();
        run("mount", &["--bind", &stage, &at])?;
        Ok([create, staged, start.elapsed()])
    })?;
    for number in 0..count {
        for kind in ["at", "stage"] {
            run("umount", &[&text(place(number, kind))])?;
        }
        fs::remove_file(place(number, "file"))?;
    }
    Ok(times)
}
