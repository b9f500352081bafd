//! What people ask the kernel and the maps.

use super::{Linux, blocking};
use crate::{
    datapath::{DropRow as CountedDrop, FlowCounts, XdpMode},
    metrics::MapFill,
    model::Endpoint,
    network::{kernel::KernelError, services::Served},
    query::{DropRow, PathRow, PinRow},
};
use std::{collections::BTreeMap, sync::PoisonError};

impl Linux {
    /// The mode that XDP has on an uplink.
    pub fn xdp_on(&self, uplink: &str) -> String {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        match attached.get(uplink) {
            Some((_, XdpMode::Native)) => "native",
            Some((_, XdpMode::Generic)) => "generic",
            _ => "off",
        }
        .to_owned()
    }

    /// What the maps hold of Services.
    pub fn served(&self) -> Served {
        self.served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Flows to Services that the programs remember.
    ///
    /// # Errors
    /// When the map can't be read.
    pub async fn flow_counts(&self) -> Result<FlowCounts, KernelError> {
        let datapath = self.datapath.clone();
        blocking(move || datapath.flow_counts()).await
    }

    /// Drops by interface and reason, named by the endpoints they belong to.
    ///
    /// # Errors
    /// When a map can't be read.
    pub async fn drop_rows(&self, endpoints: &[Endpoint]) -> Result<Vec<DropRow>, KernelError> {
        let datapath = self.datapath.clone();
        let (drops, rows) = blocking(move || {
            Ok::<_, crate::datapath::DatapathError>((datapath.drops()?, datapath.endpoints()?))
        })
        .await?;
        let by_id: BTreeMap<u32, &Endpoint> = endpoints.iter().map(|e| (e.id, e)).collect();
        let by_ifindex: BTreeMap<u32, &Endpoint> = rows
            .iter()
            .filter_map(|(ifindex, row)| Some((*ifindex, *by_id.get(&row.id)?)))
            .collect();
        let uplinks: BTreeMap<u32, String> = {
            let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
            attached
                .iter()
                .map(|(name, (ifindex, _))| (*ifindex, name.clone()))
                .collect()
        };
        Ok(drops
            .iter()
            .map(|drop| named(drop, &by_ifindex, &uplinks))
            .collect())
    }

    /// Packets by the way they took.
    ///
    /// # Errors
    /// When the map can't be read.
    pub async fn path_rows(&self) -> Result<Vec<PathRow>, KernelError> {
        let datapath = self.datapath.clone();
        let paths = blocking(move || datapath.paths()).await?;
        let row =
            |(path, counter): &(crate::datapath::PacketPath, crate::datapath::Counter)| PathRow {
                path: path.name().to_owned(),
                packets: counter.packets,
                bytes: counter.bytes,
            };
        Ok(paths.iter().map(row).collect())
    }

    /// What a scrape reads of the maps: how full each is, and drops by reason.
    ///
    /// # Errors
    /// When a map can't be read.
    pub async fn counted(
        &self,
    ) -> Result<(Vec<MapFill>, Vec<(&'static str, u64, u64)>), KernelError> {
        let datapath = self.datapath.clone();
        blocking(move || {
            let fills = datapath.fills()?.into_iter();
            let fills = fills.map(|(map, entries, capacity)| MapFill {
                map,
                entries,
                capacity,
            });
            let totals = datapath.drop_totals()?.into_iter();
            let totals = totals.map(|(reason, sum)| (reason.name(), sum.packets, sum.bytes));
            Ok::<_, crate::datapath::DatapathError>((fills.collect(), totals.collect()))
        })
        .await
    }

    /// Pinned maps and links with the bpftool command for each.
    ///
    /// # Errors
    /// When a pin can't be read.
    pub async fn pin_rows(&self) -> Result<Vec<PinRow>, KernelError> {
        let datapath = self.datapath.clone();
        let attachments = blocking(move || datapath.attachments()).await?;
        let maps = self.datapath.pinned().into_iter().map(|map| {
            let path = map.path.display().to_string();
            PinRow {
                name: map.name.to_owned(),
                kind: "map".to_owned(),
                command: format!("bpftool map dump pinned {path}"),
                path,
            }
        });
        let links = attachments.into_iter().map(|attachment| PinRow {
            name: format!("{}.{}", attachment.ifname, attachment.program),
            kind: "link".to_owned(),
            command: format!("bpftool prog show id {}", attachment.program_id),
            path: attachment.pin.display().to_string(),
        });
        Ok(maps.chain(links).collect())
    }
}

fn named(
    drop: &CountedDrop,
    endpoints: &BTreeMap<u32, &Endpoint>,
    uplinks: &BTreeMap<u32, String>,
) -> DropRow {
    let endpoint = endpoints.get(&drop.ifindex);
    let interface = endpoint.map(|e| e.host_ifname.clone());
    let interface = interface.or_else(|| uplinks.get(&drop.ifindex).cloned());
    let pod = endpoint.map(|e| match &e.pod {
        Some(pod) => pod.to_string(),
        None => e.attachment.to_string(),
    });
    DropRow {
        reason: drop.reason.name().to_owned(),
        ifindex: drop.ifindex,
        interface: interface.unwrap_or_default(),
        endpoint: pod.unwrap_or_default(),
        packets: drop.packets,
        bytes: drop.bytes,
    }
}
