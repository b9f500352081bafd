//! Which addresses are neighbours, by the kernel's own routes: those can be next hops. What lies behind
//! a router cannot, whatever prefix the interface's address has (a cloud's /32, an IPv6 prefix that
//! a router announced).

use super::{
    NetlinkError, blocking,
    message::{family, single},
    socket::{Request, RouteSocket},
};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Of these addresses those that are reached without a gateway, with the number of the interface.
/// Unreachable ones are left out.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn on_link(addresses: Vec<IpAddr>) -> Result<BTreeMap<IpAddr, u32>, NetlinkError> {
    blocking("ways", move || {
        let requests = addresses.into_iter().map(look_up).collect();
        let answers = RouteSocket::route()?.send(requests)?;
        Ok(answers.replies.iter().filter_map(neighbour).collect())
    })
    .await
}

fn look_up(address: IpAddr) -> Request<RouteNetlinkMessage> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = single(address).prefix();
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::from(address)));
    Request {
        message: RouteNetlinkMessage::GetRoute(message),
        flags: 0,
        action: format!("look up the way to {address}"),
    }
}

fn neighbour(reply: &RouteNetlinkMessage) -> Option<(IpAddr, u32)> {
    let RouteNetlinkMessage::NewRoute(route) = reply else {
        return None;
    };
    let (mut address, mut ifindex) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = Some((*v4).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = Some((*v6).into()),
            RouteAttribute::Oif(number) => ifindex = Some(*number),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    let pair = (address?, ifindex?);
    (route.header.kind == RouteType::Unicast).then_some(pair)
}
