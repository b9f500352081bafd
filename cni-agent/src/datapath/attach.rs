//! Puts programs on interfaces by pinned links. A pinned link is taken over and its program
//! replaced in place: there is no instant without a program.

use super::{
    DatapathError, UplinkXdp, XdpMode,
    grace::Expedited,
    kernel::{self, LinkState},
    loader::{self, CLASSIFIERS, FROM_POD, FROM_UPLINK, Loaded, TO_POD, TO_UPLINK, XDP_UPLINK},
    pins::{self, Pins},
    xdp,
};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use std::{
    io,
    path::{Path, PathBuf},
};
use tracing::{debug, warn};

/// One program on one interface, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name when it was attached.
    pub ifname: String,
    /// 0 when the interface is gone and the pin is stale.
    pub ifindex: u32,
    /// Name of the pin: the program's, for XDP with the mode.
    pub program: String,
    pub program_id: u32,
    pub link_id: u32,
    pub pin: PathBuf,
}

/// Where on an interface a tcx program goes.
#[derive(Clone, Copy)]
struct Hook {
    program: &'static str,
    direction: TcAttachType,
}

const ENDPOINT_HOOKS: [Hook; 2] = [
    Hook {
        program: FROM_POD,
        direction: TcAttachType::Ingress,
    },
    Hook {
        program: TO_POD,
        direction: TcAttachType::Egress,
    },
];
const UPLINK_HOOK: Hook = Hook {
    program: FROM_UPLINK,
    direction: TcAttachType::Ingress,
};

const ANSWERS_HOOK: Hook = Hook {
    program: TO_UPLINK,
    direction: TcAttachType::Egress,
};

/// An interface by name and number; both must fit the kernel's.
#[derive(Clone, Copy)]
pub(super) struct Interface<'a> {
    pub(super) ifname: &'a str,
    pub(super) ifindex: u32,
}

impl Interface<'_> {
    /// Attaching goes by name: it must not be another interface's by now.
    fn check(&self) -> Result<(), DatapathError> {
        let ifname = || self.ifname.to_owned();
        match index_of(self.ifname).map_err(|source| DatapathError::Socket { source })? {
            None => Err(DatapathError::NoInterface { ifname: ifname() }),
            Some(found) if found != self.ifindex => Err(DatapathError::OtherInterface {
                ifname: ifname(),
                expected: self.ifindex,
                found,
            }),
            Some(_) => Ok(()),
        }
    }
}

/// Attaches both programs of a pod's host-side interface.
pub(super) fn endpoint(
    ebpf: &mut Ebpf,
    pins: &Pins,
    interface: Interface<'_>,
) -> Result<(), DatapathError> {
    interface.check()?;
    // Once for both; nothing is attached to one that has them already.
    let new = !pins.interface(interface.ifname).exists();
    let _quick = new.then(Expedited::begin);
    for hook in ENDPOINT_HOOKS {
        tcx(
            loader::classifier(ebpf, hook.program)?,
            pins,
            interface,
            hook,
        )?;
    }
    Ok(())
}

/// Attaches the program for what the host answers by an uplink.
pub(super) fn answers(
    ebpf: &mut Ebpf,
    pins: &Pins,
    interface: Interface<'_>,
) -> Result<(), DatapathError> {
    interface.check()?;
    let program = loader::classifier(ebpf, TO_UPLINK)?;
    tcx(program, pins, interface, ANSWERS_HOOK)
}

/// Attaches the programs of an uplink.
pub(super) fn uplink(
    loaded: &mut Loaded,
    pins: &Pins,
    interface: Interface<'_>,
    mode: XdpMode,
) -> Result<UplinkXdp, DatapathError> {
    interface.check()?;
    tcx(
        loader::classifier(loaded.current(), FROM_UPLINK)?,
        pins,
        interface,
        UPLINK_HOOK,
    )?;
    // Only where it is already: it costs each packet that leaves.
    if pins.link(interface.ifname, TO_UPLINK)?.exists() {
        answers(loaded.current(), pins, interface)?;
    }
    xdp::take(
        loader::xdp(&mut loaded.ebpf, XDP_UPLINK)?,
        &pins.interface(interface.ifname),
        interface,
        mode,
    )
}

/// The number of an interface of the calling thread's network namespace. Not from /sys, which
/// shows the namespace it was mounted in.
fn index_of(ifname: &str) -> io::Result<Option<u32>> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    match netdevice::name_to_index(&socket, ifname) {
        Ok(ifindex) => Ok(Some(ifindex)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    interface: Interface<'_>,
    hook: Hook,
) -> Result<(), DatapathError> {
    let pin = pins.link(interface.ifname, hook.program)?;
    let attach = |source| DatapathError::Attach {
        program: hook.program,
        ifname: interface.ifname.to_owned(),
        source,
    };
    if adoptable(&pin, interface)? {
        replace(program, &pin, interface.ifname, hook.program)?;
    } else {
        remove_link(&pin)?;
        let _quick = Expedited::begin();
        let last = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program
            .attach_with_options(interface.ifname, hook.direction, last)
            .map_err(attach)?;
        let link = FdLink::try_from(program.take_link(id).map_err(attach)?);
        pin_link(link, &pin, hook.program, interface)?;
    }
    verify_tcx(program, interface, hook)
}

/// Gives a pinned link another program, in one step.
fn replace(
    program: &mut SchedClassifier,
    pin: &Path,
    ifname: &str,
    name: &'static str,
) -> Result<(), DatapathError> {
    let attach = |source| DatapathError::Attach {
        program: name,
        ifname: ifname.to_owned(),
        source,
    };
    let link = open(pin)?;
    let link = SchedClassifierLink::try_from(link).map_err(|source| DatapathError::Link {
        path: pin.to_owned(),
        source,
    })?;
    let id = program.attach_to_link(link).map_err(attach)?;
    // The pin holds the link; only our descriptor is closed.
    drop(program.take_link(id).map_err(attach)?);
    Ok(())
}

/// Gives every pinned link of a tcx program that of this object. Those of interfaces that are gone are left. Goes on
/// after a failure.
///
/// # Errors
/// The first link that keeps what it has.
pub(super) fn replace_all(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), DatapathError> {
    let mut failed = None;
    for ifname in pins.interfaces()? {
        for name in CLASSIFIERS {
            let pin = pins.link(&ifname, name)?;
            if !is_live(&pin)? {
                continue;
            }
            let program = loader::classifier(ebpf, name)?;
            if let Err(error) = replace(program, &pin, &ifname, name)
                && is_live(&pin)?
            {
                failed = failed.or(Some(error));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Asks the interface, not the link: a link may belong to an interface of the same number in
/// another namespace.
fn verify_tcx(
    program: &SchedClassifier,
    interface: Interface<'_>,
    hook: Hook,
) -> Result<(), DatapathError> {
    let ifname = || interface.ifname.to_owned();
    let attach = |source| DatapathError::Attach {
        program: hook.program,
        ifname: ifname(),
        source,
    };
    let ours = program.info().map_err(attach)?.id();
    let (_, there) =
        SchedClassifier::query_tcx(interface.ifname, hook.direction).map_err(attach)?;
    if there.iter().any(|info| info.id() == ours) {
        Ok(())
    } else {
        Err(DatapathError::NotAttached {
            program: hook.program,
            ifname: ifname(),
        })
    }
}

/// The first program of an endpoint's interface that is not on its hook.
pub(super) fn missing(
    ebpf: &mut Ebpf,
    interface: Interface<'_>,
) -> Result<Option<&'static str>, DatapathError> {
    interface.check()?;
    for hook in ENDPOINT_HOOKS {
        match verify_tcx(loader::classifier(ebpf, hook.program)?, interface, hook) {
            Ok(()) => {}
            Err(DatapathError::NotAttached { program, .. }) => return Ok(Some(program)),
            Err(fault) => return Err(fault),
        }
    }
    Ok(None)
}

/// Whether there is a pinned link and it is on this very interface.
pub(super) fn adoptable(pin: &Path, interface: Interface<'_>) -> Result<bool, DatapathError> {
    let Some(state) = state(pin)? else {
        return Ok(false);
    };
    if state.ifindex != interface.ifindex {
        warn!(
            ifname = interface.ifname,
            pin = %pin.display(),
            "the pinned link is on interface {}, not {}: replacing it",
            state.ifindex,
            interface.ifindex
        );
    }
    Ok(state.ifindex == interface.ifindex)
}

fn state(pin: &Path) -> Result<Option<LinkState>, DatapathError> {
    match kernel::link_state(pin) {
        Ok(state) => Ok(Some(state)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DatapathError::Pin {
            action: "read",
            path: pin.to_owned(),
            source,
        }),
    }
}

pub(super) fn open(pin: &Path) -> Result<FdLink, DatapathError> {
    let link = PinnedLink::from_pin(pin).map_err(|source| DatapathError::Link {
        path: pin.to_owned(),
        source,
    })?;
    Ok(FdLink::from(link))
}

pub(super) fn pin_link(
    link: Result<FdLink, LinkError>,
    pin: &Path,
    program: &'static str,
    interface: Interface<'_>,
) -> Result<(), DatapathError> {
    let link = link.map_err(|_| DatapathError::NoLink {
        program,
        ifname: interface.ifname.to_owned(),
    })?;
    link.pin(pin)
        .map(drop)
        .map_err(|source| DatapathError::PinLink {
            path: pin.to_owned(),
            source,
        })
}

/// Detaches what an interface has and removes its pins; returns the index it was on.
pub(super) fn detach(pins: &Pins, ifname: &str) -> Result<Option<u32>, DatapathError> {
    let mut ifindex = None;
    for program in pins.programs(ifname)? {
        let pin = pins.interface(ifname).join(program);
        ifindex = ifindex
            .or(state(&pin)?.map(|s| s.ifindex))
            .filter(|i| *i != 0);
        remove_link(&pin)?;
    }
    pins::remove(&pins.interface(ifname))?;
    Ok(ifindex)
}

/// Whether there is a pinned link and its interface lives.
pub(super) fn is_live(pin: &Path) -> Result<bool, DatapathError> {
    Ok(state(pin)?.is_some_and(|state| state.ifindex != 0))
}

/// Detaches at once, then removes the pin.
pub(super) fn remove_link(pin: &Path) -> Result<(), DatapathError> {
    if !pin.exists() {
        return Ok(());
    }
    let detached = {
        let _quick = Expedited::begin();
        kernel::detach(pin)
    };
    match detached {
        Ok(()) => {}
        // The interface is gone and took the attachment along; the pin is what is left.
        Err(e) => debug!(pin = %pin.display(), "the link was not attached any more: {e}"),
    }
    pins::remove(pin)
}

/// Everything that is attached, by interface and program.
pub(super) fn list(pins: &Pins) -> Result<Vec<Attachment>, DatapathError> {
    let mut list = Vec::new();
    for ifname in pins.interfaces()? {
        for program in pins.programs(&ifname)? {
            let pin = pins.interface(&ifname).join(&program);
            if let Some(LinkState {
                link_id,
                program_id,
                ifindex,
            }) = state(&pin)?
            {
                let ifname = ifname.clone();
                list.push(Attachment {
                    ifname,
                    ifindex,
                    program,
                    program_id,
                    link_id,
                    pin,
                });
            }
        }
    }
    Ok(list)
}

/// Whether the pins of an interface are those of an endpoint.
pub(super) fn is_endpoint(pins: &Pins, ifname: &str) -> Result<bool, DatapathError> {
    let programs = pins.programs(ifname)?;
    Ok(programs.is_empty()
        || programs
            .iter()
            .any(|p| ENDPOINT_HOOKS.iter().any(|h| h.program == p)))
}
