//! Many links at once. How long it takes is the bench's to say.

use super::node::{Families, Netns, add, plan};
use cni_agent::netlink::link::{OwnLink, inspect, list_host_links, mark_dying, reap};

#[test]
#[ignore = "needs root"]
fn a_hundred_links_are_made_at_once_and_deleted_together() {
    const PODS: u16 = 100;
    let node = Netns::new("node");
    let pods: Vec<_> = (0..PODS)
        .map(|n| (plan(1000 + n, "eth0", Families::Both), Netns::new("pod")))
        .collect();
    node.run(async || {
        futures_util::future::join_all(pods.iter().map(async |(plan, pod)| {
            add(plan, pod).await;
        }))
        .await;
        for (plan, pod) in &pods {
            assert_eq!(inspect(plan, pod.fd()).await.unwrap(), []);
        }
        for (plan, _) in &pods {
            let own = OwnLink {
                host_ifname: plan.host_ifname.clone(),
                alias: plan.alias.clone(),
            };
            assert_eq!(mark_dying(&[own]).unwrap(), 1);
        }
        let marked = list_host_links().await.unwrap();
        assert!(marked.len() == usize::from(PODS) && marked.iter().all(|link| link.dying));
        assert_eq!(reap().await.unwrap(), usize::from(PODS));
        assert_eq!(list_host_links().await.unwrap(), []);
    });
}
