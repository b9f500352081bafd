//! A hundred pods at once on one node: each ready one is reached by its network, none shares an address, and
//! no ADD fails.

use super::{
    super::{
        objects::BUSYBOX,
        place::{Cluster, until},
        pods,
    },
    SPACE, agents,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NODE: &str = "n2";
/// A kubelet takes 110 by default.
const COUNT: u64 = 100;
/// Starting that many containers is the runtime's work.
const LIMIT: Duration = Duration::from_secs(400);
/// What the samples of an ADD's time begin with.
const BUCKET: &str = r#"fairlead_cni_request_duration_seconds_bucket{"#;

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    let before = Adds::of(cluster)?;
    let burst: Vec<_> = (0..COUNT).map(pod).collect();
    let since = Instant::now();
    cluster.apply(&burst)?;
    let selected = ["get", "pods", "-n", SPACE, "-l", "burst", "-o", "json"];
    let list = until(LIMIT, "all pods of the burst are ready", || {
        let list: Value = serde_json::from_str(&cluster.ask(&selected)?)?;
        let items = list["items"].as_array().context("a list of pods")?;
        let is_ready = |pod: &&Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        for pod in items.iter().filter(is_ready) {
            let address = &pod["status"]["podIP"];
            ensure!(
                !address.is_null(),
                "a pod is ready without a network: {pod}"
            );
        }
        let ready = items.iter().filter(is_ready).count() as u64;
        Ok((ready == COUNT).then_some(list.clone()))
    })?;
    let took = since.elapsed();
    let agreed = agents::agree(cluster, NODE)?;
    let items = list["items"].as_array().context("a list of pods")?;
    let addresses: Vec<_> = items
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    // Their probes came from their own node.
    let script = format!(
        "for at in {}; do ping -q -c 1 -W 5 $at > /dev/null || echo $at; done",
        addresses.join(" ")
    );
    let silent = pods::exec(cluster, SPACE, "client", &["sh", "-c", &script])?;
    ensure!(silent.is_empty(), "no answer on another node from {silent}");
    let adds = Adds::of(cluster)?.since(&before);
    ensure!(
        adds.failed == 0 && adds.done >= COUNT,
        "{} ADDs failed, {} were done",
        adds.failed,
        adds.done
    );
    let again = agents::failed_sandboxes(cluster, "burst-")?;
    let words = [
        "delete",
        "pods",
        "-n",
        SPACE,
        "-l",
        "burst",
        "--timeout=300s",
    ];
    cluster.ask(&words)?;
    let left = agents::agree(cluster, NODE)?;
    Ok(format!(
        "{COUNT} pods ready after {:.0} s; {} ADDs, none failed, p50 up to {} s, p99 up to {} s; \
         {again} failed sandboxes; {agreed}; then {left}",
        took.as_secs_f64(),
        adds.done,
        adds.quantile(0.5)?,
        adds.quantile(0.99)?,
    ))
}

fn pod(number: u64) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("burst-{number}"), "namespace": SPACE, "labels": { "burst": "" } },
        "spec": {
            "nodeName": NODE,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "server",
                "image": BUSYBOX,
                "command": ["httpd", "-f", "-p", pods::PORT.to_string(), "-h", "/tmp"],
                "readinessProbe": { "tcpSocket": { "port": pods::PORT }, "periodSeconds": 2 },
            }],
        } })
}

/// ADDs that a node's agent has answered.
struct Adds {
    done: u64,
    failed: u64,
    /// Upper bounds in seconds as the agent writes them, and how many took no longer.
    buckets: Vec<(String, u64)>,
}

impl Adds {
    fn of(cluster: &Cluster) -> Result<Self> {
        Self::read(&agents::metrics(cluster, NODE)?)
    }

    fn read(metrics: &str) -> Result<Self> {
        let (mut done, mut failed, mut buckets) = (0, 0, Vec::new());
        for line in metrics
            .lines()
            .filter(|line| line.contains("command=\"ADD\""))
        {
            let (sample, value) = line.rsplit_once(' ').context("a sample has a value")?;
            let value = || value.parse().with_context(|| format!("reading {line:?}"));
            let label = |name: &str| {
                Some(
                    sample
                        .split_once(&format!("{name}=\""))?
                        .1
                        .split_once('"')?
                        .0,
                )
            };
            if sample.starts_with("fairlead_cni_requests_total{") {
                match label("code") {
                    Some("0") => done += value()?,
                    _ => failed += value()?,
                }
            } else if let (true, Some(bound)) = (sample.starts_with(BUCKET), label("le")) {
                buckets.push((bound.to_owned(), value()?));
            }
        }
        Ok(Self {
            done,
            failed,
            buckets,
        })
    }

    /// Those after an earlier look.
    fn since(self, earlier: &Self) -> Self {
        let before = |bound: &String| {
            let same = earlier.buckets.iter().find(|(other, _)| other == bound);
            same.map_or(0, |(_, count)| *count)
        };
        let buckets = self.buckets.into_iter();
        Self {
            done: self.done - earlier.done,
            failed: self.failed - earlier.failed,
            buckets: buckets
                .map(|(bound, count)| (bound.clone(), count - before(&bound)))
                .collect(),
        }
    }

    /// The bound under which this share of them lies.
    fn quantile(&self, share: f64) -> Result<&str> {
        let all = self
            .buckets
            .last()
            .context("the agent has no histogram of ADDs")?
            .1;
        let within = |(_, count): &&(String, u64)| *count as f64 >= share * all as f64;
        Ok(&self
            .buckets
            .iter()
            .find(within)
            .context("the last bucket holds all")?
            .0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_of_the_requests_between_two_looks() {
        let at = |fast: u64, slow: u64| {
            let all = fast + slow;
            let text = format!(
                "fairlead_cni_requests_total{{command=\"ADD\",code=\"0\"}} {all}\n\
                 fairlead_cni_requests_total{{command=\"ADD\",code=\"11\"}} 2\n\
                 fairlead_cni_requests_total{{command=\"DEL\",code=\"0\"}} 9\n\
                 fairlead_cni_request_duration_seconds_bucket{{le=\"0.1\",command=\"ADD\"}} {fast}\n\
                 fairlead_cni_request_duration_seconds_bucket{{le=\"+Inf\",command=\"ADD\"}} {all}\n"
            );
            Adds::read(&text).unwrap()
        };
        let adds = at(150, 5).since(&at(50, 4));
        assert_eq!((adds.done, adds.failed), (101, 0));
        assert_eq!(adds.quantile(0.99).unwrap(), "0.1");
        assert_eq!(adds.quantile(0.999).unwrap(), "+Inf");
    }
}
