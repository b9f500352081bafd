//! How long the kernel needs. Printed with `--nocapture`; the only claims made are those that hold
//! on a busy machine too.

use super::node::{Families, Netns, plan};
use cni_agent::netlink::link::{
    LinkPlan, OwnLink, bring_up, create_endpoint, delete_link, inspect, mark_dying, reap,
};
use std::time::{Duration, Instant};

/// Middle, 99th percentile and greatest of some durations.
fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros();
    format!(
        "p50 {} µs, p99 {} µs, max {} µs",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

fn own(plan: &LinkPlan) -> OwnLink {
    OwnLink {
        host_ifname: plan.host_ifname.clone(),
        alias: plan.alias.clone(),
    }
}

async fn add(plan: &LinkPlan, pod: &Netns) -> [Duration; 2] {
    let start = Instant::now();
    let ids = create_endpoint(plan, pod.fd()).await.unwrap();
    let created = start.elapsed();
    bring_up(plan, ids, pod.fd()).await.unwrap();
    [created, start.elapsed() - created]
}

#[test]
#[ignore = "needs root"]
fn links_deleted_together_cost_less_than_one_by_one() {
    const PODS: u16 = 100;
    let node = Netns::new("node");
    let pods: Vec<_> = (0..PODS)
        .map(|n| (plan(1000 + n, "eth0", Families::Both), Netns::new("pod")))
        .collect();
    node.run(async || {
        let (mut creates, mut ups, mut inspects) = (Vec::new(), Vec::new(), Vec::new());
        for (plan, pod) in &pods {
            let [create, up] = add(plan, pod).await;
            creates.push(create);
            ups.push(up);
            let start = Instant::now();
            assert_eq!(inspect(plan, pod.fd()).await.unwrap(), []);
            inspects.push(start.elapsed());
        }
        println!("create_endpoint, one at a time: {}", summary(creates));
        println!("bring_up, one at a time: {}", summary(ups));
        println!("inspect: {}", summary(inspects));

        let mut singles = Vec::new();
        for (plan, _) in &pods {
            let start = Instant::now();
            assert!(delete_link(&plan.host_ifname, &plan.alias).await.unwrap());
            singles.push(start.elapsed());
        }
        let one_by_one: Duration = singles.iter().sum();
        println!(
            "delete_link: {}; {} in {one_by_one:?}",
            summary(singles),
            PODS
        );

        let start = Instant::now();
        futures_util::future::join_all(pods.iter().map(|(plan, pod)| add(plan, pod))).await;
        println!(
            "{PODS} adds at once: {:?} each",
            start.elapsed() / PODS.into()
        );

        let mut marks = Vec::new();
        for (plan, _) in &pods {
            let start = Instant::now();
            assert_eq!(mark_dying(&[own(plan)]).await.unwrap(), 1);
            marks.push(start.elapsed());
        }
        let marking: Duration = marks.iter().sum();
        println!("mark_dying: {}", summary(marks));
        let start = Instant::now();
        assert_eq!(reap().await.unwrap(), usize::from(PODS));
        let together = start.elapsed();
        println!("reap of {PODS}: {together:?}");
        assert!(
            together + marking < one_by_one,
            "{together:?} + {marking:?} < {one_by_one:?}"
        );
    });
}
