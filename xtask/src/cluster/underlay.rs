//! The network between the members of a cluster: a namespace for each, joined by a bridge.

use super::{place::Cluster, plan::Member};
use crate::lab::run as program;
use anyhow::Result;

/// Makes the bridge, and the control plane's namespace on it.
///
/// # Errors
/// Those of `ip`.
pub(super) fn make(cluster: &Cluster) -> Result<()> {
    let underlay = cluster.netns(Member::Underlay);
    add(cluster, Member::Underlay)?;
    ip(&underlay, "link add br0 type bridge")?;
    addresses(cluster, Member::Underlay, "br0")?;
    // Forwards what nodes send to the outside, of which there is none.
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
                   echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    let mut shell = cluster.inside(Member::Underlay, "sh");
    crate::workspace::output(shell.args(["-euc", forward]))?;
    attach(cluster, Member::ControlPlane)
}

/// Makes a member's namespace, with its address and a link to the bridge.
///
/// # Errors
/// Those of `ip`.
pub(super) fn attach(cluster: &Cluster, member: Member) -> Result<()> {
    add(cluster, member)?;
    let (port, netns) = (port(member), cluster.netns(member));
    let underlay = cluster.netns(Member::Underlay);
    ip(
        &underlay,
        &format!("link add {port} type veth peer name eth0 netns {netns}"),
    )?;
    ip(&underlay, &format!("link set {port} master br0 up"))?;
    addresses(cluster, member, "eth0")?;
    for gateway in [Member::Underlay.v4().to_string(), Member::Underlay.v6()] {
        ip(&netns, &format!("route add default via {gateway}"))?;
    }
    Ok(())
}

/// Removes a member's link and its namespace, which ends when nothing is left in it.
///
/// # Errors
/// Those of `ip`.
pub(super) fn detach(cluster: &Cluster, member: Member) -> Result<()> {
    ip(
        &cluster.netns(Member::Underlay),
        &format!("link delete {}", port(member)),
    )?;
    program("ip", &["netns", "delete", &cluster.netns(member)])
}

/// Its end of the link on the bridge.
fn port(member: Member) -> String {
    format!("to-{}", member.name())
}

fn add(cluster: &Cluster, member: Member) -> Result<()> {
    let _making = cluster.making()?;
    let name = cluster.netns(member);
    program("ip", &["netns", "add", &name])?;
    program("ip", &["-n", &name, "link", "set", "lo", "up"])
}

fn addresses(cluster: &Cluster, member: Member, device: &str) -> Result<()> {
    let name = cluster.netns(member);
    ip(&name, &format!("addr add {}/24 dev {device}", member.v4()))?;
    ip(
        &name,
        &format!("addr add {}/64 dev {device} nodad", member.v6()),
    )?;
    ip(&name, &format!("link set {device} up"))
}

fn ip(netns: &str, words: &str) -> Result<()> {
    let words: Vec<_> = ["-n", netns].into_iter().chain(words.split(' ')).collect();
    program("ip", &words)
}
