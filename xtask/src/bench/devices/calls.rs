//! What the kubelet waits for while a pod starts: Allocate and GetPreferredAllocation, one call after the other, each to
//! another resource; while nothing happens, and while a tenth of the devices goes and comes.

use super::{
    AT_ONCE, Extent, MANY,
    bare::PREFERRED,
    kubelet::{Kubelet, Plugin},
    rig::{Rig, Who, number},
    starts::ms,
};
use anyhow::{Context, Result, ensure};
use node_api::device::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest,
    PreferredAllocationRequest, device_plugin_client::DevicePluginClient,
};
use serde::Serialize;
use std::time::{Duration, Instant};
use tonic::{Status, transport::Channel};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Call {
    Allocate(usize),
    Preferred,
}

impl Call {
    pub(super) fn title(self) -> String {
        match self {
            Self::Allocate(1) => "Allocate, 1 device".to_owned(),
            Self::Allocate(count) => format!("Allocate, {count} devices"),
            Self::Preferred => format!("GetPreferredAllocation, {PREFERRED} devices"),
        }
    }
}

/// Times of one call by rounds, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Calls {
    pub(super) call: Call,
    /// While devices go and come.
    pub(super) changing: bool,
    pub(super) ours_ms: Vec<Vec<f64>>,
    pub(super) bare_ms: Vec<Vec<f64>>,
}

/// All of them.
pub(super) fn kinds() -> Vec<Calls> {
    let asked = [Call::Allocate(1), Call::Allocate(AT_ONCE), Call::Preferred];
    let both = [false, true].into_iter();
    let all = both.flat_map(|changing| asked.map(|call| (call, changing)));
    all.map(|(call, changing)| Calls {
        call,
        changing,
        ours_ms: Vec::new(),
        bare_ms: Vec::new(),
    })
    .collect()
}

impl Calls {
    /// One round of both.
    pub(super) fn measure(&mut self, rig: &Rig, order: [Who; 2], extent: Extent) -> Result<()> {
        // Long enough for several changes.
        let time = match self.changing {
            true => extent.time * 2,
            false => extent.time,
        };
        for who in order {
            let times = block(rig.kubelet(who), self.call, time);
            let times = times.with_context(|| format!("{} of {who:?}", self.call.title()))?;
            match who {
                Who::Agent => self.ours_ms.push(times),
                Who::Bare => self.bare_ms.push(times),
            }
        }
        Ok(())
    }
}

/// A call that is ready to be made.
#[derive(Clone)]
enum Ready {
    Allocate(AllocateRequest),
    Preferred(PreferredAllocationRequest),
}

/// Calls for so long.
fn block(kubelet: &Kubelet, call: Call, time: Duration) -> Result<Vec<f64>> {
    let known = kubelet.known();
    let large = known.values().filter(|one| one.devices.len() == MANY);
    let mut ready: Vec<_> = large.map(|one| (one.api.clone(), of(one, call))).collect();
    ensure!(!ready.is_empty(), "the kubelet knows no resource");
    kubelet.ask(async {
        // What is done once for each connection is not in it.
        for (api, request) in &mut ready {
            made(api, request.clone()).await?;
        }
        let mut times = Vec::new();
        let begin = Instant::now();
        'all: loop {
            for (api, request) in &mut ready {
                let request = request.clone();
                let start = Instant::now();
                made(api, request).await?;
                times.push(ms(start.elapsed()));
                if begin.elapsed() >= time {
                    break 'all;
                }
            }
        }
        Ok(times)
    })
}

/// The call of one resource, for devices that stay.
fn of(plugin: &Plugin, call: Call) -> Ready {
    let ids = plugin.devices.keys();
    let staying = ids.filter(|id| number(id).is_some_and(|number| number >= MANY / 10));
    let staying = staying.cloned();
    match call {
        Call::Allocate(count) => Ready::Allocate(AllocateRequest {
            container_requests: vec![ContainerAllocateRequest {
                devices_ids: staying.take(count).collect(),
            }],
        }),
        Call::Preferred => Ready::Preferred(PreferredAllocationRequest {
            container_requests: vec![ContainerPreferredAllocationRequest {
                available_device_i_ds: staying.collect(),
                must_include_device_i_ds: Vec::new(),
                allocation_size: i32::try_from(PREFERRED).unwrap_or(i32::MAX),
            }],
        }),
    }
}

/// Makes it, and looks whether the answer has as many devices as were asked for.
async fn made(api: &mut DevicePluginClient<Channel>, ready: Ready) -> Result<(), Status> {
    let (asked, given) = match ready {
        Ready::Allocate(request) => {
            let asked = request.container_requests.iter();
            let asked: usize = asked.map(|one| one.devices_ids.len()).sum();
            let answer = api.allocate(request).await?.into_inner();
            let given = answer.container_responses.iter();
            (asked, given.map(|one| one.devices.len()).sum())
        }
        Ready::Preferred(request) => {
            let answer = api.get_preferred_allocation(request).await?.into_inner();
            let given = answer.container_responses.iter();
            (PREFERRED, given.map(|one| one.device_i_ds.len()).sum())
        }
    };
    let given: usize = given;
    match given == asked && asked > 0 {
        true => Ok(()),
        false => Err(Status::internal(format!(
            "{given} devices were given in place of {asked}"
        ))),
    }
}
