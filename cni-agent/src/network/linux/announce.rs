//! Answers for addresses of Services on the uplinks' links.

use super::{Linux, blocking, fault};
use crate::{
    datapath::Announced,
    netlink::uplink::find_uplink_named,
    network::{desired::Uplink, kernel::KernelError},
};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

impl Linux {
    /// Answers for these addresses, each on the uplinks with an address of its family, and for no others,
    /// for so long from now on. Answers what is answered for.
    ///
    /// # Errors
    /// An uplink can't be looked up, or the map not written.
    pub async fn announce(
        &self,
        addresses: &BTreeSet<IpAddr>,
        uplinks: &[Uplink],
        lasts: Duration,
    ) -> Result<Vec<Announced>, KernelError> {
        let mut rows = Vec::new();
        if !addresses.is_empty() {
            for uplink in uplinks {
                // Its MAC may change.
                let found = find_uplink_named(&uplink.name).await.map_err(fault)?;
                let Some(mac) = found.mac else { continue };
                let families: Vec<bool> = uplink.addresses.iter().map(IpAddr::is_ipv4).collect();
                let of_family = addresses.iter().filter(|a| families.contains(&a.is_ipv4()));
                rows.extend(of_family.map(|address| Announced {
                    address: *address,
                    ifindex: found.ifindex,
                    mac,
                }));
            }
        }
        let (datapath, desired) = (self.datapath.clone(), rows.clone());
        blocking(move || datapath.announce(&desired, lasts)).await?;
        Ok(rows)
    }
}
