//! Whether an endpoint is still enforced: others can detach programs (`bpftool link detach`) and
//! change rows. Cheap: a handful of system calls for an endpoint.

use super::{DatapathError, EndpointRows, attach, attach::Interface, loader::Loaded, rows};

/// The first thing that is not as [`super::Datapath::upsert_endpoint`] and
/// [`super::Datapath::attach_endpoint`] leave it.
pub(super) fn difference(
    loaded: &mut Loaded,
    interface: Interface<'_>,
    wanted: &EndpointRows,
) -> Result<Option<String>, DatapathError> {
    let ifindex = interface.ifindex;
    match loaded.maps.endpoint(&wanted.key)? {
        Some(row) if row == wanted.row => {}
        found => {
            let expected = wanted.row;
            return Ok(Some(format!(
                "map endpoints, interface {ifindex}: expected {expected:?}, found {found:?}"
            )));
        }
    }
    for (key, expected) in &wanted.addrs {
        let found = loaded.maps.address(key)?;
        if found != Some(*expected) {
            let ip = rows::ip_of(&key.addr);
            return Ok(Some(format!(
                "map endpoint_addrs, {ip}: expected {expected:?}, found {found:?}"
            )));
        }
    }
    let missing = attach::missing(loaded.current(), interface)?;
    let ifname = interface.ifname;
    Ok(missing.map(|program| format!("program {program} on {ifname}: expected, not attached")))
}
