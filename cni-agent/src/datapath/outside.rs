//! Settings for what comes to Services from outside of the node.

use super::{
    Datapath, DatapathError,
    attach::{self, Interface},
    maps::{typed, write},
    rows::addr_of,
};
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use cni_ebpf_common::outside::{FIRST_PORT, LAST_PORT, OutsideSettings};
use std::{net::IpAddr, ops::RangeInclusive};

const SETTINGS: &str = "outside_settings";

/// What comes by uplinks to Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedOutside {
    /// New flows are answered by the programs. Those that were are, until they end.
    pub take: bool,
    /// Where it can, a backend's node answers the client itself.
    pub direct: bool,
    /// The node's addresses; backends of other nodes are asked from the first of their family.
    pub addresses: Vec<IpAddr>,
    /// Source ports for that.
    pub ports: RangeInclusive<u16>,
}

impl ServedOutside {
    /// The ports unless the operator gives others.
    pub const PORTS: RangeInclusive<u16> = FIRST_PORT..=LAST_PORT;
}

pub(super) type Settings = Array<MapData, OutsideSettings>;

pub(super) fn settings(ebpf: &mut Ebpf) -> Result<Settings, DatapathError> {
    typed(ebpf, SETTINGS)
}

impl Datapath {
    /// Changes what is done with packets to Services from outside.
    ///
    /// # Errors
    /// The map can't be read or written.
    pub fn serve_outside(&self, served: &ServedOutside) -> Result<(), DatapathError> {
        let settings = &mut self.lock().maps.outside;
        let before = settings.get(&0, 0).map_err(|source| DatapathError::Map {
            action: "read",
            map: SETTINGS,
            source,
        })?;
        let of = |v4: bool| {
            let mut own = served.addresses.iter();
            own.find(|ip| ip.is_ipv4() == v4)
                .map_or([0; 16], |ip| addr_of(*ip))
        };
        let follow = served.take || before.flags & OutsideSettings::FOLLOW != 0;
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let (first, last) = (*served.ports.start(), *served.ports.end());
        let row = OutsideSettings {
            ipv4: of(true),
            ipv6: of(false),
            flags: bit(served.take, OutsideSettings::TAKE)
                | bit(follow, OutsideSettings::FOLLOW)
                | bit(served.take && served.direct, OutsideSettings::DIRECT),
            first_port: first,
            // All 65,536 would be 0: one less is as good.
            ports: last.saturating_sub(first).saturating_add(1),
        };
        if row != before {
            write(settings.set(0, row, 0), SETTINGS, 1)?;
        }
        Ok(())
    }

    /// Puts `to_uplink` on an uplink, which turns the host's own answers back, or replaces it in place.
    /// `attach_uplink` does that too, where it is already.
    ///
    /// # Errors
    /// As `attach_uplink`.
    pub fn attach_answers(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        let interface = Interface { ifname, ifindex };
        attach::answers(self.lock().current(), &self.pins, interface)
    }
}
