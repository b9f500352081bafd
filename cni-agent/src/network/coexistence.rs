//! Where this agent is to answer everybody's packets to Services, kube-proxy's rules must not: both would
//! translate the same packets. What the kernel has of them is told with the remedy; nothing is removed.

use super::{Network, kernel::Kernel};
use crate::config::ServicesMode;

impl<K: Kernel> Network<K> {
    /// Looks whether kube-proxy's rules are there.
    pub(super) async fn look_for_kube_proxy(&self) {
        if self.config.services != ServicesMode::All {
            return;
        }
        let found = match self.kernel.chains().await {
            Ok(chains) => kube_proxy(&chains),
            Err(error) => {
                tracing::warn!(%error, "kube-proxy's rules are looked for later");
                return;
            }
        };
        self.change_view(|view| {
            if let Some(found) = found
                .as_ref()
                .filter(|f| view.coexistence.as_ref() != Some(f))
            {
                tracing::warn!(problem = %found, "not as it should be");
            }
            view.coexistence = found;
        });
    }
}

/// PURE: that there are rules of kube-proxy among these tables and chains, with the remedy. The kubelet's
/// own (`KUBE-FIREWALL`, `KUBE-KUBELET-CANARY`) are none of them.
fn kube_proxy(chains: &[(String, String)]) -> Option<String> {
    let of_nftables = chains.iter().any(|(table, _)| table == "kube-proxy");
    let is_of_iptables =
        |(table, chain): &(String, String)| table == "nat" && chain == "KUBE-SERVICES";
    let (what, remedy) = if of_nftables {
        (
            "table kube-proxy of nftables",
            "`nft delete table ip kube-proxy; nft delete table ip6 kube-proxy`",
        )
    } else if chains.iter().any(is_of_iptables) {
        (
            "chain KUBE-SERVICES of iptables",
            "`kube-proxy --cleanup` in its image",
        )
    } else {
        return None;
    };
    Some(format!(
        "kube-proxy's rules are on this node ({what}) while --services is all: both act on the same packets to Services; remove kube-proxy (its DaemonSet in kube-system, usually), then its rules by {remedy}, or set --services to pods"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(chains: &[(&str, &str)]) -> Option<String> {
        let chains = chains.iter();
        let chains: Vec<_> = chains
            .map(|(t, c)| ((*t).to_owned(), (*c).to_owned()))
            .collect();
        kube_proxy(&chains)
    }

    #[test]
    fn rules_of_kube_proxy_are_told_with_how_they_go_and_others_are_not() {
        let nftables = told(&[("fairlead", "postrouting"), ("kube-proxy", "services")]);
        assert!(nftables.unwrap().contains("nft delete table ip kube-proxy"));
        let iptables = told(&[("nat", "KUBE-KUBELET-CANARY"), ("nat", "KUBE-SERVICES")]);
        assert!(iptables.unwrap().contains("kube-proxy --cleanup"));
        let others = [
            ("filter", "KUBE-FIREWALL"),
            ("filter", "KUBE-SERVICES"),
            ("nat", "KUBE-KUBELET-CANARY"),
            ("nat", "KUBE-POSTROUTING"),
        ];
        assert_eq!(told(&others), None);
    }
}
