//! The network part on a simulated kernel: every step may fail, nothing may stay half done.

use super::{Network, add::AddRequest, desired::Uplink, kernel::KernelError, simulated::Simulated};
use crate::{
    clock::ManualClock,
    cni::{args::CniArgs, caller::Caller, netconf::NetConf, result::PrevResult},
    config::{EbpfLogLevel, NetworkConfig, ServicesMode},
    datapath::XdpMode,
    model::{AttachmentId, Node, Protocol, Service, ServicePort},
    state::Cluster,
    store::{Book, FaultyDisk, Store},
};
use serde_json::json;
use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};
use tokio::sync::watch;

fn node(name: &str, number: u8) -> Node {
    Node {
        name: name.to_owned(),
        addresses: vec![format!("172.31.250.{number}").parse().unwrap()],
        pod_cidrs: vec![format!("100.11.{number}.0/29").parse().unwrap()],
        zone: None,
        ..Node::default()
    }
}

fn cluster() -> Cluster {
    let mut cluster = Cluster {
        revision: 1,
        ..Cluster::default()
    };
    for node in [node("n1", 1), node("n2", 2)] {
        cluster.nodes.insert(node.name.clone(), node);
    }
    cluster
}

struct Bench {
    network: Network<Simulated>,
    kernel: Simulated,
    clock: Arc<ManualClock>,
    cluster: watch::Sender<Arc<Cluster>>,
}

fn bench(kernel: Simulated, store: Store) -> Bench {
    let config = NetworkConfig {
        node_name: "n1".to_owned(),
        manifests: PathBuf::new(),
        state_dir: PathBuf::new(),
        bpf_dir: PathBuf::new(),
        uplink: None,
        cgroup: crate::config::CgroupChoice::Off,
        services: ServicesMode::Pods,
        direct_return: false,
        mtu: None,
        xdp: XdpMode::Off,
        masquerade: true,
        network_policy: true,
        cut_connections: true,
        ebpf_log_level: EbpfLogLevel::Off,
        load_balancer_pool: Vec::new(),
    };
    let clock = Arc::new(ManualClock::default());
    let book = Book::open(store, clock.clone()).unwrap();
    let (sender, receiver) = watch::channel(Arc::new(cluster()));
    let uplink = Uplink {
        name: "eth0".to_owned(),
        ifindex: 2,
        mtu: 1500,
        addresses: vec!["172.31.250.1".parse().unwrap()],
    };
    kernel.0.lock().unwrap().uplinks = vec![uplink];
    let network = Network::new(config, kernel.clone(), book, clock.clone(), receiver);
    Bench {
        network,
        kernel,
        clock,
        cluster: sender,
    }
}

async fn ready() -> Bench {
    let bench = bench(Simulated::default(), Store::in_memory().unwrap());
    bench.network.start().await.unwrap();
    assert!(bench.network.reconcile().await);
    bench
}

fn id(name: &str) -> AttachmentId {
    AttachmentId::new(name, "eth0").unwrap()
}

fn request(name: &str) -> AddRequest {
    let conf = json!({"cniVersion": "1.1.0", "name": "pods", "type": "fairlead-cni"});
    AddRequest {
        attachment: id(name),
        sandbox: Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())),
        sandbox_path: format!("/run/netns/{name}"),
        conf: NetConf::parse(&conf).unwrap(),
        args: CniArgs::parse("").unwrap(),
        previous: PrevResult::default(),
        caller: Caller::patient(),
    }
}

#[tokio::test]
async fn add_before_the_node_can_serve_is_told_to_try_again() {
    let bench = bench(Simulated::default(), Store::in_memory().unwrap());
    let error = bench.network.add(&request("c1")).await.unwrap_err();
    assert_eq!(error.code, 11);
    assert!(bench.kernel.0.lock().unwrap().links.is_empty());
}

#[tokio::test]
async fn add_twice_returns_the_same_endpoint() {
    let bench = ready().await;
    let first = bench.network.add(&request("c1")).await.unwrap();
    assert_eq!(bench.network.add(&request("c1")).await.unwrap(), first);
    assert_eq!(bench.network.book.list().len(), 1);
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_whichever_it_is() {
    // ADD asks the kernel three times: create, enforce, bring_up.
    for step in 0..3 {
        let bench = ready().await;
        bench.kernel.0.lock().unwrap().fail_in = Some(step);
        let error = bench.network.add(&request("c1")).await.unwrap_err();
        assert!(error.code >= 100, "{error}");
        let state = bench.kernel.0.lock().unwrap();
        assert!(
            state.links.is_empty() && state.enforced.is_empty(),
            "step {step}"
        );
        drop(state);
        assert!(bench.network.book.list().is_empty(), "step {step}");
        assert_eq!(bench.network.ipam_rows()[0].used, 0, "step {step}");
    }
}

#[tokio::test]
async fn del_of_an_unknown_attachment_succeeds_and_removes_a_leftover_link() {
    let bench = ready().await;
    bench.network.del(&id("nobody")).await.unwrap();
    bench.network.add(&request("c1")).await.unwrap();
    bench.network.del(&id("c1")).await.unwrap();
    bench.network.del(&id("c1")).await.unwrap();
    assert!(bench.kernel.0.lock().unwrap().links.is_empty());
}

#[tokio::test]
async fn exhaustion_says_how_many_addresses_are_in_use() {
    let bench = ready().await;
    let mut made = 0;
    let error = loop {
        match bench.network.add(&request(&format!("c{made}"))).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(made, 6, "a /29 without its first and last address");
    let text = format!("{error}");
    assert!(
        text.contains('6') && text.contains("100.11.1.0/29"),
        "{text}"
    );
}

#[tokio::test]
async fn gc_keeps_what_is_valid_and_other_networks() {
    let bench = ready().await;
    for name in ["c1", "c2"] {
        bench.network.add(&request(name)).await.unwrap();
    }
    let mut other = request("c3");
    other.conf.name = "storage".to_owned();
    bench.network.add(&other).await.unwrap();
    let removed = bench
        .network
        .gc("pods", &[id("c2")].into(), &Caller::patient())
        .await
        .unwrap();
    assert_eq!(removed, [id("c1")]);
    assert_eq!(bench.network.book.list().len(), 2);
}

#[tokio::test]
async fn check_names_the_first_difference() {
    let bench = ready().await;
    let request = request("c1");
    let endpoint = bench.network.add(&request).await.unwrap();
    let result = crate::cni::result::added(&request.previous, &endpoint, &request.conf).unwrap();
    let previous = crate::cni::result::PrevResult::parse(&result, "1.1.0").unwrap();
    let check = || bench.network.check(&request.attachment, None, &previous);
    check().await.unwrap();
    bench
        .kernel
        .0
        .lock()
        .unwrap()
        .links
        .get_mut(&endpoint.host_ifname)
        .unwrap()
        .up = false;
    let error = check().await.unwrap_err();
    assert!(error.to_string().contains("missing or down"), "{error}");
    let unknown = bench
        .network
        .check(&id("c2"), None, &previous)
        .await
        .unwrap_err();
    assert_eq!(unknown.code, 3);
}

#[tokio::test]
async fn a_restart_adopts_the_living_and_frees_the_dead() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let kernel = Simulated::default();
    let (alive, dead) = {
        let bench = bench(kernel.clone(), Store::open(&path).unwrap());
        bench.network.start().await.unwrap();
        bench.network.reconcile().await;
        let alive = bench.network.add(&request("alive")).await.unwrap();
        let dead = bench.network.add(&request("dead")).await.unwrap();
        (alive, dead)
    };
    {
        let mut state = kernel.0.lock().unwrap();
        // Its sandbox ended while no agent ran; and an ADD was cut short before the store knew it.
        state.links.remove(&dead.host_ifname);
        let mut orphan = state.links[&alive.host_ifname].clone();
        orphan.name = "fl00000000ffff".to_owned();
        orphan.up = false;
        state.links.insert(orphan.name.clone(), orphan);
    }
    let bench = bench(kernel.clone(), Store::open(&path).unwrap());
    let adoption = bench.network.start().await.unwrap();
    assert_eq!((adoption.adopted, adoption.orphan_links), (1, 1));
    assert_eq!(adoption.freed, ["dead/eth0"]);
    assert_eq!(bench.network.book.list(), [alive]);
    assert_eq!(kernel.0.lock().unwrap().links.len(), 1);
}

#[tokio::test]
async fn spooled_deletions_are_done_once_and_a_broken_file_is_kept() {
    let bench = ready().await;
    bench.network.add(&request("c1")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let good =
        json!({"version": 1, "containerId": "c1", "ifname": "eth0", "network": "pods", "at": 1});
    std::fs::write(folder.path().join("a.json"), good.to_string()).unwrap();
    std::fs::write(folder.path().join("b.json"), "{").unwrap();
    std::fs::write(folder.path().join("c.tmp"), "").unwrap();
    assert_eq!(bench.network.replay(folder.path()).await, (1, 1));
    assert!(bench.network.book.list().is_empty());
    assert!(!folder.path().join("a.json").exists());
    assert!(folder.path().join("b.json").exists());
}

#[tokio::test]
async fn the_kernel_is_told_of_services_and_the_status_of_what_is_not_served() {
    let mut bench = ready().await;
    // Nobody answers for them: told where the node itself is to refuse.
    bench.network.config.services = ServicesMode::All;
    let service = |name: &str| Service {
        namespace: "default".into(),
        name: name.into(),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![ServicePort {
            protocol: Protocol::Tcp,
            port: 80,
            ..ServicePort::default()
        }],
        ..Service::default()
    };
    bench.cluster.send_modify(|cluster| {
        let cluster = Arc::make_mut(cluster);
        for name in ["a", "b"] {
            let key = ("default".to_owned(), name.to_owned());
            cluster.services.insert(key, service(name));
        }
    });
    bench.network.reconcile().await;
    let applied = bench.kernel.0.lock().unwrap().applied.clone().unwrap();
    let served: Vec<_> = applied.frontends.iter().map(|f| &*f.service).collect();
    assert_eq!(served, ["default/a"]);
    let problems = bench.network.view().problems;
    assert!(problems[0].contains("default/b"), "{problems:?}");
}

/// A cluster with a load balanced Service of one endpoint on this node.
fn balanced() -> Cluster {
    let mut with_service = cluster();
    let service = serde_json::from_value(json!({
        "namespace": "default", "name": "web", "service_type": "LoadBalancer",
        "cluster_ips": ["10.96.0.10"], "internal_local": false, "external_local": true,
        "ports": [{"name": "", "protocol": "TCP", "port": 80}], "health_check_port": 30999
    }));
    let key = ("default".to_owned(), "web".to_owned());
    let service: crate::model::Service = service.unwrap();
    with_service.services.insert(key.clone(), service);
    let slice = serde_json::from_value(json!({
        "namespace": "default", "name": "web", "service": "web",
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {"address": "100.11.1.7", "ready": true, "serving": true, "terminating": false, "node": "n1"}
        ]
    }));
    let slice: crate::model::EndpointSlice = slice.unwrap();
    with_service.slices.insert(key, slice);
    with_service
}

#[tokio::test]
async fn the_mode_decides_whether_pods_and_load_balancers_are_answered() {
    for (mode, frontends, checks) in [
        (ServicesMode::Pods, 1, 0),
        (ServicesMode::All, 1, 1),
        (ServicesMode::Off, 0, 0),
    ] {
        let mut bench = bench(Simulated::default(), Store::in_memory().unwrap());
        bench.network.config.services = mode;
        bench.cluster.send_replace(Arc::new(balanced()));
        bench.network.start().await.unwrap();
        assert!(bench.network.reconcile().await);
        let applied = bench.kernel.0.lock().unwrap().applied.clone().unwrap();
        assert_eq!(applied.frontends.len(), frontends, "{mode:?}");
        let told = bench.network.health_checks.borrow().clone();
        assert_eq!(told.len(), checks, "{mode:?}");
        assert!(told.values().all(|check| check.local_endpoints == 1));
    }
}

#[tokio::test]
async fn rules_of_kube_proxy_are_told_only_where_both_would_act() {
    for (mode, told) in [(ServicesMode::Pods, false), (ServicesMode::All, true)] {
        let mut bench = ready().await;
        bench.network.config.services = mode;
        let chain = ("kube-proxy".to_owned(), "services".to_owned());
        bench.kernel.0.lock().unwrap().chains = vec![chain];
        bench.network.look_for_kube_proxy().await;
        assert_eq!(bench.network.view().coexistence.is_some(), told);
        bench.kernel.0.lock().unwrap().chains.clear();
        bench.network.look_for_kube_proxy().await;
        assert_eq!(bench.network.view().coexistence, None);
    }
}

#[tokio::test]
async fn the_kernel_is_told_of_the_other_node_and_of_what_is_inside() {
    let bench = ready().await;
    let applied = bench.kernel.0.lock().unwrap().applied.clone().unwrap();
    assert_eq!(applied.remote.len(), 1);
    assert_eq!(applied.remote[0].next_hop.to_string(), "172.31.250.2");
    let masquerade = applied.masquerade.unwrap();
    let inside: Vec<_> = masquerade.inside.iter().map(ToString::to_string).collect();
    assert_eq!(
        inside,
        [
            "100.11.1.0/29",
            "100.11.2.0/29",
            "172.31.250.1/32",
            "172.31.250.2/32"
        ]
    );
}

#[tokio::test]
async fn a_node_that_no_way_leads_to_keeps_no_pod_of_this_one_waiting() {
    let bench = bench(Simulated::default(), Store::in_memory().unwrap());
    bench.network.start().await.unwrap();
    let refused = |what: &str| vec![KernelError::Refused(format!("{what} refused"))];
    bench.kernel.0.lock().unwrap().unapplied.own = refused("eth0");
    assert!(!bench.network.reconcile().await);
    let error = bench.network.add(&request("c1")).await.unwrap_err();
    assert_eq!(error.code, 11);
    assert!(error.to_string().contains("eth0 refused"), "{error}");

    let state = || bench.kernel.0.lock().unwrap();
    state().unapplied.own.clear();
    state().unapplied.remote = refused("100.11.2.0/29");
    assert!(!bench.network.reconcile().await, "it is tried again");
    bench.network.add(&request("c1")).await.unwrap();
    assert_eq!(bench.network.view().problems, ["100.11.2.0/29 refused"]);
}

#[tokio::test]
async fn each_pass_mends_what_others_removed() {
    let bench = ready().await;
    for name in ["c1", "c2"] {
        bench.network.add(&request(name)).await.unwrap();
    }
    assert!(bench.network.reconcile().await);
    assert_eq!(bench.kernel.0.lock().unwrap().mended, 2);
}

#[tokio::test]
async fn one_endpoint_that_can_t_be_enforced_does_not_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let kernel = Simulated::default();
    {
        let bench = bench(kernel.clone(), Store::open(&path).unwrap());
        bench.network.start().await.unwrap();
        bench.network.reconcile().await;
        for name in ["c1", "c2"] {
            bench.network.add(&request(name)).await.unwrap();
        }
    }
    let bench = bench(kernel.clone(), Store::open(&path).unwrap());
    // The start reads the links, then gives the first endpoint its programs.
    kernel.0.lock().unwrap().fail_in = Some(1);
    let adoption = bench.network.start().await.unwrap();
    assert_eq!((adoption.adopted, adoption.freed.len()), (1, 0));
    let troubles = || troubles(&bench);
    assert!(
        troubles()[0].contains("enforce refused"),
        "{:?}",
        troubles()
    );
    assert_eq!(bench.network.book.list().len(), 2, "the pod lives");
    assert_eq!(kernel.0.lock().unwrap().links.len(), 2);

    // Tried again at each look, and no trouble any more once it works.
    kernel.0.lock().unwrap().fail_in = Some(1);
    bench.network.look_after_endpoints().await;
    assert!(
        troubles()[0].contains("enforce refused"),
        "{:?}",
        troubles()
    );
    bench.network.look_after_endpoints().await;
    assert_eq!(troubles(), [""; 0]);
}

fn troubles(bench: &Bench) -> Vec<String> {
    let troubled = bench.network.view().troubled;
    troubled.into_values().map(|trouble| trouble.text).collect()
}

#[tokio::test]
async fn an_endpoint_whose_sandbox_ended_without_a_del_is_freed_at_the_next_look() {
    let bench = ready().await;
    for name in ["ended", "alive", "busy"] {
        bench.network.add(&request(name)).await.unwrap();
    }
    let ended = |name: &str| bench.network.book.get(&id(name)).unwrap().host_ifname;
    for name in ["ended", "busy"] {
        let link = ended(name);
        bench.kernel.0.lock().unwrap().links.remove(&link);
    }
    // Whatever goes on there will see to it.
    let busy = bench.network.locks.lock(&id("busy")).await;
    assert_eq!(bench.network.look_after_endpoints().await, 1);
    assert_eq!(bench.network.book.get(&id("ended")), None);
    assert_eq!(bench.network.ipam_rows()[0].used, 2);
    drop(busy);
    // One that can't be freed now is told, and freed later: links, links, remove.
    bench.kernel.0.lock().unwrap().fail_in = Some(2);
    assert_eq!(bench.network.look_after_endpoints().await, 0);
    assert!(troubles(&bench)[0].contains("remove refused"));
    assert_eq!(bench.network.look_after_endpoints().await, 1);
    assert_eq!(troubles(&bench), [""; 0]);
    let list = bench.network.book.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].attachment, id("alive"));
}

#[tokio::test]
async fn enforcement_that_others_took_away_is_put_back_at_the_next_look() {
    let bench = ready().await;
    let mut endpoints = Vec::new();
    for name in ["robbed", "alive"] {
        endpoints.push(bench.network.add(&request(name)).await.unwrap());
    }
    {
        let mut state = bench.kernel.0.lock().unwrap();
        state.enforced.remove(&endpoints[0].host_ifname);
        state.calls.clear();
    }
    bench.network.look_after_endpoints().await;
    {
        let mut state = bench.kernel.0.lock().unwrap();
        assert_eq!(state.enforced.len(), 2);
        let again = |call: &&String| *call == "enforce";
        assert_eq!(state.calls.iter().filter(again).count(), 1);
        // Where that fails, the node says so.
        state.enforced.remove(&endpoints[0].host_ifname);
        state.fail_in = Some(1);
    }
    bench.network.look_after_endpoints().await;
    assert!(troubles(&bench)[0].contains("enforce refused"));
    bench.network.look_after_endpoints().await;
    assert_eq!(troubles(&bench), [""; 0]);
    assert_eq!(bench.kernel.0.lock().unwrap().enforced.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_with_news_all_the_time_is_looked_at_too() {
    let bench = ready().await;
    let endpoint = bench.network.add(&request("c1")).await.unwrap();
    let (stop, shutdown) = crate::parts::Shutdown::new();
    let news = async {
        for n in 0..40_u64 {
            if n == 1 {
                let mut state = bench.kernel.0.lock().unwrap();
                state.links.remove(&endpoint.host_ifname);
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let mut cluster = cluster();
            cluster.revision = n + 2;
            bench.cluster.send_replace(Arc::new(cluster));
        }
        stop.send_replace(true);
    };
    tokio::join!(bench.network.reconcile_forever(shutdown), news);
    assert!(bench.network.book.list().is_empty());
}

#[tokio::test]
async fn a_pod_whose_link_was_set_down_by_hand_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let kernel = Simulated::default();
    let endpoint = {
        let bench = bench(kernel.clone(), Store::open(&path).unwrap());
        bench.network.start().await.unwrap();
        bench.network.reconcile().await;
        let endpoint = bench.network.add(&request("c1")).await.unwrap();
        bench.network.book.flush().await.unwrap();
        endpoint
    };
    let set = |up: bool| {
        let mut state = kernel.0.lock().unwrap();
        state.links.get_mut(&endpoint.host_ifname).unwrap().up = up;
    };
    set(false);
    let bench = bench(kernel.clone(), Store::open(&path).unwrap());
    let adoption = bench.network.start().await.unwrap();
    assert_eq!((adoption.adopted, adoption.freed.len()), (1, 0));
    assert_eq!(bench.network.book.list(), std::slice::from_ref(&endpoint));
    bench.network.look_after_endpoints().await;
    let told = troubles(&bench);
    assert!(told[0].contains("was set down"), "{told:?}");
    set(true);
    bench.network.look_after_endpoints().await;
    assert_eq!(troubles(&bench), [""; 0]);
}

#[tokio::test]
async fn a_lost_store_takes_no_living_pod_with_it() {
    let kernel = Simulated::default();
    let lost = {
        let bench = bench(kernel.clone(), Store::in_memory().unwrap());
        bench.network.start().await.unwrap();
        bench.network.reconcile().await;
        bench.network.add(&request("c1")).await.unwrap()
    };
    {
        // A link that the maps don't know either, and an ADD that was cut short.
        let mut state = kernel.0.lock().unwrap();
        for (name, up) in [("fl000000000001", true), ("fl000000000002", false)] {
            let mut link = state.links[&lost.host_ifname].clone();
            (link.name, link.up) = (name.to_owned(), up);
            state.links.insert(link.name.clone(), link);
        }
    }
    let bench = bench(kernel.clone(), Store::in_memory().unwrap());
    let adoption = bench.network.start().await.unwrap();
    assert_eq!((adoption.recovered, adoption.adopted), (1, 1));
    assert_eq!(adoption.orphan_links, 1);
    assert!(bench.network.reconcile().await);
    let list = bench.network.book.list();
    let kept = |e: &crate::model::Endpoint| (e.attachment.clone(), e.id, e.addresses, e.mac);
    assert_eq!(list.iter().map(kept).collect::<Vec<_>>(), [kept(&lost)]);
    let strangers = bench.network.view().strangers;
    assert_eq!(strangers.len(), 1);
    assert!(strangers["fl000000000001"].contains("ip link del"));
    // A repeated ADD finds it, and is told the sandbox that only the caller knows.
    let again = bench.network.add(&request("c1")).await.unwrap();
    assert_eq!((again.id, again.sandbox), (lost.id, lost.sandbox.clone()));
    // Nobody gets its address, and DEL knows it.
    let other = bench.network.add(&request("c2")).await.unwrap();
    assert_ne!(other.addresses, lost.addresses);
    bench.network.del(&id("c1")).await.unwrap();
    kernel.0.lock().unwrap().links.remove("fl000000000001");
    bench.network.look_after_endpoints().await;
    assert!(bench.network.view().strangers.is_empty());
}

#[tokio::test]
async fn an_address_that_the_kernel_may_still_use_is_given_to_nobody() {
    let disk = FaultyDisk::default();
    let bench = bench(Simulated::default(), disk.store());
    bench.network.start().await.unwrap();
    bench.network.reconcile().await;
    disk.set_full(true);
    // create, enforce and bring_up succeed, the store doesn't, and the undo is refused.
    bench.kernel.0.lock().unwrap().fail_in = Some(3);
    let error = bench.network.add(&request("c1")).await.unwrap_err();
    assert_eq!(error.code, 5, "{error}");
    assert_eq!(bench.kernel.0.lock().unwrap().links.len(), 1);
    assert_eq!(bench.network.ipam_rows()[0].used, 1);
    let obstacle = bench.network.obstacle().await.unwrap();
    assert_eq!(obstacle.code, 50, "{obstacle}");

    disk.set_full(false);
    assert_eq!(bench.network.obstacle().await, None);
    bench.network.look_after_endpoints().await;
    assert!(bench.kernel.0.lock().unwrap().links.is_empty());
    assert_eq!(bench.network.ipam_rows()[0].used, 0);
    // Without a refusal nothing is held at all.
    disk.set_full(true);
    bench.network.add(&request("c1")).await.unwrap_err();
    assert_eq!(bench.network.ipam_rows()[0].used, 0);
}

#[tokio::test]
async fn status_tells_what_is_wrong_with_the_node_and_not_that_it_is_full() {
    let bench = ready().await;
    for n in 0..6 {
        bench.network.add(&request(&format!("c{n}"))).await.unwrap();
    }
    assert!(bench.network.exhausted().unwrap().contains("all 6"));
    assert_eq!(bench.network.obstacle().await, None);
    let refused = |what: &str| vec![KernelError::Refused(format!("{what} refused"))];
    // Ways to other nodes are no reason to take no pods.
    bench.kernel.0.lock().unwrap().unapplied.remote = refused("100.11.2.0/29");
    bench.network.reconcile().await;
    assert_eq!(bench.network.obstacle().await, None);
    bench.kernel.0.lock().unwrap().unapplied.own = refused("from_uplink on eth0");
    bench.network.reconcile().await;
    let obstacle = bench.network.obstacle().await.unwrap();
    assert_eq!(obstacle.code, 51);
    assert!(obstacle.to_string().contains("from_uplink on eth0"));
    bench.kernel.0.lock().unwrap().unapplied.own.clear();
    bench.network.reconcile().await;
    assert_eq!(bench.network.obstacle().await, None);
}

#[tokio::test]
async fn a_repeated_add_that_can_t_be_compared_leaves_the_pod_alone() {
    let bench = ready().await;
    let endpoint = bench.network.add(&request("c1")).await.unwrap();
    bench.kernel.0.lock().unwrap().fail_in = Some(0);
    let error = bench.network.add(&request("c1")).await.unwrap_err();
    assert_eq!(error.code, 101, "{error}");
    assert_eq!(bench.network.book.list(), [endpoint]);
    assert_eq!(bench.kernel.0.lock().unwrap().links.len(), 1);
}

/// A bench with a spool, and the file that a deletion of c1/eth0 is written to.
async fn with_spool(folder: &std::path::Path) -> (Bench, PathBuf) {
    let mut bench = ready().await;
    bench.network.config.state_dir = folder.to_owned();
    let spool = bench.network.config.spool();
    super::spool::prepare(&spool).unwrap();
    // printf 'c1\0eth0' | sha256sum
    let file = "ec43057c07aaa51f882664a65fed7b1844e3af9fae71c9a7bcb41f33491c2342.json";
    (bench, spool.join(file))
}

const DELETION: &str = r#"{"version": 1, "containerId": "c1", "ifname": "eth0", "at": 1}"#;

#[tokio::test]
async fn a_deletion_spooled_before_an_add_does_not_undo_it_and_one_after_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, file) = with_spool(folder.path()).await;
    let spool = bench.network.config.spool();
    std::fs::write(&file, DELETION).unwrap();
    // Made long after 1970, when the deletions say that they were written: a clock that was set back
    // must not keep one from being done.
    bench.clock.advance(1_000_000);
    bench.network.add(&request("c1")).await.unwrap();
    assert_eq!(bench.network.replay(&spool).await, (0, 0));
    assert_eq!(bench.network.book.list().len(), 1);
    std::fs::write(&file, DELETION).unwrap();
    assert_eq!(bench.network.replay(&spool).await, (1, 0));
    assert!(bench.network.book.list().is_empty());
}

#[tokio::test]
async fn an_add_whose_caller_gave_up_is_not_carried_out_and_takes_no_deletion_back() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, file) = with_spool(folder.path()).await;
    std::fs::write(&file, DELETION).unwrap();
    bench.clock.advance(31);
    let late = Caller::new(Some(30_000), || false);
    let gone = Caller::new(Some(90_000), || true);
    for caller in [late, gone] {
        let mut request = request("c1");
        request.caller = caller;
        let error = bench.network.add(&request).await.unwrap_err();
        assert_eq!(error.code, 11);
        assert!(bench.network.book.list().is_empty(), "{error}");
        assert!(bench.kernel.0.lock().unwrap().links.is_empty());
        assert!(file.exists(), "the runtime's deletion was taken back");
    }
}

#[tokio::test]
async fn an_add_that_waited_behind_the_del_of_its_caller_is_not_carried_out() {
    let bench = ready().await;
    let held = bench.network.locks.lock(&id("c1")).await;
    let waits = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mut request = request("c1");
    let peer = waits.clone();
    request.caller = Caller::new(None, move || {
        !peer.load(std::sync::atomic::Ordering::SeqCst)
    });
    let adding = bench.network.add(&request);
    let giving_up = async {
        waits.store(false, std::sync::atomic::Ordering::SeqCst);
        drop(held);
    };
    let (added, ()) = tokio::join!(adding, giving_up);
    assert_eq!(added.unwrap_err().code, 11);
    assert!(bench.network.book.list().is_empty());
}

#[tokio::test]
async fn a_gc_whose_caller_gave_up_removes_nothing() {
    let bench = ready().await;
    bench.network.add(&request("c1")).await.unwrap();
    let gone = Caller::new(None, || true);
    let none = [].into();
    let gc = bench.network.gc("pods", &none, &gone);
    assert_eq!(gc.await.unwrap_err().code, 11);
    assert_eq!(bench.network.book.list().len(), 1);
}

#[tokio::test]
async fn a_node_behind_a_router_is_left_to_the_kernels_routes() {
    let bench = bench(Simulated::default(), Store::in_memory().unwrap());
    let router = "172.31.250.2".parse().unwrap();
    bench.kernel.0.lock().unwrap().behind_a_router = vec![router];
    bench.network.start().await.unwrap();
    assert!(bench.network.reconcile().await);
    let applied = bench.kernel.0.lock().unwrap().applied.clone().unwrap();
    assert_eq!(applied.remote, []);
    assert!(bench.network.view().problems.is_empty());
    let inside = applied.masquerade.unwrap().inside;
    assert!(
        inside.contains(&"100.11.2.0/29".parse().unwrap()),
        "its pods see ours"
    );
}
