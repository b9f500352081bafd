//! The side of a trial that runs in a guest: an agent with its volumes at `/pool`, and a client that asks it.

use crate::{
    csi_agent::Places,
    csi_client::{Class, Client},
    lab,
    storage::loop_devices,
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

const POOL: &str = "/pool/volumes";
const KUBELET: &str = "/run/kubelet";
/// Translated by QEMU it takes its time.
const START_LIMIT: Duration = Duration::from_secs(120);
const IMAGE: Class = Class {
    parameters: &[("fsType", "ext4")],
    block: false,
};
const BYTES: u64 = 64 << 20;
/// Records that are written in each volume, each made durable before it is told.
const RECORDS: u32 = 8;

/// The hidden verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where `fairlead` is.
    #[arg(long)]
    binaries: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Makes, writes, cuts and removes volumes for ever, and tells each thing that was acknowledged.
    Write,
    /// Looks whether all that a file tells is there, and nothing else.
    Check { acknowledged: PathBuf },
    /// Grows an ext4 while a pod has it.
    Grow,
}

/// Does it.
///
/// # Errors
/// What is not as it should be.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut agent = start(&args.binaries)?;
    let client = Client::new(&node().socket())?;
    let done = match &args.what {
        What::Write => write(&client),
        What::Check { acknowledged } => check(&client, acknowledged),
        What::Grow => grow(&client),
    };
    let done = done.with_context(|| node().log());
    agent.kill()?;
    agent.wait()?;
    done
}

fn node() -> Places {
    Places {
        folder: "/run".into(),
        pool: POOL.into(),
        kubelet: KUBELET.into(),
    }
}

fn start(binaries: &Path) -> Result<Child> {
    let mut child = node()
        .command(binaries)?
        .spawn()
        .context("starting the agent")?;
    node().served(START_LIMIT, || Ok(child.try_wait()?))?;
    Ok(child)
}

fn places(name: &str) -> (PathBuf, PathBuf) {
    let place = |kind: &str| Path::new(KUBELET).join(kind).join(name);
    (place("stage"), place("pods"))
}

/// The volume of a name, made or found, as a pod has it: its id and where it is.
fn mounted(client: &Client, name: &str, bytes: u64) -> Result<(String, PathBuf)> {
    let id = client.create(IMAGE.volume(name, bytes, None, false))?;
    let (stage, at) = places(name);
    client.stage(&id, &stage, IMAGE)?;
    client.publish(&id, &stage, &at, IMAGE)?;
    Ok((id, at))
}

fn removed(client: &Client, name: &str, id: &str) -> Result<()> {
    let (stage, at) = places(name);
    client.unpublish(id, &at)?;
    client.unstage(id, &stage)?;
    Ok(client.delete(id)?)
}

/// Tells of something acknowledged: at once, whatever becomes of the machine.
fn tell(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn write(client: &Client) -> Result<()> {
    let mut ids = Vec::new();
    for number in 0_usize.. {
        let name = format!("v{number}");
        let (id, at) = mounted(client, &name, BYTES)?;
        tell(&format!("made {name} {id}"))?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(at.join("data"))?;
        File::open(&at)?.sync_all()?;
        for record in 0..RECORDS {
            writeln!(file, "record {record}")?;
            file.sync_all()?;
            tell(&format!("wrote {name} {record}"))?;
        }
        let cut = client.snapshot(&format!("s{number}"), &id)?;
        tell(&format!("cut s{number} {cut}"))?;
        ids.push(id);
        if let Some(old) = number.checked_sub(2) {
            let name = format!("v{old}");
            tell(&format!("removing {name}"))?;
            removed(client, &name, &ids[old])?;
            tell(&format!("removed {name}"))?;
        }
    }
    Ok(())
}

/// What was acknowledged of a volume.
#[derive(Debug, Default)]
struct Told {
    id: String,
    records: u32,
    removing: bool,
    removed: bool,
}

/// Reads the lines of a writer: volumes by their names, ids of snapshots.
fn told(text: &str) -> (BTreeMap<String, Told>, Vec<String>) {
    let mut volumes: BTreeMap<String, Told> = BTreeMap::new();
    let mut snapshots = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["made", name, id] => volumes.entry(name.to_owned()).or_default().id = id.to_owned(),
            ["wrote", name, record] => {
                let volume = volumes.entry(name.to_owned()).or_default();
                volume.records = record.parse::<u32>().map_or(0, |record| record + 1);
            }
            ["cut", _, id] => snapshots.push(id.to_owned()),
            ["removing", name] => volumes.entry(name.to_owned()).or_default().removing = true,
            ["removed", name] => volumes.entry(name.to_owned()).or_default().removed = true,
            _ => {}
        }
    }
    (volumes, snapshots)
}

fn check(client: &Client, acknowledged: &Path) -> Result<()> {
    let (volumes, snapshots) = told(&fs::read_to_string(acknowledged)?);
    let (listed, listed_snapshots) = (client.volumes()?, client.all_snapshots()?);
    let mut records = 0;
    for (name, told) in &volumes {
        let there = listed.contains(&told.id);
        ensure!(!(told.removed && there), "{name} was removed and is there");
        if told.removing {
            continue;
        }
        ensure!(there, "{name} was made and is lost");
        let (id, at) = mounted(client, name, BYTES)?;
        ensure!(id == told.id, "{name} is another volume now");
        let text = fs::read_to_string(at.join("data")).unwrap_or_default();
        for record in 0..told.records {
            let line = format!("record {record}");
            ensure!(
                text.lines().any(|one| one == line),
                "{name}: {line} was synced and is lost: {text:?}"
            );
            records += 1;
        }
    }
    for id in &snapshots {
        ensure!(
            listed_snapshots.contains(id),
            "the snapshot {id} was acknowledged and is lost"
        );
    }
    // Beside what was acknowledged, there may be the one that was being made.
    let known = volumes
        .values()
        .filter(|told| listed.contains(&told.id))
        .count();
    ensure!(
        listed.len() <= known + 1,
        "{} volumes, {known} of them known",
        listed.len()
    );
    for id in &listed {
        let name = volumes
            .iter()
            .find(|(_, told)| told.id == *id)
            .map(|(name, _)| name.as_str());
        // One that was being made has the next name.
        let next = format!("v{}", volumes.len());
        removed(client, name.unwrap_or(&next), id)?;
    }
    for id in &listed_snapshots {
        client.delete_snapshot(id)?;
    }
    let left = (files()?, devices(), mounts());
    ensure!(left == Default::default(), "left over: {left:?}");
    tell(&format!(
        "all is there: {known} volumes, {records} records, {} snapshots; after their removal 0 files, devices and mounts",
        snapshots.len()
    ))
}

/// Files of volumes and snapshots.
fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for root in [POOL.to_owned(), format!("{POOL}/pool")] {
        for kind in ["volumes", "snapshots", "trash"] {
            let folder = Path::new(&root).join(kind);
            if folder.exists() {
                for entry in fs::read_dir(folder)? {
                    files.push(entry?.path());
                }
            }
        }
    }
    Ok(files)
}

/// Files behind loop devices, but for the pool's own.
fn devices() -> Vec<PathBuf> {
    let mut files: Vec<_> = loop_devices().into_iter().map(|(_, of)| of).collect();
    files.retain(|file| !file.ends_with("pool.img"));
    files
}

/// Mounts of pods, and of what is staged for them.
fn mounts() -> Vec<PathBuf> {
    lab::mounts_below(Path::new(KUBELET))
}

fn grow(client: &Client) -> Result<()> {
    let (id, at) = mounted(client, "v", BYTES)?;
    let file = at.join("data");
    fs::write(&file, "kept")?;
    let bytes = || -> Result<u64> {
        let stat = rustix::fs::statvfs(&at)?;
        Ok(stat.f_blocks * stat.f_frsize)
    };
    let before = bytes()?;
    client.expand(&id, 4 * BYTES)?;
    client.grow(&id, &at, 4 * BYTES)?;
    let after = bytes()?;
    ensure!(after > before * 3, "it had {before} bytes and has {after}");
    // The room is there, and what was in it.
    fs::write(at.join("more"), vec![7; usize::try_from(2 * BYTES)?])?;
    ensure!(
        fs::read_to_string(file)? == "kept",
        "what was written is gone"
    );
    removed(client, "v", &id)?;
    tell(&format!(
        "a mounted ext4 of {before} bytes has {after}, and what was written"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_writer_told_is_read() {
        let (volumes, snapshots) = told(
            "made v0 vol-a\nwrote v0 0\nwrote v0 1\ncut s0 snap-a\nmade v1 vol-b\nremoving v0\nremoved v0\nremoving v1",
        );
        assert_eq!(snapshots, ["snap-a"]);
        let v0 = &volumes["v0"];
        assert!(v0.id == "vol-a" && v0.records == 2 && v0.removed && v0.removing);
        let v1 = &volumes["v1"];
        assert!(v1.id == "vol-b" && v1.records == 0 && v1.removing && !v1.removed);
    }
}
