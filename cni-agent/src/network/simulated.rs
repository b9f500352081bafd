//! A kernel in memory for tests of the network part: it keeps what it is asked for, fails where it
//! is told to, and knows the rules that must hold at every step.

use super::{
    desired::{Desired, Uplink},
    kernel::{HostLink, Kernel, KernelError, Unapplied},
};
use crate::model::Endpoint;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

/// What the simulated kernel holds.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) links: BTreeMap<String, HostLink>,
    /// Endpoints with programs and entries, by host interface.
    pub(super) enforced: BTreeMap<String, Endpoint>,
    pub(super) applied: Option<Desired>,
    pub(super) uplinks: Vec<Uplink>,
    /// Addresses that are no neighbours.
    pub(super) behind_a_router: Vec<IpAddr>,
    /// What the next `apply`s do not take.
    pub(super) unapplied: Unapplied,
    /// Tables and chains of the firewall.
    pub(super) chains: Vec<(String, String)>,
    /// Endpoints of the last `mend`.
    pub(super) mended: usize,
    /// Calls left until one fails; none: no failure.
    pub(super) fail_in: Option<u32>,
    next_ifindex: u32,
    /// Every call, in order.
    pub(super) calls: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Simulated(pub(super) Arc<Mutex<State>>);

impl Simulated {
    fn call<T>(&self, name: &str, act: impl FnOnce(&mut State) -> T) -> Result<T, KernelError> {
        let mut state = self.0.lock().unwrap();
        state.calls.push(name.to_owned());
        match state.fail_in.as_mut() {
            Some(0) => {
                state.fail_in = None;
                return Err(KernelError::Refused(format!("{name} refused")));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(act(&mut state))
    }

    /// The first step of `wire`, which Linux undoes itself and this one leaves to `remove`.
    fn create(&self, endpoint: &Endpoint) -> Result<u32, KernelError> {
        self.call("create", |state| {
            state.next_ifindex += 1;
            let link = HostLink {
                name: endpoint.host_ifname.clone(),
                ifindex: 10 + state.next_ifindex,
                alias: format!("fairlead:{}", endpoint.attachment),
                up: false,
            };
            let ifindex = link.ifindex;
            let before = state.links.insert(endpoint.host_ifname.clone(), link);
            assert!(
                before.is_none(),
                "a second link for {}",
                endpoint.attachment
            );
            ifindex
        })
    }

    /// The last step of `wire`.
    fn bring_up(&self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.call("bring_up", |state| {
            let enforced = state.enforced.contains_key(&endpoint.host_ifname);
            assert!(enforced, "up before it is enforced");
            state.links.get_mut(&endpoint.host_ifname).unwrap().up = true;
        })
    }
}

impl Kernel for Simulated {
    async fn wire(&self, endpoint: &Endpoint, _: Arc<OwnedFd>) -> Result<(), KernelError> {
        let ifindex = self.create(endpoint)?;
        self.enforce(endpoint, ifindex).await?;
        self.bring_up(endpoint)
    }

    async fn enforce(&self, endpoint: &Endpoint, ifindex: u32) -> Result<(), KernelError> {
        self.call("enforce", |state| {
            assert_eq!(state.links[&endpoint.host_ifname].ifindex, ifindex);
            state
                .enforced
                .insert(endpoint.host_ifname.clone(), endpoint.clone());
        })
    }

    async fn lost(&self, endpoint: &Endpoint, _: u32) -> Result<Option<String>, KernelError> {
        // No step that could fail: what can't be looked at is looked at the next time.
        let there = (self.0.lock().unwrap().enforced).contains_key(&endpoint.host_ifname);
        Ok((!there).then(|| format!("programs of {}: not attached", endpoint.host_ifname)))
    }

    async fn remove(&self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.call("remove", |state| {
            state.enforced.remove(&endpoint.host_ifname);
            state.links.remove(&endpoint.host_ifname);
        })
    }

    async fn links(&self) -> Result<Vec<HostLink>, KernelError> {
        self.call("links", |state| state.links.values().cloned().collect())
    }

    async fn recover(&self, links: &[HostLink]) -> Result<Vec<Endpoint>, KernelError> {
        self.call("recover", |state| {
            let known = |link: &HostLink| state.enforced.get(&link.name).cloned();
            let found = links.iter().filter_map(known);
            let bare = found.map(|endpoint| Endpoint {
                network: String::new(),
                pod: None,
                sandbox: String::new(),
                wired: true,
                ..endpoint
            });
            bare.collect()
        })
    }

    async fn sweep(&self, living: &[Endpoint], spared: &[String]) -> Result<usize, KernelError> {
        self.call("sweep", |state| {
            let before = state.links.len();
            let lives = |name: &str| {
                living.iter().any(|e| e.host_ifname == name) || spared.iter().any(|n| n == name)
            };
            state.links.retain(|name, _| lives(name));
            state.enforced.retain(|name, _| lives(name));
            before - state.links.len()
        })
    }

    async fn differences(
        &self,
        endpoint: &Endpoint,
        _: Option<Arc<OwnedFd>>,
    ) -> Result<Vec<String>, KernelError> {
        self.call("differences", |state| {
            let mut differences = Vec::new();
            if !state.links.get(&endpoint.host_ifname).is_some_and(|l| l.up) {
                differences.push(format!("link {} is missing or down", endpoint.host_ifname));
            }
            // Whether its ADD was finished is nothing that the kernel knows.
            let rows = |e: &Endpoint| Endpoint {
                wired: false,
                ..e.clone()
            };
            if state.enforced.get(&endpoint.host_ifname).map(rows) != Some(rows(endpoint)) {
                differences.push(format!("map entries of {} differ", endpoint.host_ifname));
            }
            differences
        })
    }

    async fn uplinks(&self, _: &[IpAddr], _: Option<&str>) -> Result<Vec<Uplink>, KernelError> {
        self.call("uplinks", |state| state.uplinks.clone())
    }

    async fn neighbours(
        &self,
        addresses: Vec<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        self.call("neighbours", |state| {
            let ifindex = state.uplinks.first().map_or(0, |uplink| uplink.ifindex);
            let is_neighbour = |address: &IpAddr| !state.behind_a_router.contains(address);
            let neighbours = addresses.into_iter().filter(is_neighbour);
            neighbours.map(|address| (address, ifindex)).collect()
        })
    }

    async fn apply(&self, desired: &Desired) -> Unapplied {
        let applied = self.call("apply", |state| {
            state.applied = Some(desired.clone());
            state.unapplied.clone()
        });
        applied.unwrap_or_else(|error| Unapplied {
            own: vec![error],
            remote: Vec::new(),
        })
    }

    async fn mend(&self, endpoints: &[Endpoint]) -> Vec<KernelError> {
        let mended = self.call("mend", |state| state.mended = endpoints.len());
        mended.err().into_iter().collect()
    }

    async fn chains(&self) -> Result<Vec<(String, String)>, KernelError> {
        self.call("chains", |state| state.chains.clone())
    }

    async fn changed(&self) {
        std::future::pending().await
    }
}
