//! Kernel settings under /proc/sys/net of the namespace that the calling thread is in. Written only
//! where different: a write of `forwarding` has side effects even when it changes nothing.

use super::{NetlinkError, link};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Where the settings are for this process; /proc/sys unless said otherwise.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Says once where the settings can be written: a container that is not privileged has a read-only
/// /proc/sys. A second word is ignored.
pub fn set_root(path: &Path) {
    ROOT.get_or_init(|| path.to_owned());
}

fn root() -> &'static Path {
    ROOT.get().map_or(Path::new("/proc/sys"), PathBuf::as_path)
}

/// Which half of /proc/sys/net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn folder(self) -> &'static str {
        match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }
}

/// A setting that was changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Path below /proc/sys, as in `net/ipv4/ip_forward`.
    pub name: String,
    pub from: String,
    pub to: String,
}

/// Reads a setting, as in `net/ipv4/ip_forward`.
///
/// # Errors
/// `Sysctl` when there is none, or it cannot be read.
pub fn read(name: &str) -> Result<String, NetlinkError> {
    let path = path(name)?;
    let text = fs::read_to_string(&path).map_err(fault("read", &path))?;
    Ok(text.trim_end().to_owned())
}

/// Makes a setting `value`. Tells the change, if there was one to make.
///
/// # Errors
/// `Sysctl` when there is no such setting or it cannot be written (read-only /proc/sys).
pub fn write(name: &str, value: &str) -> Result<Option<Change>, NetlinkError> {
    let from = read(name)?;
    if from == value {
        return Ok(None);
    }
    put(name, value)?;
    Ok(Some(Change {
        name: name.to_owned(),
        from,
        to: value.to_owned(),
    }))
}

/// Makes a setting of one interface `value` that is known to be something else.
pub(super) fn put_interface(
    family: Family,
    ifname: &str,
    key: &str,
    value: &str,
) -> Result<(), NetlinkError> {
    put(&interface(family, ifname, key), value)
}

fn put(name: &str, value: &str) -> Result<(), NetlinkError> {
    let path = path(name)?;
    // Not created: a setting that is not there is an error.
    let file = fs::OpenOptions::new().write(true).open(&path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(fault("write", &path))
}

/// Reads a setting of one interface (or of "all" or "default").
///
/// # Errors
/// As [`read`].
pub fn read_interface(family: Family, ifname: &str, key: &str) -> Result<String, NetlinkError> {
    read(&interface(family, ifname, key))
}

/// Makes a setting of one interface `value`.
///
/// # Errors
/// As [`write`].
pub fn write_interface(
    family: Family,
    ifname: &str,
    key: &str,
    value: &str,
) -> Result<Option<Change>, NetlinkError> {
    write(&interface(family, ifname, key), value)
}

/// Makes the node a router for its pods: forwarding of both families. On every interface that listens
/// to router advertisements (`accept_ra` 1) it becomes 2 first, because a router no longer listens at
/// 1 and the kernel would drop the node's own default routes at that moment: those of uplinks and of
/// any other interface, since the switch is one for all. Hosts' ends of pods never listen. Reverse path filters
/// stay as they are: the path between pods of two nodes is symmetric on the uplink, and the ends to
/// the pods have their own (see `link`). Tells what was changed.
///
/// # Errors
/// `Sysctl` when /proc/sys is read-only or an uplink is not there.
pub fn prepare_host(uplinks: &[String]) -> Result<Vec<Change>, NetlinkError> {
    let mut changes = Vec::new();
    changes.extend(write("net/ipv4/ip_forward", "1")?);
    for uplink in uplinks {
        changes.extend(write_interface(Family::V4, uplink, "forwarding", "1")?);
    }
    // A kernel started without IPv6 needs nothing.
    if !root().join("net/ipv6").exists() {
        return Ok(changes);
    }
    for uplink in uplinks {
        changes.extend(keep_listening(uplink)?);
    }
    if read_interface(Family::V6, "all", "forwarding")? != "1" {
        for ifname in interfaces()? {
            match keep_listening(&ifname) {
                // It vanished meanwhile.
                Err(NetlinkError::Sysctl { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                change => changes.extend(change?),
            }
        }
    }
    changes.extend(write_interface(Family::V6, "all", "forwarding", "1")?);
    for uplink in uplinks {
        changes.extend(write_interface(Family::V6, uplink, "forwarding", "1")?);
    }
    Ok(changes)
}

/// Lets an interface that listens to router advertisements go on when it becomes a router's. One that
/// forwards already does not listen at 1, and shall not begin to.
fn keep_listening(ifname: &str) -> Result<Option<Change>, NetlinkError> {
    let listens = read_interface(Family::V6, ifname, "accept_ra")? == "1"
        && read_interface(Family::V6, ifname, "forwarding")? == "0";
    if listens {
        write_interface(Family::V6, ifname, "accept_ra", "2")
    } else {
        Ok(None)
    }
}

/// Interfaces with IPv6 that are not hosts' ends of pods, by name.
fn interfaces() -> Result<Vec<String>, NetlinkError> {
    let folder = root().join("net/ipv6/conf");
    let entries = fs::read_dir(&folder).map_err(fault("list", &folder))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(fault("list", &folder))?.file_name();
        // The kernel takes any bytes for a name; what is no text is no interface of a node's network.
        if let Some(name) = name.to_str()
            && !["all", "default", "lo"].contains(&name)
            && !link::is_host_ifname(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn interface(family: Family, ifname: &str, key: &str) -> String {
    format!("net/{}/conf/{ifname}/{key}", family.folder())
}

/// Names come from plans and from the kernel; neither may lead out of /proc/sys/net.
fn path(name: &str) -> Result<PathBuf, NetlinkError> {
    let safe = name.starts_with("net/")
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    let path = root().join(name);
    if safe {
        Ok(path)
    } else {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        Err(NetlinkError::Sysctl {
            action: "use",
            path,
            source,
        })
    }
}

fn fault(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> NetlinkError {
    let path = path.to_owned();
    move |source| NetlinkError::Sysctl {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_of_net_are_refused() {
        for name in [
            "kernel/hostname",
            "net/../kernel/hostname",
            "net//x",
            "/etc/passwd",
        ] {
            assert!(read(name).is_err(), "{name}");
        }
        assert!(read("net/ipv4/ip_forward").is_ok());
    }
}
