//! XDP on an uplink: which mode, by a pinned link like every other program's.

use super::{
    DatapathError, XdpMode,
    attach::{Interface, adoptable, open, pin_link, remove_link},
    kernel,
    loader::XDP_UPLINK,
};
use aya::programs::{
    Xdp,
    links::FdLink,
    xdp::{self, XdpLink},
};
use std::path::Path;
use tracing::debug;

/// Pins of `xdp_uplink`: the name tells the mode, which the kernel does not.
const XDP_NATIVE: &str = "xdp_uplink_native";
const XDP_GENERIC: &str = "xdp_uplink_generic";

/// What became of XDP on an uplink.
#[derive(Debug)]
pub struct UplinkXdp {
    /// Never `Auto`.
    pub mode: XdpMode,
    /// Why `Auto` found no mode that the kernel takes, most often another's program. The uplink
    /// works all the same: `from_uplink` refuses what XDP would have.
    pub refused: Option<DatapathError>,
}

impl From<XdpMode> for UplinkXdp {
    fn from(mode: XdpMode) -> Self {
        let refused = None;
        Self { mode, refused }
    }
}

/// Puts the program on an uplink in the mode that is asked for, or replaces it in place. `folder` has
/// the interface's pins.
pub(super) fn take(
    program: &mut Xdp,
    folder: &Path,
    interface: Interface<'_>,
    mode: XdpMode,
) -> Result<UplinkXdp, DatapathError> {
    let (native, generic) = (folder.join(XDP_NATIVE), folder.join(XDP_GENERIC));
    let automatic = mode == XdpMode::Auto;
    let mut refused = None;
    // The kernel takes one mode at a time: the other's link has to go first.
    match mode {
        XdpMode::Off => {}
        XdpMode::Auto if has_costly_xdp(interface.ifname) => {}
        XdpMode::Auto if adopt_xdp(program, &generic, interface)? => {
            return Ok(XdpMode::Generic.into());
        }
        XdpMode::Auto | XdpMode::Native => {
            remove_link(&generic)?;
            match attach_xdp(program, &native, interface, xdp::XdpMode::Driver) {
                Ok(()) => return Ok(XdpMode::Native.into()),
                Err(fault @ DatapathError::Attach { .. }) if automatic => {
                    debug!(
                        ifname = interface.ifname,
                        "no native XDP, taking generic: {fault}"
                    );
                }
                Err(fault) => return Err(fault),
            }
            match attach_xdp(program, &generic, interface, xdp::XdpMode::Skb) {
                Ok(()) => return Ok(XdpMode::Generic.into()),
                Err(fault @ DatapathError::Attach { .. }) => refused = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
        XdpMode::Generic => {
            remove_link(&native)?;
            attach_xdp(program, &generic, interface, xdp::XdpMode::Skb)?;
            return Ok(XdpMode::Generic.into());
        }
    }
    remove_link(&native)?;
    remove_link(&generic)?;
    Ok(UplinkXdp {
        mode: XdpMode::Off,
        refused,
    })
}

/// Native XDP on a veth pair takes segmentation offload from its other end: one TCP stream then
/// costs five times the CPU time (generic XDP: one and a half times, measured), far more than an early drop can save.
fn has_costly_xdp(ifname: &str) -> bool {
    kernel::driver(ifname).is_ok_and(|driver| driver == "veth")
}

fn attach_xdp(
    program: &mut Xdp,
    pin: &Path,
    interface: Interface<'_>,
    mode: xdp::XdpMode,
) -> Result<(), DatapathError> {
    if adopt_xdp(program, pin, interface)? {
        return Ok(());
    }
    remove_link(pin)?;
    let attach = |source| DatapathError::Attach {
        program: XDP_UPLINK,
        ifname: interface.ifname.to_owned(),
        source,
    };
    let id = program
        .attach_to_if_index(interface.ifindex, mode)
        .map_err(attach)?;
    let link = FdLink::try_from(program.take_link(id).map_err(attach)?);
    pin_link(link, pin, XDP_UPLINK, interface)
}

/// Takes over a pinned XDP link; false when there is none for this interface.
fn adopt_xdp(
    program: &mut Xdp,
    pin: &Path,
    interface: Interface<'_>,
) -> Result<bool, DatapathError> {
    if !adoptable(pin, interface)? {
        return Ok(false);
    }
    let attach = |source| DatapathError::Attach {
        program: XDP_UPLINK,
        ifname: interface.ifname.to_owned(),
        source,
    };
    let link = XdpLink::try_from(open(pin)?).map_err(|source| DatapathError::Link {
        path: pin.to_owned(),
        source,
    })?;
    let id = program.attach_to_link(link).map_err(attach)?;
    drop(program.take_link(id).map_err(attach)?);
    Ok(true)
}
