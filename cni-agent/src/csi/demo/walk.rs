//! The steps of the example claim's life: what provisioner, attacher, kubelet, snapshotter and resizer ask of the driver, and
//! what its pod does with the volume.

use super::{
    Demo,
    copies::may_grow_ext4,
    place::{Left, Place},
    pod,
    say::Say,
    way::{delete, text},
};
use crate::config::CsiConfig;
use node_api::csi::{
    GetCapacityRequest, GetPluginInfoRequest, ListSnapshotsRequest, ListVolumesRequest,
    NodeGetInfoRequest, NodeGetVolumeStatsRequest, ProbeRequest, Volume,
    controller_client::ControllerClient, identity_client::IdentityClient, node_client::NodeClient,
};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tonic::{Code, transport::Channel};

pub(super) const NAMESPACE: &str = "default";
pub(super) const CLAIM: &str = "pvc-test";
/// Of what is asked for, so much at least must be the pod's: the rest is its file system's own.
pub(super) const LEAST_PERCENT: u64 = 70;

/// What the kernel does in the background is waited for so long, and looked at so often.
const LONGEST: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// The demonstration on its way.
pub(super) struct Walk<'a, P> {
    pub(super) bytes: u64,
    pub(super) fs: &'static str,
    /// Whether it can grow while a pod has it.
    pub(super) grows_mounted: bool,
    pub(super) config: CsiConfig,
    pub(super) place: &'a Place,
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) say: &'a mut Say<P>,
}

/// The driver's services.
#[derive(Clone)]
pub(super) struct Driver {
    pub(super) identity: IdentityClient<Channel>,
    pub(super) controller: ControllerClient<Channel>,
    pub(super) node: NodeClient<Channel>,
}

/// A volume with the places where its pod has it.
pub(super) struct Used {
    pub(super) id: String,
    pub(super) stage: PathBuf,
    pub(super) target: PathBuf,
}

impl<'a, P: FnMut(&str) + Send> Walk<'a, P> {
    pub(super) fn new(
        demo: &Demo,
        config: &CsiConfig,
        place: &'a Place,
        stopped: Arc<AtomicBool>,
        say: &'a mut Say<P>,
    ) -> Self {
        Self {
            bytes: demo.bytes,
            fs: demo.fs().as_str(),
            grows_mounted: demo.xfs || may_grow_ext4(),
            config: config.clone(),
            place,
            stopped,
            say,
        }
    }

    /// Walks to the end, or to the first step that doesn't hold: what is wrong with it.
    pub(super) async fn run(mut self) -> Result<(), String> {
        let mut driver = self.register().await?;
        let free = self.meet(&mut driver).await?;
        let (volume, used) = self.provision(&mut driver).await?;
        self.write(&used).await?;
        self.fill(&mut driver, &used).await?;
        let snapshot = self.snapshot(&mut driver, &used).await?;
        let restored = self.restore(&mut driver, &snapshot).await?;
        self.grow(&mut driver, &used).await?;
        let clone = self.clone_of(&mut driver, &volume, &used).await?;
        self.inline(&mut driver).await?;
        self.delete_snapshot(&mut driver, &snapshot, &restored)
            .await?;
        self.say.part("The pods end, the claims are deleted");
        self.refuse_to_delete(&mut driver, &used).await?;
        for used in [used, restored, clone] {
            self.give_back(&mut driver, &used).await?;
        }
        self.nothing_is_left(&mut driver, free).await?;
        let steps = self.say.steps();
        self.say.plain("");
        self.say.plain(&format!("Each of {steps} steps held."));
        Ok(())
    }

    /// Who the driver is, where its volumes can be had and how much room there is.
    async fn meet(&mut self, driver: &mut Driver) -> Result<i64, String> {
        let identity = &mut driver.identity;
        self.call(
            "GetPluginInfo",
            "every sidecar asks for the driver's name first",
            GetPluginInfoRequest {},
            async |asked| identity.get_plugin_info(asked).await,
        )
        .await?;
        self.call(
            "Probe",
            "livenessprobe asks whether its pool is whole",
            ProbeRequest {},
            async |asked| identity.probe(asked).await,
        )
        .await?;
        let node = &mut driver.node;
        let info = self
            .call(
                "NodeGetInfo",
                "the kubelet asks for the node's id and topology, and labels the node",
                NodeGetInfoRequest {},
                async |asked| node.node_get_info(asked).await,
            )
            .await?;
        if info.node_id != self.config.node_name {
            return Err(self.broken("that is not this node's name".to_owned()));
        }
        self.room(
            driver,
            "the provisioner publishes the room, so that pods are scheduled where there is some",
        )
        .await
    }

    pub(super) async fn room(&mut self, driver: &mut Driver, meaning: &str) -> Result<i64, String> {
        let asked = GetCapacityRequest {
            accessible_topology: Some(self.topology()),
            ..GetCapacityRequest::default()
        };
        let controller = &mut driver.controller;
        let room = self
            .call("GetCapacity", meaning, asked, async |asked| {
                controller.get_capacity(asked).await
            })
            .await?;
        Ok(room.available_capacity)
    }

    async fn provision(&mut self, driver: &mut Driver) -> Result<(Volume, Used), String> {
        let bytes = self.bytes;
        self.say.part(&format!(
            "A claim {NAMESPACE}/{CLAIM} of {bytes} bytes, and a pod that uses it"
        ));
        let wanted = self.wanted(CLAIM, bytes, None);
        let volume = self
            .create(
                driver,
                "the provisioner: a volume for the claim, on this node",
                wanted.clone(),
            )
            .await?;
        let again = self
            .create(
                driver,
                "asked again, as after a lost answer: the same volume",
                wanted,
            )
            .await?;
        if again != volume {
            return Err(self.broken("it is another volume".to_owned()));
        }
        let other = self.wanted(CLAIM, 2 * bytes, None);
        let controller = &mut driver.controller;
        self.refused(
            ("CreateVolume", "the same name with another size is refused"),
            Code::AlreadyExists,
            other,
            async |asked| controller.create_volume(asked).await,
        )
        .await?;
        let used = self.publish(driver, CLAIM, &volume).await?;
        Ok((volume, used))
    }

    pub(super) async fn note(
        &mut self,
        meaning: &str,
        used: &Used,
        note: &'static str,
    ) -> Result<(), String> {
        let at = used.target.clone();
        self.look(
            ("The pod", meaning),
            move || pod::write(&at, note),
            |()| Ok(format!("it wrote {note:?}")),
        )
        .await
    }

    pub(super) async fn reads(
        &mut self,
        meaning: &str,
        used: &Used,
        note: &str,
    ) -> Result<(), String> {
        let at = used.target.clone();
        let judge = |found: &String| match found == note {
            true => Ok(format!("it reads {found:?}")),
            false => Err(format!("it reads {found:?}, not {note:?}")),
        };
        self.look(("The pod", meaning), move || pod::read(&at), judge)
            .await
            .map(drop)
    }

    async fn write(&mut self, used: &Used) -> Result<(), String> {
        self.say.part("The pod writes, and fills its volume");
        self.note("writes, and waits until it is on the disk", used, "first")
            .await
    }

    async fn fill(&mut self, driver: &mut Driver, used: &Used) -> Result<(), String> {
        let (at, expected) = (used.target.clone(), self.bytes);
        let (stopped, (tell, mut told)) = (self.stopped.clone(), mpsc::unbounded_channel());
        self.say.step(
            "The pod",
            "writes until there is no room: it gets its own \"no space left\", nobody else does",
        );
        let begin = Instant::now();
        let filling = tokio::task::spawn_blocking(move || {
            let tell = |written| {
                let _nobody_waits_any_more = tell.send(written).is_err();
            };
            pod::fill(&at, expected, &stopped, tell)
        });
        while let Some(written) = told.recv().await {
            let percent = written * 100 / expected;
            self.say
                .detail('=', &format!("{percent} % of the size written"));
        }
        let filled = filling
            .await
            .map_err(|error| self.broken(error.to_string()))?;
        let written = filled.map_err(|error| self.broken(error.to_string()))?;
        let percent = written * 100 / self.bytes;
        self.say.detail(
            '=',
            &format!(
                "no space left after {written} bytes, {percent} % of the size; it removed its file"
            ),
        );
        if written > self.bytes || percent < LEAST_PERCENT {
            return Err(self.broken(format!("{} were promised", self.bytes)));
        }
        self.say.held(begin.elapsed());
        self.reads("still has what it wrote before", used, "first")
            .await?;
        let asked = NodeGetVolumeStatsRequest {
            volume_id: used.id.clone(),
            volume_path: text(&used.target),
            ..NodeGetVolumeStatsRequest::default()
        };
        let node = &mut driver.node;
        self.call(
            "NodeGetVolumeStats",
            "the kubelet: bytes and inodes, for its metrics",
            asked,
            async |asked| node.node_get_volume_stats(asked).await,
        )
        .await
        .map(drop)
    }

    pub(super) async fn refuse_to_delete(
        &mut self,
        driver: &mut Driver,
        used: &Used,
    ) -> Result<(), String> {
        let controller = &mut driver.controller;
        self.refused(
            ("DeleteVolume", "a volume that a pod has is not deleted"),
            Code::FailedPrecondition,
            delete(used),
            async |asked| controller.delete_volume(asked).await,
        )
        .await
    }

    /// Waits until so much room is free: XFS gives the blocks of a file that is removed back in the background.
    async fn frees(&mut self, driver: &mut Driver, least: i64) {
        let end = Instant::now() + LONGEST;
        while Instant::now() < end {
            let asked = GetCapacityRequest::default();
            match driver.controller.get_capacity(asked).await {
                Ok(room) if room.get_ref().available_capacity < least => {
                    tokio::time::sleep(PAUSE).await;
                }
                // What is wrong is shown by who asks next.
                _ => return,
            }
        }
    }

    async fn nothing_is_left(&mut self, driver: &mut Driver, free: i64) -> Result<(), String> {
        self.say.part("Nothing is left");
        let controller = &mut driver.controller;
        let volumes = self
            .call(
                "ListVolumes",
                "no volume",
                ListVolumesRequest::default(),
                async |asked| controller.list_volumes(asked).await,
            )
            .await?;
        let asked = ListSnapshotsRequest::default();
        let snapshots = self
            .call("ListSnapshots", "no snapshot", asked, async |asked| {
                controller.list_snapshots(asked).await
            })
            .await?;
        if !volumes.entries.is_empty() || !snapshots.entries.is_empty() {
            return Err(self.broken("something is listed".to_owned()));
        }
        // But for what the pool's file system keeps for its own lists.
        let least = free - free / 100;
        self.frees(driver, least).await;
        let now = self
            .room(driver, "the room that was promised is free again")
            .await?;
        if now < least {
            return Err(self.broken(format!("there were {free} bytes before")));
        }
        // Whoever looks through the machine's loop devices has one open for a moment.
        let end = Instant::now() + LONGEST;
        let mut found = self.place.left();
        while found.as_ref().is_ok_and(|left| left.devices > 0) && Instant::now() < end {
            tokio::time::sleep(PAUSE).await;
            found = self.place.left();
        }
        let judge = |left: &Left| match left {
            Left {
                mounts: 0,
                devices: 0,
                files: 0,
            } => Ok("no mount, no loop device, no file".to_owned()),
            left => Err(format!("{left:?}")),
        };
        self.look(("The node", "has nothing of them"), move || found, judge)
            .await
            .map(drop)
    }
}
