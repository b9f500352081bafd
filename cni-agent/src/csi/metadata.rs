//! The SnapshotMetadata service: which bytes of a snapshot are in use, and which differ from an earlier one. Nothing is
//! read: two files that share a block have the same bytes there, and the file system says where their blocks lie.

use super::{
    Driver,
    controller::id,
    fault::Fault,
    id::SnapshotId,
    kernel::{self, Extent},
    records::{Phase, Snapshot},
    request::Backing,
    volumes::{Volumes, cut, failed},
};
use futures_util::stream::{self, Stream, StreamExt as _};
use node_api::csi::{
    BlockMetadata, BlockMetadataType, GetMetadataAllocatedRequest, GetMetadataAllocatedResponse,
    GetMetadataDeltaRequest, GetMetadataDeltaResponse, snapshot_metadata_server::SnapshotMetadata,
};
use std::pin::Pin;
use tonic::{Request, Response, Status};

pub(super) type Stretches = Vec<BlockMetadata>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Stretches of a message, if the caller doesn't say.
const USUAL: usize = 256;
const MOST: usize = 4096;

/// What is at a place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Zeros,
    /// This place of the disk.
    At(u64),
    Unknown,
}

impl Content {
    fn of(extent: &Extent, at: u64) -> Self {
        match extent.flags {
            flags if flags & Extent::VAGUE != 0 => Self::Unknown,
            flags if flags & Extent::UNWRITTEN != 0 => Self::Zeros,
            _ => Self::At(extent.physical + (at - extent.logical)),
        }
    }
}

/// PURE: what is at a place, and up to where the same extent or hole goes.
fn content(extents: &[Extent], at: u64, end: u64) -> (Content, u64) {
    let next = extents.partition_point(|extent| extent.logical + extent.length <= at);
    match extents.get(next) {
        Some(extent) if extent.logical <= at => (
            Content::of(extent, at),
            (extent.logical + extent.length).min(end),
        ),
        Some(extent) => (Content::Zeros, extent.logical.min(end)),
        None => (Content::Zeros, end),
    }
}

/// PURE: stretches of `target` that may differ from `base`, in order, from an offset on.
fn changed(base: &[Extent], target: &[Extent], from: u64, end: u64) -> Stretches {
    let differs = |one: Content, other: Content| {
        one != other || one == Content::Unknown || other == Content::Unknown
    };
    let mut all = Stretches::new();
    let mut at = from;
    while at < end {
        let (one, until_one) = content(base, at, end);
        let (other, until_other) = content(target, at, end);
        let until = until_one.min(until_other);
        if differs(one, other) {
            add(&mut all, at, until);
        }
        at = until;
    }
    all
}

/// PURE: stretches that are in use, in order, from an offset on.
fn allocated(extents: &[Extent], from: u64, end: u64) -> Stretches {
    changed(&[], extents, from, end)
}

fn add(all: &mut Stretches, from: u64, until: u64) {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let length = number(until - from);
    match all.last_mut() {
        Some(last) if last.byte_offset + last.size_bytes == number(from) => {
            last.size_bytes += length;
        }
        _ => all.push(BlockMetadata {
            byte_offset: number(from),
            size_bytes: length,
        }),
    }
}

impl Volumes {
    /// Stretches of a snapshot that may differ from an earlier one.
    pub(super) fn delta(
        &self,
        base: &Snapshot,
        target: &Snapshot,
        from: u64,
    ) -> Result<Stretches, Fault> {
        let (base, of_target) = (self.extents(base, from)?, self.extents(target, from)?);
        Ok(changed(&base, &of_target, from, target.bytes))
    }

    /// The snapshot that a handle means.
    pub(super) fn ready(&self, handle: &str) -> Result<Snapshot, Fault> {
        let contents = self.book.read();
        let found = SnapshotId::parse(handle).and_then(|id| contents.snapshots.get(&id));
        let ready = found.filter(|of| of.phase == Phase::Ready).cloned();
        ready.ok_or_else(|| Fault::NotFound("there is no such snapshot on this node".into()))
    }

    fn extents(&self, of: &Snapshot, from: u64) -> Result<Vec<Extent>, Fault> {
        if of.backing != Backing::Image {
            return Err(Fault::Precondition(format!(
                "the snapshot is a {}, which has files and no blocks; use a class of backend: image for changed blocks",
                of.backing.as_str()
            )));
        }
        let file = self
            .pool
            .image(cut(&of.id), false)
            .map_err(failed("opening the snapshot"))?;
        kernel::extents(&file, from).map_err(failed("the snapshot's extents"))
    }
}

/// Where to begin.
fn offset(asked: i64, of: &Snapshot) -> Result<u64, Fault> {
    match u64::try_from(asked) {
        Ok(offset) if offset <= of.bytes => Ok(offset),
        _ => Err(Fault::OutOfRange(format!(
            "starting_offset lies outside of the snapshot, which has {} bytes",
            of.bytes
        ))),
    }
}

fn most(asked: i32) -> Result<usize, Fault> {
    match usize::try_from(asked) {
        Ok(0) => Ok(USUAL),
        Ok(asked) => Ok(asked.min(MOST)),
        Err(_) => Err(Fault::invalid("max_results", "is negative")),
    }
}

/// Messages of so many stretches each; one without, where there are none.
fn messages<T: Send + 'static>(
    stretches: &Stretches,
    most: usize,
    message: impl Fn(Stretches) -> T + Send + 'static,
) -> Messages<T> {
    let mut parts: Vec<Stretches> = stretches.chunks(most).map(<[_]>::to_vec).collect();
    if parts.is_empty() {
        parts.push(Stretches::new());
    }
    stream::iter(parts)
        .map(move |part| Ok(message(part)))
        .boxed()
}

#[tonic::async_trait]
impl SnapshotMetadata for Driver {
    type GetMetadataAllocatedStream = Messages<GetMetadataAllocatedResponse>;
    type GetMetadataDeltaStream = Messages<GetMetadataDeltaResponse>;

    async fn get_metadata_allocated(
        &self,
        asked: Request<GetMetadataAllocatedRequest>,
    ) -> Result<Response<Self::GetMetadataAllocatedStream>, Status> {
        let asked = asked.into_inner();
        let handle = id("snapshot_id", &asked.snapshot_id)?;
        let most = most(asked.max_results)?;
        let of = self.volumes.ready(handle)?;
        let from = offset(asked.starting_offset, &of)?;
        let bytes = of.bytes;
        let stretches = self
            .blocking(move |volumes| Ok(allocated(&volumes.extents(&of, from)?, from, of.bytes)))
            .await?;
        Ok(Response::new(messages(
            &stretches,
            most,
            move |block_metadata| GetMetadataAllocatedResponse {
                block_metadata_type: BlockMetadataType::VariableLength.into(),
                volume_capacity_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
                block_metadata,
            },
        )))
    }

    async fn get_metadata_delta(
        &self,
        asked: Request<GetMetadataDeltaRequest>,
    ) -> Result<Response<Self::GetMetadataDeltaStream>, Status> {
        let asked = asked.into_inner();
        let base = id("base_snapshot_id", &asked.base_snapshot_id)?;
        let target = id("target_snapshot_id", &asked.target_snapshot_id)?;
        let most = most(asked.max_results)?;
        let (base, target) = (self.volumes.ready(base)?, self.volumes.ready(target)?);
        if base.of != target.of {
            return Err(
                Fault::invalid("base_snapshot_id", "is of another volume than the target").into(),
            );
        }
        let from = offset(asked.starting_offset, &target)?;
        let bytes = target.bytes;
        let stretches = self
            .blocking(move |volumes| volumes.delta(&base, &target, from))
            .await?;
        Ok(Response::new(messages(
            &stretches,
            most,
            move |block_metadata| GetMetadataDeltaResponse {
                block_metadata_type: BlockMetadataType::VariableLength.into(),
                volume_capacity_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
                block_metadata,
            },
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn extent(logical: u64, length: u64, physical: u64, flags: u32) -> Extent {
        Extent {
            logical,
            physical,
            length,
            flags,
        }
    }

    fn pairs(stretches: &Stretches) -> Vec<(i64, i64)> {
        stretches
            .iter()
            .map(|of| (of.byte_offset, of.size_bytes))
            .collect()
    }

    #[test]
    fn what_is_shared_is_the_same_and_everything_else_may_differ() {
        let base = [
            extent(0, 8, 100, 0),
            extent(8, 8, 300, 0),
            extent(32, 8, 500, 0),
        ];
        let target = [
            extent(0, 4, 100, 0),
            extent(4, 4, 900, 0),
            extent(8, 8, 300, 0),
            extent(16, 8, 700, Extent::UNWRITTEN),
            extent(24, 4, 800, 0x4),
        ];
        let stretches = changed(&base, &target, 0, 48);
        assert_eq!(
            pairs(&stretches),
            [(4, 4), (24, 4), (32, 8)],
            "a hole where data was differs, too"
        );
        assert_eq!(
            pairs(&changed(&base, &target, 6, 48)),
            [(6, 2), (24, 4), (32, 8)]
        );
        assert_eq!(pairs(&allocated(&target, 0, 48)), [(0, 16), (24, 4)]);
        assert!(changed(&base, &base, 0, 48).is_empty());
    }

    /// Blocks of a file in terms of the disk's; 0: a hole.
    fn extents_of(blocks: &[u8]) -> Vec<Extent> {
        let blocks = blocks.iter().enumerate().filter(|(_, place)| **place != 0);
        blocks
            .map(|(at, place)| extent(at as u64, 1, u64::from(*place) * 10, 0))
            .collect()
    }

    proptest! {
        /// Writing the target's bytes of each stretch over the base makes the target.
        #[test]
        fn the_base_with_what_changed_is_the_target(
            base in vec(0..6u8, 1..40),
            target in vec(0..6u8, 40),
            from in 0..40u64,
        ) {
            let mut base = base;
            base.resize(40, 0);
            let stretches = changed(&extents_of(&base), &extents_of(&target), from, 40);
            let mut made = base.clone();
            let mut last = None;
            for of in &stretches {
                prop_assert!(of.size_bytes > 0 && last.is_none_or(|last| last < of.byte_offset));
                last = Some(of.byte_offset + of.size_bytes);
                let range = of.byte_offset as usize..(of.byte_offset + of.size_bytes) as usize;
                prop_assert!(range.clone().all(|at| base[at] != target[at]), "nothing that is the same");
                made[range.clone()].copy_from_slice(&target[range]);
            }
            prop_assert_eq!(&made[from as usize..], &target[from as usize..]);
        }
    }
}
