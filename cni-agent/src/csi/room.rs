//! Room of the pool: what is free, less what was promised and isn't taken yet.

use super::{
    backend::{Asked, Item, choose},
    fault::Fault,
    request::{Backing, Capability, Parameters, Ratio},
    volumes::{Volumes, failed},
};

impl Volumes {
    /// Room that nobody was promised. Images that share blocks with others are counted as if they shared none: each of
    /// their bytes may be written anew, and then there must be room for it.
    pub(super) fn capacity(&self, backing: Backing) -> Result<u64, Fault> {
        let room = match backing {
            Backing::Directory => self.pool.room_for_directories(),
            Backing::Image | Backing::Btrfs => self.pool.room(),
        };
        let room = room.map_err(failed("the pool"))?;
        let available = room.free.saturating_sub(self.promised());
        // Some is the file system's own.
        Ok(available - available / 64)
    }

    /// Room for volumes of a class; none, where they can't be had.
    pub(super) fn capacity_for(
        &self,
        parameters: &Parameters,
        capabilities: &[Capability],
    ) -> Result<u64, Fault> {
        let asked = Asked {
            parameters,
            capabilities,
        };
        match choose(&asked, self.pool.found()) {
            Ok(backing) => Ok(parameters.overcommit.promises(self.capacity(backing)?)),
            Err(_) => Ok(0),
        }
    }

    /// What is wrong with the pool.
    pub(super) fn pool_illness(&self) -> Result<Option<String>, Fault> {
        let room = self.pool.room().map_err(failed("the pool"))?;
        let promised = self.promised();
        Ok((promised > room.free).then(|| {
            format!(
                "{} bytes are promised to volumes and snapshots of this node, and its pool has {} left; remove snapshots, or add room",
                promised, room.free
            )
        }))
    }

    /// Bytes that may still be asked for: of what shares blocks, and of what takes them when they are written.
    pub(super) fn promised(&self) -> u64 {
        let contents = self.book.read().clone();
        let volumes = contents.volumes.values().map(Item::Volume);
        let snapshots = contents.snapshots.values().map(Item::Snapshot);
        let promised = volumes.chain(snapshots).map(|item| self.promised_to(item));
        promised.fold(0, u64::saturating_add)
    }

    /// Those of one thing, as far as its class has them kept free.
    pub(super) fn promised_to(&self, item: Item<'_>) -> u64 {
        let ratio = match item {
            Item::Volume(of) => of.parameters.overcommit,
            Item::Snapshot(of) => of.overcommit,
        };
        ratio.kept(self.owed(item))
    }

    /// Bytes that may still be asked for one thing. What can't be looked at may ask for all of its own: nobody else goes
    /// without a volume for it.
    pub(super) fn owed(&self, item: Item<'_>) -> u64 {
        let owed = self.backend(item.backing()).and_then(|backend| {
            let owed = backend.owed(item);
            owed.map_err(|error| Fault::internal("what it has taken", error))
        });
        owed.unwrap_or_else(|problem| {
            tracing::debug!(id = item.name(), %problem, "counted with all of its bytes");
            item.bytes()
        })
    }

    /// Looks whether there is room, by one at a time.
    pub(super) fn reserve(&self, backing: Backing, bytes: u64, ratio: Ratio) -> Result<(), Fault> {
        let (available, bytes) = (self.capacity(backing)?, ratio.kept(bytes));
        if bytes > available {
            return Err(Fault::Exhausted(format!(
                "this node has {available} bytes left for volumes, {bytes} are asked for"
            )));
        }
        Ok(())
    }
}
