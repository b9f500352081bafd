//! Reconciliation: whenever the desired state or the machine's links change, compiles what the
//! kernel should hold and has it written. A failure is retried; the last good state stays.

use super::{
    Network,
    desired::{NotReady, Surroundings, compile, next_hops, own_node, unreachable},
    kernel::Kernel,
};
use crate::{
    config::ServicesMode,
    health_check::Checks,
    parts::Shutdown,
    service::{for_all, for_pods, without_thefts},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// Pause before a failed write is tried again; doubled at each failure in a row.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest pause.
const LAST_RETRY: Duration = Duration::from_secs(15);
/// How often a pass runs without any news, and endpoints are looked at: what others removed (`nft flush
/// ruleset`, `ip route flush`) comes back, what ended is freed.
const LOOK: Duration = Duration::from_secs(30);

impl<K: Kernel> Network<K> {
    /// Reconciles until `shutdown`.
    pub async fn reconcile_forever(&self, mut shutdown: Shutdown) {
        let mut cluster = self.cluster.clone();
        let mut retry = FIRST_RETRY;
        let mut next_look = Instant::now();
        loop {
            cluster.mark_unchanged();
            let whole = self.reconcile().await;
            // By the clock, so that a node with news all the time is looked at, too.
            if next_look <= Instant::now() {
                self.look_after_endpoints().await;
                self.look_for_kube_proxy().await;
                self.kernel.tidy().await;
                next_look = Instant::now() + LOOK;
            }
            tokio::select! {
                // A closed channel ends with the source, that is with this part.
                changed = cluster.changed() => if changed.is_err() { return },
                () = self.kernel.changed() => {}
                () = sleep_until(next_look) => {}
                () = sleep(retry), if !whole => {}
                () = shutdown.requested() => return,
            }
            retry = if whole {
                FIRST_RETRY
            } else {
                (retry * 2).min(LAST_RETRY)
            };
        }
    }

    /// One pass. Returns whether the kernel holds everything that is desired.
    pub async fn reconcile(&self) -> bool {
        let begin = Instant::now();
        let whole = self.pass().await;
        (self.passes).passed(whole, begin.elapsed(), self.clock.unix_secs());
        whole
    }

    fn tell_health(&self, checks: Checks) {
        self.health_checks.send_if_modified(|told| {
            let new = *told != checks;
            *told = checks;
            new
        });
    }

    async fn pass(&self) -> bool {
        let cluster = self.cluster.borrow().clone();
        let compiled = async {
            let own = own_node(&cluster, &self.config.node_name)
                .map_err(|e: NotReady| vec![e.to_string()])?;
            let found = self
                .kernel
                .uplinks(&own.addresses, self.config.uplink.as_deref())
                .await;
            let uplinks = found.map_err(|e| vec![e.to_string()])?;
            let neighbours = self.kernel.neighbours(next_hops(&cluster, own)).await;
            let surroundings = Surroundings {
                uplinks,
                neighbours: neighbours.map_err(|e| vec![e.to_string()])?,
            };
            let mut problems = unreachable(&cluster, own, &surroundings);
            let mut desired = compile(
                &cluster,
                own,
                surroundings,
                self.config.mtu,
                self.config.masquerade,
            )
            .map_err(|e| vec![e.to_string()])?;
            let services = self.compile_services(&cluster, &own.name);
            problems.extend(services.problems);
            let mode = self.config.services;
            if mode != ServicesMode::Off {
                let (frontends, refused) = without_thefts(services.frontends, &cluster);
                problems.extend(refused);
                desired.frontends = match mode {
                    ServicesMode::All => for_all(&frontends, own),
                    _ => for_pods(&frontends, own),
                };
            }
            let checks = match mode {
                ServicesMode::All => services.health_checks,
                // kube-proxy serves them.
                ServicesMode::Pods | ServicesMode::Off => Checks::new(),
            };
            Ok::<_, Vec<String>>((desired, checks, problems))
        };
        match compiled.await {
            // What the kernel holds stays as it is, and so does what is known of it: a node that served
            // goes on serving by that.
            Err(problems) => {
                self.change_view(|view| view.problems = problems);
                false
            }
            Ok((desired, checks, mut problems)) => {
                if let Err(error) = self.book.set_prefixes(&desired.local) {
                    self.change_view(|view| view.problems = vec![error.to_string()]);
                    return false;
                }
                let mut unapplied = self.kernel.apply(&desired).await;
                unapplied
                    .own
                    .extend(self.sync_policies(&cluster).await.err());
                if let Some(at) = self.kernel.services_written() {
                    for came in self.arrivals.written(cluster.revision) {
                        self.passes
                            .endpoints_written(at.saturating_duration_since(came));
                    }
                }
                self.tell_health(checks);
                let unmended = self.kernel.mend(&self.book.list()).await;
                let whole = unapplied.is_empty() && unmended.is_empty();
                let serves = unapplied.own.is_empty();
                let unserved = unapplied.own.iter().map(ToString::to_string).collect();
                let failures = [unapplied.own, unapplied.remote, unmended].concat();
                problems.extend(failures.iter().map(ToString::to_string));
                let desired = Arc::new(desired);
                self.change_view(|view| {
                    for problem in problems.iter().filter(|p| !view.problems.contains(p)) {
                        tracing::warn!(%problem, revision = cluster.revision, "not as it should be");
                    }
                    // Once it served, a node goes on serving beside a partial failure.
                    if serves || view.desired.is_some() {
                        view.desired = Some(desired);
                    }
                    view.problems = problems;
                    view.unserved = unserved;
                });
                whole
            }
        }
    }
}
