//! Keeps what this node answers for in the map, and tells the link when it takes over.

use super::frame;
use crate::{datapath::Announced, network::part::Running};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

/// How long a node answers without being told to go on.
const LASTS: Duration = Duration::from_millis(2500);
/// How often it is told to.
const RENEWED: Duration = Duration::from_secs(1);
/// How often the link is told of a new place: a frame may get lost.
const TIMES: u8 = 3;
/// And the pause between.
const BETWEEN: Duration = Duration::from_millis(300);

/// What was done for what is answered for.
#[derive(Default)]
struct Done {
    /// How often the link is still to be told.
    untold: BTreeMap<Announced, u8>,
    /// Open while the interface is to take the frames in which an IPv6 address is asked for.
    groups: BTreeMap<Announced, UdpSocket>,
    rows: BTreeSet<Announced>,
}

/// Announces what there is to be, until nobody tells that any more.
pub(super) async fn announce(
    running: Arc<Running>,
    mut answered: watch::Receiver<Option<BTreeSet<IpAddr>>>,
) {
    let mut done = Done::default();
    loop {
        let addresses = answered.borrow_and_update().clone();
        if let (Some(addresses), Some(desired)) = (addresses, running.network.view().desired) {
            let kernel = &running.network.kernel;
            match kernel.announce(&addresses, &desired.uplinks, LASTS).await {
                Ok(rows) => done.follow(rows.into_iter().collect()),
                Err(error) => {
                    tracing::warn!(%error, "this node may fall silent about load balancer addresses");
                }
            }
        }
        let pause = if done.untold.is_empty() {
            RENEWED
        } else {
            BETWEEN
        };
        tokio::select! {
            changed = answered.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

impl Done {
    fn follow(&mut self, rows: BTreeSet<Announced>) {
        self.groups.retain(|row, _| rows.contains(row));
        self.untold.retain(|row, _| rows.contains(row));
        for row in rows.difference(&self.rows) {
            tracing::info!(address = %row.address, ifindex = row.ifindex, "answering for a load balancer address");
            self.untold.insert(*row, TIMES);
            if let IpAddr::V6(address) = row.address {
                match join(address, row.ifindex) {
                    Ok(socket) => drop(self.groups.insert(*row, socket)),
                    Err(error) => {
                        tracing::warn!(%address, %error, "some may not find the load balancer address");
                    }
                }
            }
        }
        self.rows = rows;
        self.untold.retain(|row, times| {
            if let Err(error) = frame::tell(row) {
                tracing::warn!(address = %row.address, %error, "the link is not told where it is now");
            }
            *times -= 1;
            *times > 0
        });
    }
}

/// Has an interface take what is sent to the solicited-node group of an address.
fn join(address: Ipv6Addr, ifindex: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    socket.join_multicast_v6(&solicited_node(address), ifindex)?;
    Ok(socket)
}

/// RFC 4291 §2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_asked_for_in_the_group_of_its_last_24_bits() {
        let group = solicited_node("4037::1:800:200e:8c6c".parse().unwrap());
        assert_eq!(group, "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
    }
}
