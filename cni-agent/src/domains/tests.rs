//! A clock that stands still, a resolver that says what it is told, and once real questions over loopback.

use super::*;
use crate::model::{
    Action, DomainPattern, EndpointSlice, Judgement, Protocol, Rule, Selector, SliceEndpoint,
    SlicePort, Tier,
};
use std::collections::BTreeMap;

/// Answers what it is told to.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<BTreeMap<String, Result<Answer, String>>>>);

impl Told {
    fn tell(&self, name: &str, answer: Result<(&[&str], u64), &str>) {
        let answer = answer.map(|(addresses, secs)| Answer {
            addresses: ips(addresses),
            life: Duration::from_secs(secs),
            missing: None,
        });
        let answer = answer.map_err(ToOwned::to_owned);
        self.0.lock().unwrap().insert(name.to_owned(), answer);
    }
}

impl Resolve for Told {
    async fn resolve(&self, name: &str, _: &[SocketAddr]) -> Result<Answer, String> {
        let told = self.0.lock().unwrap();
        told.get(name)
            .cloned()
            .unwrap_or_else(|| Ok(Answer::default()))
    }
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A cluster with a policy that accepts what goes to these names.
fn cluster(names: &[&str]) -> Arc<Cluster> {
    let peers = names
        .iter()
        .map(|name| Peer::Domain(DomainPattern::parse(name).unwrap()));
    let policy = ClusterPolicy {
        kind: "ClusterNetworkPolicy".into(),
        name: "names".into(),
        tier: Tier::Admin,
        priority: 1,
        namespaces: Selector::default(),
        pods: Selector::default(),
        ingress: Vec::new(),
        egress: vec![Judgement {
            name: String::new(),
            action: Action::Accept,
            rule: Rule {
                peers: Some(peers.collect()),
                ports: None,
            },
        }],
        unmet: Vec::new(),
    };
    let key = (policy.kind.clone(), policy.name.clone());
    Arc::new(Cluster {
        revision: 7,
        cluster_policies: [(key, policy)].into_iter().collect(),
        ..Cluster::default()
    })
}

struct Scene {
    source: watch::Sender<Arc<Cluster>>,
    clusters: watch::Receiver<Arc<Cluster>>,
    told: Told,
    busy: Arc<Mutex<BTreeSet<IpAddr>>>,
    problems: Problems,
    folder: tempfile::TempDir,
    _following: Following,
}

impl Scene {
    fn new(names: &[&str]) -> Self {
        Self::within(tempfile::tempdir().unwrap(), Told::default(), names)
    }

    fn within(folder: tempfile::TempDir, told: Told, names: &[&str]) -> Self {
        let source = watch::Sender::new(cluster(names));
        let (busy, problems) = (
            Arc::<Mutex<BTreeSet<IpAddr>>>::default(),
            Problems::default(),
        );
        let in_use: InUse = {
            let busy = busy.clone();
            Arc::new(move |asked| asked.intersection(&busy.lock().unwrap()).copied().collect())
        };
        let file = DomainsFile::new(folder.path().join("domains.json"));
        let (clusters, following) = follow(
            source.subscribe(),
            told.clone(),
            in_use,
            file,
            problems.clone(),
        );
        Self {
            source,
            clusters,
            told,
            busy,
            problems,
            folder,
            _following: following,
        }
    }

    fn of(&self, name: &str) -> BTreeSet<IpAddr> {
        let cluster = self.clusters.borrow();
        cluster.domains.get(name).cloned().unwrap_or_default()
    }

    /// Lets time pass, and what is due be done.
    async fn pass(&self, secs: u64) {
        tokio::time::sleep(Duration::from_secs(secs)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_has_its_addresses_and_those_that_others_are_told_of_later() {
    let told = Told::default();
    told.tell("a.example.com", Ok((&["192.0.2.1", "2001:db8::1"], 20)));
    let scene = Scene::within(tempfile::tempdir().unwrap(), told, &["a.example.com"]);
    scene.pass(0).await;
    assert_eq!(
        scene.of("a.example.com"),
        ips(&["192.0.2.1", "2001:db8::1"])
    );
    assert_eq!(scene.clusters.borrow().revision, 7);
    // Asked again within the answer's life: both are allowed while both are heard of.
    scene.told.tell("a.example.com", Ok((&["192.0.2.2"], 20)));
    scene.pass(11).await;
    let all = ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(scene.of("a.example.com"), all);
    scene.pass(60).await;
    assert_eq!(
        scene.of("a.example.com"),
        ips(&["192.0.2.2"]),
        "the others' lives are over"
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_that_a_connection_goes_on_to_stays_as_long_as_that_does() {
    let told = Told::default();
    told.tell("a.example.com", Ok((&["192.0.2.1"], 20)));
    let scene = Scene::within(tempfile::tempdir().unwrap(), told, &["a.example.com"]);
    scene.pass(0).await;
    *scene.busy.lock().unwrap() = ips(&["192.0.2.1"]);
    scene.told.tell("a.example.com", Ok((&["192.0.2.2"], 20)));
    scene.pass(600).await;
    assert_eq!(scene.of("a.example.com"), ips(&["192.0.2.1", "192.0.2.2"]));
    scene.busy.lock().unwrap().clear();
    scene.pass(180).await;
    assert_eq!(scene.of("a.example.com"), ips(&["192.0.2.2"]));
}

#[tokio::test(start_paused = true)]
async fn while_nobody_answers_what_is_known_stays_and_it_is_said() {
    let told = Told::default();
    told.tell("a.example.com", Ok((&["192.0.2.1"], 20)));
    let scene = Scene::within(tempfile::tempdir().unwrap(), told, &["a.example.com"]);
    scene.pass(0).await;
    assert!(scene.problems.snapshot().is_empty());
    scene.told.tell("a.example.com", Err("no server answers"));
    scene.pass(1800).await;
    assert_eq!(scene.of("a.example.com"), ips(&["192.0.2.1"]));
    let problems = scene.problems.snapshot();
    assert!(
        problems[0].contains("a.example.com") && problems[0].contains("no server answers"),
        "{problems:?}"
    );
    scene.told.tell("a.example.com", Ok((&[], 20)));
    scene.pass(60).await;
    assert!(scene.of("a.example.com").is_empty(), "it has none any more");
    assert!(scene.problems.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_enforces_what_was_known_before_anybody_is_asked() {
    let scene = Scene::new(&["a.example.com", "b.example.com"]);
    scene.told.tell("a.example.com", Ok((&["192.0.2.1"], 3600)));
    scene.pass(10).await;
    assert_eq!(scene.of("a.example.com"), ips(&["192.0.2.1"]));
    let Scene { folder, .. } = scene;
    let told = Told::default();
    told.tell("a.example.com", Err("not yet"));
    // No moment without, also before the first await.
    let again = Scene::within(folder, told, &["a.example.com"]);
    assert_eq!(again.of("a.example.com"), ips(&["192.0.2.1"]));
    again.pass(60).await;
    assert_eq!(again.of("a.example.com"), ips(&["192.0.2.1"]));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_names_any_more_is_forgotten_and_a_new_one_asked_for_at_once() {
    let told = Told::default();
    told.tell("a.example.com", Ok((&["192.0.2.1"], 3600)));
    told.tell("b.example.com", Ok((&["192.0.2.2"], 3600)));
    let scene = Scene::within(tempfile::tempdir().unwrap(), told, &["a.example.com"]);
    scene.pass(0).await;
    scene
        .source
        .send_replace(cluster(&["b.example.com", "*.example.org"]));
    scene.pass(0).await;
    assert!(scene.of("a.example.com").is_empty());
    assert_eq!(scene.of("b.example.com"), ips(&["192.0.2.2"]));
    // Without names the source's own value goes on.
    let plain = Arc::new(Cluster::default());
    scene.source.send_replace(plain.clone());
    scene.pass(0).await;
    assert!(Arc::ptr_eq(&plain, &scene.clusters.borrow()));
}

#[test]
fn the_clusters_dns_is_asked_pod_by_pod_where_there_is_one() {
    let endpoint = |address: &str, ready| SliceEndpoint {
        address: address.parse().unwrap(),
        ready,
        serving: ready,
        terminating: false,
        node: None,
        zone: None,
        hints: None,
    };
    let slice = EndpointSlice {
        namespace: "kube-system".into(),
        name: "kube-dns-abc".into(),
        service: "kube-dns".into(),
        ports: vec![SlicePort {
            name: "dns".into(),
            protocol: Protocol::Udp,
            port: 1053,
        }],
        endpoints: vec![endpoint("10.1.0.9", true), endpoint("10.1.0.8", false)],
    };
    let other = EndpointSlice {
        service: "web".into(),
        name: "web-1".into(),
        ..slice.clone()
    };
    let slices = [slice, other].map(|slice| ((slice.namespace.clone(), slice.name.clone()), slice));
    let cluster = Cluster {
        slices: slices.into_iter().collect(),
        ..Cluster::default()
    };
    let only = "10.1.0.9:1053".parse().unwrap();
    assert_eq!(servers(&cluster), Some(vec![only]));
    assert_eq!(servers(&Cluster::default()), Some(Vec::new()));
    // The node's own servers don't know the cluster's names: nobody asks them in its place.
    let mut nobody = cluster.clone();
    for (key, slice) in cluster.slices.iter() {
        let mut slice = slice.clone();
        for endpoint in &mut slice.endpoints {
            endpoint.ready = false;
        }
        nobody.slices.insert(key.clone(), slice);
    }
    assert_eq!(servers(&nobody), None);
}

/// Answers questions about `a.example.com` with an address, about others that there is no such name.
fn serve(socket: &std::net::UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        let question = &buffer[..length];
        // RFC 1035: the header's 12 bytes, the name's labels up to an empty one, type and class.
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_a = question[end - 4..end - 2] == [0, 1];
        let is_known = question[12..].starts_with(b"\x01a\x07example\x03com\0");
        let answers = u8::from(is_a && is_known);
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, if is_known { 0x80 } else { 0x83 }]);
        answer.extend([0, 1, 0, answers, 0, 0, 0, 0]);
        answer.extend(&question[12..end]);
        if answers > 0 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1]);
        }
        socket.send_to(&answer, client).unwrap();
    }
}

#[tokio::test]
async fn a_server_is_asked_for_both_families_and_for_names_that_there_are_not() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = socket.local_addr().unwrap();
    std::thread::spawn(move || serve(&socket));
    let found = Dns.resolve("a.example.com", &[server]).await.unwrap();
    assert_eq!(found.addresses, ips(&["192.0.2.1"]));
    let secs = found.life.as_secs();
    assert!((28..=30).contains(&secs), "{secs}");
    let none = Dns.resolve("b.example.com", &[server]).await.unwrap();
    assert!(none.addresses.is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_silent() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = socket.local_addr().unwrap();
    drop(socket);
    let error = Dns.resolve("a.example.com", &[nobody]).await.unwrap_err();
    assert!(!error.is_empty(), "{error}");
}
