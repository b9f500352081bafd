//! The SnapshotMetadata service: which bytes of a snapshot are in use, and which differ from an earlier one. Nothing is
//! read: two files that share a block have the same bytes there, and the file system says where their blocks lie.

use super::{
    Driver,
    controller::id,
    extents::changed,
    fault::Fault,
    id::SnapshotId,
    kernel::Extents,
    records::{Phase, Snapshot},
    request::Backing,
    volumes::{Volumes, cut, failed},
};
use futures_util::stream::{self, Stream, StreamExt as _};
use node_api::csi::{
    BlockMetadata, BlockMetadataType, GetMetadataAllocatedRequest, GetMetadataAllocatedResponse,
    GetMetadataDeltaRequest, GetMetadataDeltaResponse, snapshot_metadata_server::SnapshotMetadata,
};
use std::{fs::File, iter, ops::Range, pin::Pin};
use tonic::{Request, Response, Status};

pub(super) type Stretches = Vec<BlockMetadata>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

const EXTENTS: &str = "the snapshot's extents";

/// Stretches of a message, if the caller doesn't say.
const USUAL: usize = 256;
const MOST: usize = 4096;

fn stretches(ranges: Vec<Range<u64>>) -> Stretches {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let stretch = |of: Range<u64>| BlockMetadata {
        byte_offset: number(of.start),
        size_bytes: number(of.end - of.start),
    };
    ranges.into_iter().map(stretch).collect()
}

impl Volumes {
    /// Stretches of a snapshot that may differ from an earlier one.
    pub(super) fn delta(
        &self,
        base: &Snapshot,
        target: &Snapshot,
        from: u64,
    ) -> Result<Stretches, Fault> {
        let (base, of_target) = (self.file_of(base)?, self.file_of(target)?);
        changed(
            Extents::of(&base, from),
            Extents::of(&of_target, from),
            from..target.bytes,
        )
        .map(stretches)
        .map_err(failed(EXTENTS))
    }

    /// Stretches of a snapshot that are in use.
    fn allocated(&self, of: &Snapshot, from: u64) -> Result<Stretches, Fault> {
        let file = self.file_of(of)?;
        changed(iter::empty(), Extents::of(&file, from), from..of.bytes)
            .map(stretches)
            .map_err(failed(EXTENTS))
    }

    /// The snapshot that a handle means.
    pub(super) fn ready(&self, handle: &str) -> Result<Snapshot, Fault> {
        let contents = self.book.read();
        let found = SnapshotId::parse(handle).and_then(|id| contents.snapshots.get(&id));
        let ready = found.filter(|of| of.phase == Phase::Ready).cloned();
        ready.ok_or_else(|| Fault::NotFound("there is no such snapshot on this node".into()))
    }

    fn file_of(&self, of: &Snapshot) -> Result<File, Fault> {
        if of.backing != Backing::Image {
            return Err(Fault::Precondition(format!(
                "the snapshot is a {}, which has files and no blocks; use a class of backend: image for changed blocks",
                of.backing.as_str()
            )));
        }
        self.pool
            .image(cut(&of.id), false)
            .map_err(failed("opening the snapshot"))
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
            .blocking(move |volumes| volumes.allocated(&of, from))
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
