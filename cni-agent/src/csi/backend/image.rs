//! Volumes that are files: a loop device and a file system of their own make them volumes.

use super::{Backend, Item, Unbounded, source};
use crate::csi::{
    folder::Folder,
    pool::{Image, Kind, Pool},
    records::{Phase, Snapshot, Volume},
    staging::Stats,
    volumes::{cut, image},
};
use std::{io, os::unix::fs::MetadataExt as _};

/// Of what a file has taken.
const SECTOR: u64 = 512;

impl Backend for Pool {
    fn make(&self, volume: &Volume) -> io::Result<()> {
        let from = source(volume).map(|(kind, name)| Image { kind, name });
        let thin = volume.parameters.thin;
        self.make(image(&volume.id), from, volume.bytes, thin)
    }

    fn cut(&self, snapshot: &Snapshot) -> io::Result<()> {
        let from = Some(image(&snapshot.of));
        self.make(cut(&snapshot.id), from, snapshot.bytes, true)
    }

    fn remove(&self, item: Item<'_>) -> io::Result<()> {
        self.remove(match item {
            Item::Volume(volume) => image(&volume.id),
            Item::Snapshot(snapshot) => cut(&snapshot.id),
        })
    }

    fn grow(&self, volume: &Volume, bytes: u64) -> io::Result<()> {
        self.grow(image(&volume.id), bytes, volume.parameters.thin)
    }

    fn folder(&self, _: &Volume) -> io::Result<Option<Folder>> {
        Ok(None)
    }

    fn usage(&self, _: &Volume) -> io::Result<Option<Stats>> {
        Ok(None)
    }

    fn unbounded(&self, _: &Volume) -> io::Result<Option<Unbounded>> {
        Ok(None)
    }

    fn owed(&self, item: Item<'_>) -> io::Result<u64> {
        Ok(match item {
            // Its blocks were taken, and are nobody else's; what its pods gave back (discard) they may ask for again.
            Item::Volume(of)
                if of.source.is_none() && !of.parameters.thin && of.phase != Phase::Making =>
            {
                let taken = match self.image(image(&of.id), false) {
                    // Nobody writes to what is gone.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                    file => file?.metadata()?.blocks().saturating_mul(SECTOR),
                };
                of.bytes.saturating_sub(taken)
            }
            // Whose blocks are shared isn't known without reading the maps of all: as if it had none.
            Item::Volume(of) => of.bytes,
            Item::Snapshot(of) => of.bytes,
        })
    }

    fn names(&self, kind: Kind) -> io::Result<Vec<String>> {
        self.images(kind)
    }
}
