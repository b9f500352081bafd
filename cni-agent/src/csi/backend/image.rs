//! Volumes that are files: a loop device and a file system of their own make them volumes.

use super::{Backend, Draft, Item, Unbounded, source};
use crate::csi::{
    folder::Folder,
    pool::{Image, Kind, Pool},
    records::{Phase, Volume},
    staging::Stats,
    volumes::{cut, image},
};
use std::{io, os::unix::fs::MetadataExt as _};

/// Of what a file has taken.
const SECTOR: u64 = 512;

fn file<'a>(item: Item<'a>) -> Image<'a> {
    match item {
        Item::Volume(volume) => image(&volume.id),
        Item::Snapshot(snapshot) => cut(&snapshot.id),
    }
}

impl Backend for Pool {
    fn make(&self, volume: &Volume) -> io::Result<()> {
        let from = source(volume).map(|(kind, name)| Image { kind, name });
        let thin = volume.parameters.thin;
        self.make(image(&volume.id), from, volume.bytes, thin)
    }

    fn begin(&self, item: Item<'_>, is_guarded: bool) -> io::Result<Draft> {
        let from = match item {
            Item::Volume(volume) => source(volume).map(|(kind, name)| Image { kind, name }),
            Item::Snapshot(snapshot) => Some(image(&snapshot.of)),
        };
        let from = from.ok_or(io::ErrorKind::InvalidInput)?;
        self.begin(file(item), from, is_guarded)
            .map(|ahead| Draft(Some(ahead)))
    }

    fn cut(&self, _: Item<'_>, draft: &mut Draft) -> io::Result<()> {
        match &mut draft.0 {
            Some(ahead) => ahead.cut(),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn keep(&self, item: Item<'_>, draft: Draft) -> io::Result<()> {
        let ahead = draft.0.ok_or(io::ErrorKind::InvalidInput)?;
        let (bytes, thin) = match item {
            Item::Volume(volume) => (volume.bytes, volume.parameters.thin),
            Item::Snapshot(snapshot) => (snapshot.bytes, true),
        };
        self.keep(file(item), &ahead.into_file(), bytes, thin)
    }

    fn remove(&self, item: Item<'_>) -> io::Result<()> {
        self.remove(file(item))
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
            Item::Volume(_) | Item::Snapshot(_) => item.bytes(),
        })
    }

    fn names(&self, kind: Kind) -> io::Result<Vec<String>> {
        self.images(kind)
    }
}
