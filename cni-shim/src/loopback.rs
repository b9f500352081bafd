//! The plugin `loopback`, which containerd runs for each pod: the same program under that name, where a
//! node has none of its distribution's. It asks no agent: other networks' pods need `lo`, too.

use crate::{
    call::{Call, Command},
    conf::Conf,
    fault::{Fault, code},
    sandbox, version,
};
use netlink_packet_core::{
    Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::os::fd::AsFd;

/// The file's name, by which a runtime calls it.
pub(crate) const NAME: &str = "loopback";
/// `LOOPBACK_IFINDEX` of the kernel: `lo` is the first link of every namespace.
const INDEX: u32 = 1;
/// `RTM_NEWLINK` of linux/rtnetlink.h.
const NEW_LINK: u16 = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chained<'a> {
    #[serde(borrow)]
    prev_result: Option<&'a RawValue>,
}

/// Does one call and returns what belongs on standard output.
///
/// # Errors
/// Those of the sandbox, and 5 when the kernel refuses.
pub(crate) fn serve(call: &Call, conf: &Conf<'_>) -> Result<String, Fault> {
    version::allows(conf.version, call.command)?;
    // A DEL has nothing to do: the link ends with its namespace. No CHECK is worth more than the link
    // being up, which setting it up again sees to.
    if !call.command.needs_sandbox() {
        return Ok(String::new());
    }
    let Some(sandbox) = sandbox::open(call)? else {
        return Ok(String::new());
    };
    let refused = |error: Errno| {
        Fault::new(code::IO, format!("can't set lo up: {error}"))
            .with_details("the plugin needs CAP_SYS_ADMIN and CAP_NET_ADMIN, as runtimes give it")
    };
    // The one thread there is; it ends with the call.
    move_into_link_name_space(sandbox.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(refused)?;
    set_up().map_err(refused)?;
    if call.command == Command::Check {
        return Ok(String::new());
    }
    let before: Chained<'_> = serde_json::from_str(conf.raw.get())
        .map_err(|e| Fault::new(code::DECODE, format!("prevResult can't be decoded: {e}")))?;
    Ok(match before.prev_result {
        Some(result) => format!("{}\n", result.get()),
        None => format!("{}\n", result(conf.version, &call.netns)),
    })
}

/// What the kernel gives `lo` when it is set up.
fn result(version: &str, netns: &str) -> serde_json::Value {
    let address = |family: &str, address: &str| match version {
        // Until 0.4.0 each address told its family.
        "0.3.0" | "0.3.1" | "0.4.0" => {
            json!({ "version": family, "interface": 0, "address": address })
        }
        _ => json!({ "interface": 0, "address": address }),
    };
    json!({
        "cniVersion": version,
        "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns }],
        "ips": [address("4", "127.0.0.1/8"), address("6", "::1/128")],
        "dns": {},
    })
}

/// Sets `lo` of this thread's namespace up; one that is up stays so.
fn set_up() -> Result<(), Errno> {
    let link = LinkHeader {
        index: INDEX,
        flags: LinkFlags::Up,
        change_mask: LinkFlags::Up,
        ..LinkHeader::default()
    };
    let mut header = NetlinkHeader::default();
    header.message_type = NEW_LINK;
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let length = header.buffer_len() + link.buffer_len();
    header.length = u32::try_from(length).map_err(|_| Errno::OVERFLOW)?;
    let mut message = vec![0; length];
    let (first, second) = message.split_at_mut(header.buffer_len());
    header.emit(first);
    link.emit(second);

    // Protocol 0 of netlink is NETLINK_ROUTE.
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    send(&socket, &message, SendFlags::empty())?;
    // The kernel has answered when `send` returns.
    let mut answer = vec![0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    acknowledged(&answer[..length])
}

/// The kernel's answer, an error number or none.
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let answer = NetlinkBuffer::new_checked(answer).map_err(|_| Errno::PROTO)?;
    if answer.message_type() != NLMSG_ERROR {
        return Err(Errno::PROTO);
    }
    let error = ErrorBuffer::new_checked(answer.payload()).map_err(|_| Errno::PROTO)?;
    match error.code() {
        None => Ok(()),
        Some(number) => Err(Errno::from_raw_os_error(number.get().saturating_abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_says_what_the_kernel_gives_and_old_versions_the_family() {
        let new = result("1.1.0", "/run/netns/x");
        assert_eq!(new["ips"][1]["address"], "::1/128");
        assert!(new["ips"][0].get("version").is_none());
        let old = result("0.3.1", "/run/netns/x");
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["interfaces"][0]["sandbox"], "/run/netns/x");
    }

    #[test]
    fn the_kernels_refusal_is_told_and_garbage_is_none() {
        let answer = |code: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend(NLMSG_ERROR.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 16]);
            acknowledged(&bytes)
        };
        assert_eq!(answer(0), Ok(()));
        assert_eq!(answer(-1), Err(Errno::PERM));
        assert_eq!(acknowledged(b"garbage"), Err(Errno::PROTO));
    }
}
