//! The GroupController service: snapshots of several volumes at one moment. All of their file systems are still while all
//! are cut, so that what was written later in one is in none if what was written before in another is not.

use super::{
    Driver,
    backend::Item,
    book::Change,
    controller::{id, snapshot, timestamp},
    fault::Fault,
    id::{GroupId, SnapshotId, VolumeId},
    records::{Group, Phase, Snapshot, Volume},
    request::{self, Backing, Ratio},
    snapshots::can_be_cut,
    volumes::{Volumes, failed},
};
use node_api::csi::{
    CreateVolumeGroupSnapshotRequest, CreateVolumeGroupSnapshotResponse,
    DeleteVolumeGroupSnapshotRequest, DeleteVolumeGroupSnapshotResponse,
    GetVolumeGroupSnapshotRequest, GetVolumeGroupSnapshotResponse,
    GroupControllerGetCapabilitiesRequest, GroupControllerGetCapabilitiesResponse,
    GroupControllerServiceCapability, VolumeGroupSnapshot,
    group_controller_server::GroupController,
    group_controller_service_capability::{Rpc, Type, rpc::Type as RpcType},
};
use std::collections::BTreeSet;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// A group holds its members still together; more take longer than pods should wait.
const MOST: usize = 64;

impl Volumes {
    /// Takes snapshots of volumes at one moment, or answers with those that were taken for this name.
    pub(super) fn group(&self, name: &str, of: &[String]) -> Result<(Group, Vec<Snapshot>), Fault> {
        let _working = self.busy.begin(&[&key(name)])?;
        let sources: BTreeSet<&str> = of.iter().map(String::as_str).collect();
        let there = self.book.read().group_named(name).cloned();
        if let Some(there) = there {
            let of = there.snapshots.keys().map(VolumeId::as_str);
            let is_same = of.eq(sources.iter().copied());
            match there.phase {
                // Neither taking it nor removing it succeeded; nobody takes it now, since its name is ours.
                Phase::Making => self.remove_group(there)?,
                Phase::Ready | Phase::Deleting if !is_same => {
                    return Err(Fault::Exists(
                        "a group of this name is of other volumes".into(),
                    ));
                }
                Phase::Ready => return self.members(&there).map(|members| (there, members)),
                Phase::Deleting => {
                    return Err(Fault::Busy(
                        "the group of this name is on its way out".into(),
                    ));
                }
            }
        }
        let sources: Vec<&str> = sources.into_iter().collect();
        let _sources = self.busy.begin(&sources)?;
        let volumes: Result<Vec<Volume>, Fault> = sources.iter().map(|of| self.found(of)).collect();
        let volumes = volumes?;
        volumes.iter().try_for_each(can_be_cut)?;
        // Only a file system of a volume's own can be held still.
        let restless = volumes.iter().filter(|volume| {
            let has_own = volume.fs.is_some() && volume.backing == Backing::Image;
            !has_own && !volume.targets.is_empty()
        });
        if volumes.len() > 1 && restless.count() > 0 {
            return Err(Fault::Precondition(
                "a raw block volume, or a subvolume, that pods write to can't be cut at one moment with others; stop its pods first".into(),
            ));
        }
        let id = GroupId::random().map_err(failed("a name for the group"))?;
        let mut members = Vec::new();
        for volume in &volumes {
            let member = SnapshotId::random().map_err(failed("a name for a snapshot"))?;
            members.push(Snapshot {
                group: Some(id.clone()),
                ..Snapshot::new(member, format!("{name}/{}", volume.id), volume)
            });
        }
        let pairs = members
            .iter()
            .map(|member| (member.of.clone(), member.id.clone()));
        let mut group = Group {
            id,
            name: name.to_owned(),
            phase: Phase::Making,
            snapshots: pairs.collect(),
            made_at_ns: 0,
        };
        let all = |group: &Group, members: &[Snapshot]| -> Vec<Change> {
            let members = members.iter().cloned().map(Change::Snapshot);
            members.chain([Change::Group(group.clone())]).collect()
        };
        {
            let _promising = self.promising();
            let kept = members.iter().map(|of| of.overcommit.kept(of.bytes));
            // All of them are kept by one pool.
            self.reserve(Backing::Image, kept.sum(), Ratio::default())?;
            self.book.commit(&all(&group, &members))?;
        }
        let copies: Vec<_> = members
            .iter()
            .map(|member| (&member.of, Item::Snapshot(member)))
            .collect();
        let at = match self.cut(&copies) {
            Ok(at) => at,
            Err(fault) => {
                // The cause is what the caller has to know.
                if let Err(problem) = self.end_group(&group, &members) {
                    tracing::warn!(group = %group.id, %problem, "a group that was not taken could not be removed; who takes or deletes it again does");
                }
                return Err(fault);
            }
        };
        for member in &mut members {
            member.phase = Phase::Ready;
            member.made_at_ns = at;
        }
        group.phase = Phase::Ready;
        group.made_at_ns = at;
        self.book.commit(&all(&group, &members))?;
        tracing::info!(group = %group.id, members = members.len(), "group of snapshots taken");
        Ok((group, members))
    }

    fn members(&self, group: &Group) -> Result<Vec<Snapshot>, Fault> {
        let contents = self.book.read();
        let members = group
            .snapshots
            .values()
            .map(|id| contents.snapshots.get(id).cloned());
        members.collect::<Option<_>>().ok_or_else(|| {
            Fault::internal(
                "the group",
                "has lost a snapshot; delete it, and take another",
            )
        })
    }

    /// A group, whose snapshots are those that the caller names, if it names any.
    fn any_group(&self, handle: &str, members: &[String]) -> Result<Option<Group>, Fault> {
        let contents = self.book.read();
        let found = GroupId::parse(handle).and_then(|id| contents.groups.get(&id));
        let Some(group) = found else {
            return Ok(None);
        };
        let named: BTreeSet<&str> = members.iter().map(String::as_str).collect();
        let own: BTreeSet<&str> = group.snapshots.values().map(SnapshotId::as_str).collect();
        match named.is_empty() || named == own {
            true => Ok(Some(group.clone())),
            false => Err(Fault::invalid("snapshot_ids", "are not those of the group")),
        }
    }

    /// Removes a group and its snapshots; one that isn't there is removed.
    pub(super) fn delete_group(&self, handle: &str, members: &[String]) -> Result<(), Fault> {
        let Some(group) = self.any_group(handle, members)? else {
            return Ok(());
        };
        let key = key(&group.name);
        let snapshots = group.snapshots.values().map(SnapshotId::as_str);
        let own = [group.id.as_str(), key.as_str()];
        let all: Vec<&str> = own.into_iter().chain(snapshots).collect();
        // It may be taken just now, and volumes may be made from each of them.
        let _working = self.busy.begin(&all)?;
        // Also one that was not taken, and of which something is left.
        match self.any_group(handle, members)? {
            Some(group) => self.remove_group(group),
            None => Ok(()),
        }
    }

    /// Removes a group that nobody uses, with those of its snapshots that are there still.
    fn remove_group(&self, mut group: Group) -> Result<(), Fault> {
        let mut snapshots: Vec<Snapshot> = {
            let contents = self.book.read();
            let members = group.snapshots.values();
            members
                .filter_map(|id| contents.snapshots.get(id).cloned())
                .collect()
        };
        group.phase = Phase::Deleting;
        for snapshot in &mut snapshots {
            snapshot.phase = Phase::Deleting;
        }
        let leaving = snapshots.iter().cloned().map(Change::Snapshot);
        let leaving: Vec<Change> = leaving.chain([Change::Group(group.clone())]).collect();
        self.book.commit(&leaving)?;
        self.end_group(&group, &snapshots)?;
        tracing::info!(group = %group.id, "group of snapshots removed");
        Ok(())
    }

    /// Removes all that can be of a group's snapshots; once that is all of them, they and it are forgotten.
    fn end_group(&self, group: &Group, snapshots: &[Snapshot]) -> Result<(), Fault> {
        let mut ended = Ok(());
        for snapshot in snapshots {
            ended = ended.and(self.clear_away(Item::Snapshot(snapshot)));
        }
        ended?;
        let gone = snapshots.iter().map(|of| Change::NoSnapshot(of.id.clone()));
        let gone: Vec<Change> = gone.chain([Change::NoGroup(group.id.clone())]).collect();
        self.book.commit(&gone)
    }
}

/// By what a group is had alone that has no id yet.
fn key(name: &str) -> String {
    format!("the group of {name:?}")
}

impl Driver {
    fn group(&self, group: &Group, members: &[Snapshot]) -> VolumeGroupSnapshot {
        VolumeGroupSnapshot {
            group_snapshot_id: group.id.to_string(),
            snapshots: members
                .iter()
                .map(|of| snapshot(of, self.topology()))
                .collect(),
            creation_time: Some(timestamp(group.made_at_ns)),
            ready_to_use: group.phase == Phase::Ready,
        }
    }
}

#[tonic::async_trait]
impl GroupController for Driver {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<GroupControllerGetCapabilitiesRequest>,
    ) -> Answer<GroupControllerGetCapabilitiesResponse> {
        Ok(Response::new(GroupControllerGetCapabilitiesResponse {
            capabilities: vec![GroupControllerServiceCapability {
                r#type: Some(Type::Rpc(Rpc {
                    r#type: RpcType::CreateDeleteGetVolumeGroupSnapshot.into(),
                })),
            }],
        }))
    }

    async fn create_volume_group_snapshot(
        &self,
        asked: Request<CreateVolumeGroupSnapshotRequest>,
    ) -> Answer<CreateVolumeGroupSnapshotResponse> {
        let asked = asked.into_inner();
        let name = request::name("name", &asked.name)?;
        let of = asked.source_volume_ids;
        if of.is_empty() || of.iter().any(String::is_empty) {
            return Err(Fault::missing("source_volume_ids").into());
        }
        if of.len() > MOST {
            return Err(
                Fault::invalid("source_volume_ids", format!("are more than {MOST}")).into(),
            );
        }
        let (group, members) = self
            .blocking(move |volumes| volumes.group(&name, &of))
            .await?;
        Ok(Response::new(CreateVolumeGroupSnapshotResponse {
            group_snapshot: Some(self.group(&group, &members)),
        }))
    }

    async fn delete_volume_group_snapshot(
        &self,
        asked: Request<DeleteVolumeGroupSnapshotRequest>,
    ) -> Answer<DeleteVolumeGroupSnapshotResponse> {
        let asked = asked.into_inner();
        let handle = id("group_snapshot_id", &asked.group_snapshot_id)?.to_owned();
        self.blocking(move |volumes| volumes.delete_group(&handle, &asked.snapshot_ids))
            .await?;
        Ok(Response::new(DeleteVolumeGroupSnapshotResponse {}))
    }

    async fn get_volume_group_snapshot(
        &self,
        asked: Request<GetVolumeGroupSnapshotRequest>,
    ) -> Answer<GetVolumeGroupSnapshotResponse> {
        let asked = asked.into_inner();
        let handle = id("group_snapshot_id", &asked.group_snapshot_id)?;
        let found = self.volumes.any_group(handle, &asked.snapshot_ids)?;
        let found = found.filter(|group| group.phase == Phase::Ready);
        let group =
            found.ok_or_else(|| Fault::NotFound("there is no such group on this node".into()))?;
        let members = self.volumes.members(&group)?;
        Ok(Response::new(GetVolumeGroupSnapshotResponse {
            group_snapshot: Some(self.group(&group, &members)),
        }))
    }
}
