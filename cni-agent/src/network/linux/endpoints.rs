//! Endpoints as links and rows: from the one to the other, and in what they differ.

use crate::{
    datapath::{AddressRow, Datapath, DatapathError, endpoint_rows},
    model::{Addresses, AttachmentId, Endpoint, Mac},
    netlink::link::{self, LinkPlan},
};
use std::net::IpAddr;

pub(super) fn plan(endpoint: &Endpoint) -> LinkPlan {
    LinkPlan {
        ifname: endpoint.attachment.ifname().to_owned(),
        host_ifname: endpoint.host_ifname.clone(),
        alias: link::alias(&endpoint.attachment),
        mac: endpoint.mac,
        host_mac: endpoint.host_mac,
        addresses: endpoint.addresses,
        mtu: endpoint.mtu,
    }
}

/// An endpoint from its link and its rows alone; none if they don't fit together.
pub(super) fn recovered(link: &link::HostLink, rows: &[(IpAddr, AddressRow)]) -> Option<Endpoint> {
    let (container_id, ifname) = link
        .alias
        .strip_prefix(link::ALIAS_PREFIX)?
        .rsplit_once('/')?;
    let attachment = AttachmentId::new(container_id, ifname).ok()?;
    if link::host_ifname(&attachment) != link.name {
        return None;
    }
    let own = rows.iter().filter(|(_, row)| row.ifindex == link.ifindex);
    let mut addresses = Addresses::default();
    let mut row = None;
    for (address, of_address) in own {
        match address {
            IpAddr::V4(address) => addresses.v4 = Some(*address),
            IpAddr::V6(address) => addresses.v6 = Some(*address),
        }
        row = Some(of_address);
    }
    let row = row?;
    Some(Endpoint {
        attachment,
        id: row.id,
        network: String::new(),
        pod: None,
        addresses,
        mac: Mac(row.mac),
        host_mac: Mac(row.host_mac),
        host_ifname: link.name.clone(),
        mtu: link.mtu,
        sandbox: String::new(),
        created_at: 0,
        wired: true,
    })
}

/// What of an endpoint is not in the maps as it should be, and which program is not attached.
pub(super) fn in_maps(
    datapath: &Datapath,
    endpoint: &Endpoint,
    ifindex: u32,
) -> Result<Vec<String>, DatapathError> {
    let wanted = endpoint_rows(endpoint, ifindex);
    let mut differences = Vec::new();
    let row = datapath
        .endpoints()?
        .into_iter()
        .find(|(index, _)| *index == ifindex);
    if row.map(|(_, row)| row) != Some(wanted.row) {
        differences.push(format!(
            "map endpoints, interface {ifindex}: expected {:?}, found {row:?}",
            wanted.row
        ));
    }
    let addresses = datapath.addresses()?;
    for address in endpoint.addresses.iter() {
        let found = addresses
            .iter()
            .find(|(a, _)| *a == address)
            .map(|(_, row)| row);
        if found.is_none_or(|row| row.ifindex != ifindex || row.id != endpoint.id) {
            differences.push(format!(
                "map endpoint_addrs, {address}: expected interface {ifindex}, found {found:?}"
            ));
        }
    }
    let attached = datapath.attachments()?;
    for program in ["from_pod", "to_pod"] {
        let there = attached.iter().any(|a| {
            a.ifname == endpoint.host_ifname && a.program == program && a.ifindex == ifindex
        });
        if !there {
            differences.push(format!(
                "program {program} on {}: expected, not attached",
                endpoint.host_ifname
            ));
        }
    }
    Ok(differences)
}
