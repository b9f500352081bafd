//! A large cluster: how much memory it takes, as a number to look at, not a limit.

use super::fake::{Fake, node, service, slice};
use cni_agent::source::Source;
use std::time::{Duration, Instant};

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The objects come from a fake in another process, `FAKE_API` being its URL; without it this test is
/// that process.
#[tokio::test]
#[ignore = "prints the memory of a large cluster"]
async fn five_thousand_nodes_and_ten_thousand_services() {
    let Ok(url) = std::env::var("FAKE_API") else {
        let fake = Fake::start(true).await;
        for number in 0..5_000 {
            fake.put(node(&format!("n{number}"), number));
        }
        for number in 0..10_000 {
            let name = format!("service-{number}");
            fake.put(service(&name, number));
            fake.put(slice(&format!("{name}-x7k2p"), &name, "10.0.1.5"));
        }
        let program = std::env::current_exe().unwrap();
        let child = tokio::task::spawn_blocking({
            let url = fake.url.clone();
            move || {
                std::process::Command::new(program)
                    .args(["five_thousand", "--ignored", "--nocapture"])
                    .env("FAKE_API", url)
                    .status()
                    .unwrap()
            }
        });
        assert!(child.await.unwrap().success());
        return;
    };
    let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
    let state = tempfile::tempdir().unwrap();
    let before = resident_kib();
    let begin = Instant::now();
    let patience = Duration::from_secs(300);
    let source =
        cni_agent::source::kubernetes::Kubernetes::watch(client, "n1", state.path(), patience)
            .await;
    let took = begin.elapsed();
    let cluster = source.subscribe().borrow().clone();
    assert_eq!((cluster.nodes.len(), cluster.slices.len()), (5_000, 10_000));
    println!(
        "{before} KiB before, {} KiB with the cluster, first snapshot after {took:?}",
        resident_kib()
    );
}
