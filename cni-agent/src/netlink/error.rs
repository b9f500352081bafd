//! Everything that can go wrong between the agent and the kernel's network configuration. Each
//! message names the object and says what a person can do.

use ipnetwork::IpNetwork;
use std::{fmt, io, path::PathBuf, time::Duration};

/// Why a change or a question to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel answered a request with an error.
    #[error("{0}")]
    Refused(Refusal),

    /// The netlink socket itself failed: nothing is known of the requests sent by it.
    #[error("netlink socket: cannot {what}: {source}; is CAP_NET_ADMIN there, is memory short?")]
    Socket {
        what: &'static str,
        #[source]
        source: io::Error,
    },

    /// An answer that cannot be understood.
    #[error("cannot read the kernel's answer about {object}: {fault}; please report this")]
    Answer { object: String, fault: String },

    /// The interface that the pod should get is there already.
    #[error(
        "the sandbox already has an interface {ifname}; \
         delete the attachment first or ask for another CNI_IFNAME"
    )]
    Exists { ifname: String },

    /// The host's end is there already, for this attachment or for somebody else.
    #[error(
        "the host already has a link {host_ifname} (alias {alias:?}); \
         delete the attachment first, or rename the link if it is not Fairlead's"
    )]
    HostExists { host_ifname: String, alias: String },

    /// A link under our name that we did not make.
    #[error(
        "link {ifname} has the alias {found:?}, not {expected:?}: not made for this attachment, \
         so it is left alone; rename or remove it by hand"
    )]
    NotOurs {
        ifname: String,
        expected: String,
        found: String,
    },

    /// A link that should be there is not.
    #[error("there is no link {ifname}; delete the attachment and add it again")]
    NoLink { ifname: String },

    /// The descriptor is not one of a network namespace.
    #[error(
        "the descriptor for CNI_NETNS is not a network namespace ({0}); \
         the runtime must pass a path like /run/netns/NAME or /proc/PID/ns/net"
    )]
    NotNetns(String),

    /// The descriptor is the node's own namespace: wiring it would change the node itself.
    #[error(
        "CNI_NETNS is the node's own network namespace ({0}); \
         pods with hostNetwork must not be given to CNI"
    )]
    HostNetns(String),

    /// Something about the namespaces of this process or a pod.
    #[error("cannot {what}: {source}; is CAP_SYS_ADMIN there and /proc mounted?")]
    Namespace {
        what: &'static str,
        #[source]
        source: io::Error,
    },

    /// No carrier in time.
    #[error(
        "interface {ifname} of the sandbox is {state} {waited:?} after its host end {host_ifname} \
         was set up; did somebody set it down, or does the node starve for CPU?"
    )]
    NotUp {
        ifname: String,
        host_ifname: String,
        state: String,
        waited: Duration,
    },

    /// Routes that could not be made as wanted. All others were applied.
    #[error("{}{}", Refused(refused), Conflicting(conflicts))]
    Routes {
        /// Prefixes that somebody else routes: left as they are.
        conflicts: Vec<RouteConflict>,
        /// Requests that the kernel did not take.
        refused: Vec<Refusal>,
    },

    /// A kernel setting under /proc/sys.
    #[error("cannot {action} {}: {source}; mount /proc/sys writable for the agent", path.display())]
    Sysctl {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    /// No interface holds the node's address.
    #[error(
        "no interface holds the node's address {addresses}; \
         correct the Node's InternalIP or give --uplink"
    )]
    NoUplink { addresses: String },

    /// A name that cannot be an interface's.
    #[error("{0:?} is not an interface name: 1 to 15 bytes without '/', ':' or white space")]
    Ifname(String),

    /// What the caller of `link::wire` puts in place before packets may flow, in its words.
    #[error("{0}")]
    Enforce(String),

    /// The thread that did the work is gone.
    #[error("the thread for {0} ended without an answer; please report this")]
    Thread(&'static str),
}

impl NetlinkError {
    /// The error number of the kernel, where the kernel refused one request.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused(refusal) => Some(refusal.errno),
            _ => None,
        }
    }
}

/// One request that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked, as in "add route 10.0.0.0/24 via 192.0.2.1".
    pub action: String,
    /// The kernel's error number, positive.
    pub errno: i32,
    /// The kernel's own words, where it gave some.
    pub reason: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        write!(f, "the kernel refused to {}: {error}", self.action)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        match self.errno {
            libc::EPERM | libc::EACCES => write!(f, "; the agent needs CAP_NET_ADMIN"),
            libc::ENOBUFS | libc::ENOMEM => write!(f, "; free memory and try again"),
            libc::EOPNOTSUPP => write!(f, "; this kernel lacks the feature (6.6 or newer needed)"),
            libc::ENETUNREACH => write!(f, "; the next hop must be reachable on the uplink"),
            _ => Ok(()),
        }
    }
}

/// A route of somebody else for a prefix that we should route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConflict {
    pub cidr: IpNetwork,
    /// The route that is there, as `ip route` would tell it.
    pub found: String,
}

impl fmt::Display for RouteConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.cidr, self.found)
    }
}

struct Refused<'a>(&'a [Refusal]);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|refusal| write!(f, "{refusal}; "))
    }
}

struct Conflicting<'a>(&'a [RouteConflict]);

impl fmt::Display for Conflicting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else {
            return write!(f, "all other routes are in place");
        };
        write!(
            f,
            "routes that are not Fairlead's are left as they are: {first}"
        )?;
        rest.iter()
            .try_for_each(|conflict| write!(f, ", {conflict}"))?;
        write!(
            f,
            "; remove them or change the podCIDRs (all other routes are in place)"
        )
    }
}
