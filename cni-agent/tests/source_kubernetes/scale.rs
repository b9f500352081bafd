//! A large cluster: how much memory it takes, as a number to look at, not a limit.

use super::fake::{Fake, node, service, slice};
use cni_agent::source::Source;
use std::time::{Duration, Instant};

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Changes of one object, each for itself.
const CHANGES: u64 = 100;

/// User and system time of this process, by the usual ticks of 10 ms.
fn cpu_millis() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |n: usize| -> u64 { fields[n].parse().unwrap() };
    (ticks(11) + ticks(12)) * 10
}

/// The objects come from a fake in another process, `FAKE_API` being its URL; without it this test is
/// that process.
#[tokio::test]
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
        let ready = tempfile::NamedTempFile::new().unwrap();
        let (program, path) = (std::env::current_exe().unwrap(), ready.path().to_owned());
        let child = tokio::task::spawn_blocking({
            let url = fake.url.clone();
            move || {
                std::process::Command::new(program)
                    .args(["five_thousand", "--nocapture"])
                    .env("FAKE_API", url)
                    .env("FAKE_READY", path)
                    .status()
                    .unwrap()
            }
        });
        while ready.as_file().metadata().unwrap().len() == 0 && !child.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for number in 0..CHANGES {
            fake.put(slice("changing", "web", &format!("10.0.2.{number}")));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        fake.put(slice("last", "web", "10.0.3.1"));
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
    drop(cluster);
    let (mut cluster, begin) = (source.subscribe(), cpu_millis());
    std::fs::write(std::env::var("FAKE_READY").unwrap(), "ready").unwrap();
    let last = ("shop".to_owned(), "last".to_owned());
    let last = cluster.wait_for(|cluster| cluster.slices.contains_key(&last));
    let revision = last.await.unwrap().revision;
    println!(
        "{CHANGES} changes one by one: {} snapshots, {} ms of CPU, {} KiB",
        revision - 1,
        cpu_millis() - begin,
        resident_kib()
    );
}
