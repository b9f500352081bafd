//! What people and scrapes ask about Services.

use super::Linux;
use crate::{
    metrics::{ServiceCounts, ServiceFlows},
    network::{Network, kernel::KernelError, services::Seen},
    query::ServiceRow,
};
use std::collections::BTreeSet;

/// Services that a scrape names; the others are summed up.
const MOST_NAMED: usize = 1000;

impl Network<Linux> {
    /// Answers from the cluster as it is now and the maps as they were written last.
    ///
    /// # Errors
    /// When a map can't be read.
    pub async fn ask_services<T>(
        &self,
        ask: impl FnOnce(&Seen<'_>) -> T + Send,
    ) -> Result<T, KernelError> {
        let flows = self.kernel.flow_counts().await?;
        let cluster = self.cluster.borrow().clone();
        let compiled = self.compile_services(&cluster, &self.config.node_name);
        Ok(ask(&Seen {
            cluster: &cluster,
            node: &self.config.node_name,
            mode: self.config.services,
            compiled: &compiled,
            served: &self.kernel.served(),
            flows: &flows,
        }))
    }

    /// How much the maps hold of Services; none while they could not be written.
    pub fn service_counts(&self) -> Option<ServiceCounts> {
        let served = self.kernel.served();
        served.at?;
        let desired = self.view().desired?;
        let held = desired.frontends.iter().filter(|frontend| {
            let place = (frontend.address, frontend.port, frontend.protocol);
            !frontend.internal.is_empty() && !served.refused.contains(&place)
        });
        let services: BTreeSet<&str> = held.clone().map(|f| f.service.as_str()).collect();
        Some(ServiceCounts {
            services: services.len(),
            frontends: held.clone().count(),
            backends: held.map(|frontend| frontend.internal.len()).sum(),
            refused: served.refused.len(),
        })
    }

    /// Flows by Service.
    ///
    /// # Errors
    /// When a map can't be read.
    pub async fn service_flows(&self) -> Result<Vec<ServiceFlows>, KernelError> {
        let rows = self.ask_services(|seen| seen.rows()).await?;
        Ok(most(rows, MOST_NAMED))
    }
}

/// PURE: the Services with most flows, and all others as one without a name.
fn most(mut rows: Vec<ServiceRow>, named: usize) -> Vec<ServiceFlows> {
    rows.retain(|row| row.flows > 0);
    // By name where they have as many, so that a scrape names those of the one before.
    rows.sort_by(|a, b| {
        let names = (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name));
        b.flows.cmp(&a.flows).then(names)
    });
    let others = rows.split_off(named.min(rows.len()));
    let others = others.iter().map(|row| row.flows).sum();
    let rows = rows.into_iter().map(|row| ServiceFlows {
        namespace: row.namespace,
        service: row.name,
        flows: row.flows,
    });
    let others = (others > 0).then(|| ServiceFlows {
        namespace: String::new(),
        service: String::new(),
        flows: others,
    });
    rows.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_with_most_flows_are_named_and_the_others_are_one() {
        let row = |name: &str, flows| ServiceRow {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            service_type: crate::model::ServiceType::ClusterIp,
            addresses: Vec::new(),
            ports: Vec::new(),
            backends_used: 0,
            backends_known: 0,
            flows,
            pods: Vec::new(),
        };
        let rows = vec![
            row("a", 1),
            row("b", 5),
            row("c", 0),
            row("d", 2),
            row("e", 5),
        ];
        let told = |named| {
            let rows = most(rows.clone(), named).into_iter();
            rows.map(|row| (row.service, row.flows)).collect::<Vec<_>>()
        };
        let text = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs
                .iter()
                .map(|(n, flows)| ((*n).to_owned(), *flows))
                .collect()
        };
        assert_eq!(told(2), text(&[("b", 5), ("e", 5), ("", 3)]));
        assert_eq!(told(9), text(&[("b", 5), ("e", 5), ("d", 2), ("a", 1)]));
    }
}
