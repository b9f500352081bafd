//! Requests that go on while nodes change: a client on each node asks each Service all the time, and writes
//! down each outcome with its time.

use super::{
    super::{
        objects::AGNHOST,
        place::Cluster,
        pods::{self, PORT},
    },
    node::shell,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::SystemTime};

/// Everything of it is in this namespace of Kubernetes.
pub(super) const SPACE: &str = "fairlead-rehearsal";
/// Of all web servers.
pub(super) const ALL: &str = "web-all";
/// Where the clients write, on their node.
const FOLDER: &str = "/var/log/rehearsal";
/// A host port of each node: the plugin `portmap` has something to do.
pub(super) const HOST_PORT: u16 = 30091;
/// Web servers on each node.
pub(super) const REPLICAS: u8 = 2;
/// Begin, end, outcome. `$TARGETS`: names of Services.
const CLIENT: &str = r#"
trap 'kill $(jobs -p); exit 0' TERM
for target in $TARGETS; do
    name=${target^^}; name=${name//-/_}_SERVICE_HOST
    echo "$EPOCHREALTIME $EPOCHREALTIME START" >> "/log/$target"
    while :; do
        begin=$EPOCHREALTIME
        outcome=$(curl -fsS -m 2 "http://${!name}/hostname" 2> /dev/null) || outcome=FAILED
        echo "$begin $EPOCHREALTIME $outcome" >> "/log/$target"
        sleep 0.1
    done &
done
wait
"#;

/// Name of the Deployment and the Service of a node.
pub(super) fn web(node: &str) -> String {
    format!("web-{node}")
}

/// Starts servers and clients, and waits until they are ready.
///
/// # Errors
/// When one does not get ready.
pub(super) fn start(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
    let mut services = vec![service(ALL, &json!({ "part": "web" }))];
    let mut all = Vec::new();
    for node in nodes {
        let name = web(node);
        services.push(service(&name, &json!({ "app": name })));
        let mut server = pods::server();
        server["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        server["terminationGracePeriodSeconds"] = 10.into();
        // It serves on until nobody sends to it any more.
        server["containers"][0]["lifecycle"] =
            json!({ "preStop": { "exec": { "command": ["sleep", "4"] } } });
        let mut set = controller("Deployment", &name, "web", server);
        set["spec"]["replicas"] = REPLICAS.into();
        all.push(set);
    }
    let mut targets: Vec<_> = nodes.iter().map(|node| web(node)).collect();
    targets.push(ALL.to_owned());
    let client = json!({
        "terminationGracePeriodSeconds": 2,
        "containers": [{
            "name": "client", "image": AGNHOST,
            "command": ["bash", "-c", CLIENT],
            "env": [{ "name": "TARGETS", "value": targets.join(" ") }],
            "volumeMounts": [{ "name": "log", "mountPath": "/log" }],
        }],
        "volumes": [{ "name": "log", "hostPath": { "path": FOLDER, "type": "DirectoryOrCreate" } }],
    });
    let mut port = pods::server();
    port["containers"][0]["ports"] = json!([{ "containerPort": PORT, "hostPort": HOST_PORT }]);
    let servers: Vec<_> = all;
    pods::start(cluster, SPACE, &services, &servers)?;
    settled(cluster)?;
    cluster.apply(&[
        controller("DaemonSet", "client", "client", client),
        controller("DaemonSet", "port", "port", port),
    ])?;
    settled(cluster)
}

/// Waits until everything is as it is wanted.
///
/// # Errors
/// When it is not in time.
pub(super) fn settled(cluster: &Cluster) -> Result<()> {
    let words = ["get", "deployments,daemonsets", "-n", SPACE, "-o", "name"];
    for set in cluster.ask(&words)?.lines() {
        cluster.ask(&["rollout", "status", set, "-n", SPACE, "--timeout=120s"])?;
    }
    Ok(())
}

fn service(name: &str, selector: &Value) -> Value {
    let mut service = pods::service(SPACE, name);
    service["spec"]["selector"] = selector.clone();
    service
}

fn controller(kind: &str, name: &str, part: &str, pod: Value) -> Value {
    let labels = json!({ "app": name, "part": part });
    json!({ "apiVersion": "apps/v1", "kind": kind,
        "metadata": { "name": name, "namespace": SPACE },
        "spec": { "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": labels }, "spec": pod } } })
}

/// Seconds since 1970, as the clients write it.
pub(super) fn now() -> Result<f64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(since.as_secs_f64())
}

/// When the servers of a node were being changed.
pub(super) type Windows = BTreeMap<String, (f64, f64)>;

/// What the clients of a node saw of a Service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Stream {
    pub(super) requests: usize,
    /// While servers of that Service alone were being changed.
    pub(super) expected: usize,
    /// Begin of each of the others.
    pub(super) lost: Vec<f64>,
    /// Seconds between two good answers, at most.
    pub(super) gap: f64,
    /// Whether the client was made anew in that gap.
    pub(super) restarted: bool,
}

/// Reads what a client wrote; `window`: when all servers of its Service were away.
fn read(text: &str, window: Option<(f64, f64)>) -> Result<Stream> {
    let mut stream = Stream::default();
    let (mut good, mut started) = (None::<f64>, false);
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut next = || {
            words
                .next()
                .with_context(|| format!("a client wrote {line:?}"))
        };
        let (begin, end, outcome): (f64, f64, _) = (next()?.parse()?, next()?.parse()?, next()?);
        match outcome {
            "START" => {
                started = true;
                continue;
            }
            "FAILED" => {
                stream.requests += 1;
                match window.is_some_and(|(from, to)| from <= end && begin <= to) {
                    true => stream.expected += 1,
                    false => stream.lost.push(begin),
                }
                continue;
            }
            _ => stream.requests += 1,
        }
        if let Some(before) = good.filter(|before| end - before > stream.gap) {
            (stream.gap, stream.restarted) = (end - before, started);
        }
        (good, started) = (Some(end), false);
    }
    Ok(stream)
}

/// Prints what each client saw of each Service.
///
/// # Errors
/// When a request was lost, that is: failed although not all of its servers were being changed.
pub(super) fn judge(cluster: &Cluster, nodes: &[&str], windows: &Windows) -> Result<()> {
    let mut lost = 0;
    for from in nodes {
        let targets = nodes.iter().map(|node| (web(node), windows.get(*node)));
        for (target, window) in targets.chain([(ALL.to_owned(), None)]) {
            let text = shell(cluster, from, &format!("cat {FOLDER}/{target}"))?;
            let stream = read(&text, window.copied())?;
            ensure!(
                stream.requests > 50,
                "{from} to {target}: {stream:?} is no stream"
            );
            println!(
                "{from} to {target}: {} requests, {} failed while its servers were away, {} lost; longest \
                 gap {:.1} s{}",
                stream.requests,
                stream.expected,
                stream.lost.len(),
                stream.gap,
                if stream.restarted {
                    ", the client's own restart"
                } else {
                    ""
                },
            );
            lost += stream.lost.len();
            if !stream.lost.is_empty() {
                println!("  lost at {:?}; changes: {windows:?}", stream.lost);
            }
        }
    }
    ensure!(lost == 0, "{lost} requests are lost");
    Ok(())
}

/// Every pod asks every web server by the server's own address, and every Service.
///
/// # Errors
/// The first that does not answer.
pub(super) fn all_reach_all(cluster: &Cluster) -> Result<usize> {
    let words = ["get", "pods", "-n", SPACE, "-o", "json"];
    let list: Value = serde_json::from_str(&cluster.ask(&words)?)?;
    let items = list["items"].as_array().context("a list of pods")?;
    let text = |pod: &Value, key: &str| pod.pointer(key).and_then(Value::as_str).map(str::to_owned);
    // Those that end and those that wait for a node have none to speak of.
    let living = |pod: &&Value| {
        pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["podIP"].is_string()
    };
    let living: Vec<_> = items.iter().filter(living).collect();
    let web = |pod: &&&Value| pod["metadata"]["labels"]["part"] == "web";
    let addresses: Vec<_> = living
        .iter()
        .filter(web)
        .filter_map(|pod| text(pod, "/status/podIP"))
        .collect();
    let mut urls: Vec<_> = addresses
        .iter()
        .map(|a| format!("http://{a}:{PORT}/hostname"))
        .collect();
    urls.push(format!(
        "http://{}/hostname",
        pods::cluster_ip(cluster, SPACE, ALL)?
    ));
    let mut asked = 0;
    for pod in &living {
        let name = text(pod, "/metadata/name").context("a pod's name")?;
        for url in &urls {
            pods::exec(cluster, SPACE, &name, &["curl", "-fsS", "-m", "5", url])
                .with_context(|| format!("{name} to {url}"))?;
            asked += 1;
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_while_servers_are_away_is_expected_and_any_other_is_lost() {
        let text = "1.0 1.0 START\n1.0 1.1 web\n1.2 3.2 FAILED\n3.3 3.4 web\n3.5 5.5 FAILED\n";
        let stream = read(text, Some((3.0, 3.3))).unwrap();
        assert_eq!((stream.requests, stream.expected), (4, 1));
        assert_eq!(stream.lost, [3.5]);
        let none = read(text, None).unwrap();
        assert_eq!((none.expected, none.lost.len()), (0, 2));
    }

    #[test]
    fn the_longest_gap_tells_whether_the_client_began_anew_in_it() {
        let text = "1.0 1.1 web\n1.2 1.3 web\n9.0 9.0 START\n9.0 9.1 web\n9.2 11.2 FAILED\n11.3 11.4 web\n";
        let stream = read(text, None).unwrap();
        assert!(
            stream.restarted && (stream.gap - 7.8).abs() < 0.01,
            "{stream:?}"
        );
        let text = "1.0 1.1 web\n1.1 1.1 START\n1.2 1.3 web\n9.0 9.1 web\n";
        assert!(!read(text, None).unwrap().restarted);
        assert!(read("1.0 x web", None).is_err());
    }
}
