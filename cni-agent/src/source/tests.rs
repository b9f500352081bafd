//! Tables: every fault that an author can make says where it is and what to do.

use super::{
    document::{Parsed, parse},
    merge::merge,
    object::Object,
    problem::SourceProblem,
};
use crate::model::{Node, Pod};
use ipnetwork::IpNetwork;
use proptest::prelude::*;
use std::fmt::Write as _;

fn parsed(text: &str) -> Parsed {
    parse("a.yaml", text.as_bytes())
}

/// A node manifest with more fields at the end.
fn node(rest: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\n{rest}")
}

/// The first problem must name file, place and remedy by these parts.
fn check(text: &str, parts: &[&str]) {
    let parsed = parsed(text);
    let problem = parsed
        .problems
        .first()
        .unwrap_or_else(|| panic!("no problem found in\n{text}"));
    let shown = problem.to_string();
    for part in parts.iter().chain(&["a.yaml"]) {
        assert!(shown.contains(part), "{shown:?} lacks {part:?} for\n{text}");
    }
}

#[test]
fn every_fault_names_its_place_and_remedy() {
    let cases: Vec<(String, &[&str])> = vec![
        // Text.
        (node("spec: [a"), &["line 4", "unclosed bracket", "mend this line"]),
        (node("spec:\n\tpodCIDR: x"), &["line 5", "tabs", "mend this line"]),
        (node("spec: {}\nspec: {}"), &["line 5", "duplicate mapping key: spec", "keep one"]),
        (node("spec: a: b"), &["line 4", "not valid YAML", "mend"]),
        (node("spec: *nowhere"), &["line 4", "not valid YAML", "mend"]),
        ("{\"kind\": \"Node\",".to_owned(), &["line 1", "not valid YAML or JSON", "mend"]),
        (String::new(), &["is empty", "delete the file"]),
        ("\n  \n".to_owned(), &["is empty", "delete the file"]),
        ("- a\n- b\n".to_owned(), &["document 1, line 1", "is a list", "write one with apiVersion"]),
        ("hello".to_owned(), &["is a single value", "write one with apiVersion"]),
        // What the object is.
        ("apiVersion: v1\nmetadata: {name: a}".to_owned(), &["kind", "is missing", "kind: Node"]),
        ("kind: Node\nmetadata: {name: a}".to_owned(), &["apiVersion", "is missing", "apiVersion: v1"]),
        ("kind: 7\napiVersion: v1".to_owned(), &["line 1, kind", "7 is not text", "kind: Node"]),
        ("kind: Deployment\napiVersion: apps/v1".to_owned(), &["kind Deployment is not used by Fairlead", "nothing to do"]),
        ("kind: Nodes\napiVersion: v1".to_owned(), &["kind Nodes is none of Kubernetes", "correct it"]),
        ("kind: Node\napiVersion: v2".to_owned(), &["line 2, apiVersion", "in version v1, not v2", "write apiVersion: v1"]),
        ("kind: EndpointSlice\napiVersion: v1".to_owned(), &["write apiVersion: discovery.k8s.io/v1"]),
        ("kind: List\napiVersion: v1".to_owned(), &["items", "is missing", "below items:"]),
        ("kind: List\napiVersion: v1\nitems:\n- kind: List\n  apiVersion: v1".to_owned(), &["line 4, items[0].kind", "outer one"]),
        ("kind: List\nitems: []".to_owned(), &["apiVersion", "write apiVersion: v1"]),
        // Types.
        ("kind: Node\napiVersion: v1\nmetadata:\n  name: 12".to_owned(), &["line 4, metadata.name", "integer `12`", "quotes"]),
        (node("spec:\n  podCIDRs: 10.0.0.0/24"), &["line 5, spec.podCIDRs", "expected a sequence", "write a list"]),
        (node("spec:\n  unschedulable: maybe"), &["line 5, spec.unschedulable", "expected a boolean", "kubectl explain node.spec.unschedulable"]),
        (node("spec: 4"), &["line 4, spec", "kubectl explain node.spec"]),
        (node("spec:\n  taints:\n  - key: a\n    effect: b\n    timeAdded: never"), &["line 8, spec.taints[0].timeAdded", "kubectl explain node.spec.taints.timeAdded"]),
        // Names.
        ("kind: Node\napiVersion: v1".to_owned(), &["metadata.name", "is missing", "give the object a name"]),
        ("kind: Node\napiVersion: v1\nmetadata: {name: Node_1}".to_owned(), &["line 3, metadata.name", "\"Node_1\"", "lower-case"]),
        (format!("kind: Node\napiVersion: v1\nmetadata: {{name: {}}}", "a".repeat(254)), &["has 254 characters", "shorten"]),
        ("kind: Namespace\napiVersion: v1\nmetadata: {name: '-a'}".to_owned(), &["metadata.name", "lower-case"]),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: p, namespace: a.b}".to_owned(), &["metadata.namespace", "\"a.b\"", "digits and '-'"]),
        ("kind: Service\napiVersion: v1\nmetadata: {name: s, namespace: A}".to_owned(), &["metadata.namespace", "lower-case"]),
        // podCIDRs.
        (node("spec: {podCIDRs: [10.0.0.300/24]}"), &["spec.podCIDRs[0]", "\"10.0.0.300/24\" is not a prefix", "100.11.1.0/24"]),
        (node("spec: {podCIDRs: [10.0.0.0]}"), &["spec.podCIDRs[0]", "is not a prefix"]),
        (node("spec: {podCIDRs: [10.0.0.0/255.255.255.0]}"), &["spec.podCIDRs[0]", "is not a prefix"]),
        (node("spec: {podCIDRs: [10.0.0.0/33]}"), &["spec.podCIDRs[0]", "is not a prefix"]),
        (node("spec:\n  podCIDRs:\n  - fd00::/64\n  - 10.0.0.7/24"), &["line 7, spec.podCIDRs[1]", "host bits", "write 10.0.0.0/24"]),
        (node("spec: {podCIDRs: [10.0.0.0/24, 10.0.1.0/24]}"), &["spec.podCIDRs[1]", "same family as 10.0.0.0/24", "remove one"]),
        (node("spec: {podCIDR: nonsense}"), &["spec.podCIDR:", "is not a prefix"]),
        (node("spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.1.0/24]}"), &["spec.podCIDR:", "differs from spec.podCIDRs[0]", "remove spec.podCIDR"]),
        (node("spec: {podCIDRs: [127.0.0.0/8]}"), &["pods can't have", "private range"]),
        (node("spec: {podCIDRs: [224.0.0.0/24]}"), &["pods can't have"]),
        (node("spec: {podCIDRs: ['fe80::/64']}"), &["pods can't have"]),
        (node("spec: {podCIDRs: ['::/0']}"), &["pods can't have"]),
        // Addresses.
        (node("status:\n  addresses:\n  - {type: Hostname, address: n1}\n  - {type: InternalIP, address: n1}"), &["line 7, status.addresses[1].address", "\"n1\" is not an IP address", "192.0.2.10"]),
        (node("status: {addresses: [{type: InternalIP, address: 127.0.0.1}]}"), &["loopback", "other nodes can reach"]),
        (node("status: {addresses: [{type: InternalIP, address: 'fe80::1'}]}"), &["link-local", "other nodes can reach"]),
        (node("status: {addresses: [{type: InternalIP, address: 0.0.0.0}]}"), &["unspecified"]),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: p}\nstatus: {podIP: x}".to_owned(), &["status.podIP:", "is not an IP address"]),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: p}\nstatus: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}".to_owned(), &["status.podIPs[1].ip", "same family", "remove one"]),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: p}\nstatus: {podIPs: [{ip: '::ffff:10.0.0.1'}]}".to_owned(), &["IPv4 address in IPv6 form"]),
        // Misspelt.
        (node("spec:\n  podCIDRS: [10.0.0.0/24]"), &["line 5, spec.podCIDRS", "is not a field of Node", "correct its name"]),
        // Kinds of later versions are checked too.
        ("kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: a}\nspec:\n  podSelector: {}\n  policyTypes: Egress".to_owned(), &["line 6, spec.policyTypes", "write a list"]),
        ("kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {name: a}\naddressType: IPv4\nendpoints: []\nports: [{port: http}]".to_owned(), &["ports[0].port", "kubectl explain endpointslice.ports.port"]),
    ];
    assert!(cases.len() > 50);
    for (text, parts) in &cases {
        check(text, parts);
    }
}

#[test]
fn bytes_that_are_no_text_are_named() {
    let parsed = parse("a.yaml", b"kind: \xff");
    assert!(
        parsed.problems[0]
            .to_string()
            .contains("byte 6 is not UTF-8")
    );
}

#[test]
fn all_faults_of_a_file_are_told_at_once() {
    let text = format!(
        "{}---\n{}---\n{}",
        node("spec: {podCIDRs: [x, w]}\nstatus: {addresses: [{type: InternalIP, address: z}]}\n"),
        "# nothing here\n",
        "kind: Secret\napiVersion: v1\n---\nkind: Pod\nkind: Pod\n"
    );
    let parsed = parsed(&text);
    let places: Vec<_> = parsed
        .problems
        .iter()
        .map(|p| (p.document.unwrap(), p.field.clone().unwrap_or_default()))
        .collect();
    let expected = [
        (1, "spec.podCIDRs[0]"),
        (1, "spec.podCIDRs[1]"),
        (1, "status.addresses[0].address"),
        (2, "kind"),
        (3, ""),
    ];
    assert_eq!(places, expected.map(|(n, field)| (n, field.to_owned())));
    assert!(parsed.is_broken() && parsed.objects.is_empty());
}

#[test]
fn foreign_kinds_are_noted_and_break_nothing() {
    let foreign = [
        ("v1", "ConfigMap"),
        ("apps/v1", "Deployment"),
        ("serving.knative.dev/v1", "Service"),
        ("networking.k8s.io/v1", "Ingress"),
    ];
    let documents = foreign.map(|(version, kind)| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n---\n")
    });
    let parsed = parsed(&(documents.concat() + &node("")));
    assert_eq!((parsed.objects.len(), parsed.problems.len()), (1, 4));
    assert!(!parsed.is_broken(), "{:?}", parsed.problems);
    let last = parsed.problems[3].to_string();
    assert!(
        last.contains("document 4") && last.contains("Ingress"),
        "{last}"
    );
    // Of the version that nobody serves any more, and misspelt: these are meant for us.
    for text in [
        "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\n",
        "apiVersion: v1\nkind: Nod\n",
    ] {
        assert!(self::parsed(text).is_broken(), "{text}");
    }
}

#[test]
fn real_manifests_are_read() {
    // As `kubectl get node,pod -o yaml` writes them, shortened.
    let text = r#"
apiVersion: v1
kind: List
metadata:
  resourceVersion: ""
items:
- apiVersion: v1
  kind: Node
  metadata:
    annotations: {node.alpha.kubernetes.io/ttl: "0"}
    creationTimestamp: "2026-05-01T10:00:00Z"
    labels: {kubernetes.io/hostname: worker-1}
    name: worker-1
    uid: 8f0e3c1e-0000-4000-8000-000000000001
  spec:
    podCIDR: 100.11.1.0/24
    podCIDRs: [100.11.1.0/24, "fd00:11:1::/64"]
  status:
    addresses:
    - {address: 203.0.113.9, type: ExternalIP}
    - {address: 172.31.250.1, type: InternalIP}
    - {address: 172.31.250.99, type: InternalIP}
    - {address: "fd00:fa::1", type: InternalIP}
    - {address: worker-1, type: Hostname}
    allocatable: {cpu: 2, memory: 8Gi}
    capacity: {cpu: "2", memory: 8Gi}
    conditions:
    - {lastHeartbeatTime: null, lastTransitionTime: "2026-05-01T10:00:00Z", status: "True", type: Ready}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-0, namespace: shop, uid: u1, labels: {app: web}}
  spec:
    nodeName: worker-1
    containers:
    - name: web
      image: web
      ports: [{containerPort: 80, protocol: TCP}]
      resources: {limits: {cpu: 1.5}, requests: {memory: 64Mi}}
      livenessProbe: {httpGet: {path: /, port: http}}
    volumes: [{name: tmp, emptyDir: {sizeLimit: 1000}}]
  status:
    podIP: 100.11.1.7
    podIPs: [{ip: 100.11.1.7}, {ip: "fd00:11:1::7"}]
- {apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: ""}, spec: {hostNetwork: true, containers: []}}
"#;
    let parsed = parsed(text);
    assert_eq!(parsed.problems, []);
    let [worker, web, agent] = parsed.objects.as_slice() else {
        panic!("{parsed:?}")
    };
    assert_eq!((worker.document, worker.line, web.line), (1, 7, 29));
    let ips = |list: &[&str]| {
        list.iter()
            .map(|ip| ip.parse().unwrap())
            .collect::<Vec<_>>()
    };
    let expected = Node {
        name: "worker-1".to_owned(),
        addresses: ips(&["172.31.250.1", "fd00:fa::1"]),
        pod_cidrs: vec![
            "100.11.1.0/24".parse().unwrap(),
            "fd00:11:1::/64".parse().unwrap(),
        ],
        zone: None,
        further_addresses: ips(&["172.31.250.99", "203.0.113.9"]),
        labels: [("kubernetes.io/hostname".to_owned(), "worker-1".to_owned())].into(),
    };
    assert_eq!(worker.object, Object::Node(expected));
    let expected = Pod {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: Some("u1".to_owned()),
        labels: std::sync::Arc::new([("app".to_owned(), "web".to_owned())].into()),
        node: Some("worker-1".to_owned()),
        host_network: false,
        ips: ips(&["100.11.1.7", "fd00:11:1::7"]),
        ports: Vec::new(),
    };
    assert_eq!(web.object, Object::Pod(expected));
    let Object::Pod(agent) = &agent.object else {
        panic!()
    };
    assert!(agent.host_network && agent.namespace == "default");
}

#[test]
fn a_node_is_read_from_the_older_field_and_without_any() {
    let read = |rest: &str| match &parsed(&node(rest)).objects[0].object {
        Object::Node(node) => node
            .pod_cidrs
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(read("spec: {podCIDR: 10.0.0.0/24}"), ["10.0.0.0/24"]);
    assert_eq!(
        read("spec: {podCIDR: '', podCIDRs: ['fd00::/64']}"),
        ["fd00::/64"]
    );
    assert!(read("spec:").is_empty());
    assert!(read("").is_empty());
}

#[test]
fn json_and_byte_order_marks_are_read() {
    let json = "\u{feff}{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Node\",\n\t\"metadata\": {\"name\": \"n1\"}\n}\n";
    let parsed = parsed(json);
    assert_eq!((parsed.problems.len(), parsed.objects.len()), (0, 1));
}

#[test]
fn aliases_that_multiply_are_refused_quickly() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let alias = format!("*a{}", n - 1);
        writeln!(text, "a{n}: &a{n} [{}]", vec![alias; 10].join(", ")).unwrap();
    }
    check(&text, &["more than is read of one file", "split it"]);
}

fn found(file: &str, text: &str) -> (String, Vec<super::document::Found>) {
    (file.to_owned(), parse(file, text.as_bytes()).objects)
}

fn merged(
    files: &[(String, Vec<super::document::Found>)],
) -> (crate::state::Cluster, Vec<SourceProblem>) {
    merged_after(&crate::state::Cluster::default(), files)
}

fn merged_after(
    before: &crate::state::Cluster,
    files: &[(String, Vec<super::document::Found>)],
) -> (crate::state::Cluster, Vec<SourceProblem>) {
    merge(
        before,
        files
            .iter()
            .map(|(file, found)| (file.as_str(), found.as_slice())),
    )
}

#[test]
fn a_new_node_takes_nothing_that_another_has_in_force() {
    let old = named("n2", "10.0.1.0/24", "192.0.2.1");
    let (before, _) = merged(&[found("b.yaml", &old)]);
    // First by name and by file.
    let files = [
        found("a.yaml", &named("n1", "10.0.0.0/16", "192.0.2.1")),
        found("b.yaml", &old),
    ];
    let (cluster, problems) = merged_after(&before, &files);
    assert_eq!(cluster.nodes["n2"], before.nodes["n2"]);
    let new = &cluster.nodes["n1"];
    assert!(new.pod_cidrs.is_empty() && new.addresses.is_empty());
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for part in [
        "10.0.0.0/16 of node n1 overlaps 10.0.1.0/24 of node n2, which keeps it (in force before)",
        "192.0.2.1 of node n1 is node n2's too, which keeps it (in force before)",
    ] {
        assert!(texts.iter().any(|t| t.contains(part)), "{texts:?}");
    }
    // What the incumbent gives up is free.
    let files = [
        found("a.yaml", &named("n1", "10.0.0.0/16", "192.0.2.1")),
        found("b.yaml", &named("n2", "10.9.1.0/24", "192.0.2.2")),
    ];
    let (cluster, problems) = merged_after(&cluster, &files);
    assert_eq!(cluster.nodes["n1"].pod_cidrs.len(), 1);
    assert_eq!(problems, []);
}

fn named(name: &str, cidr: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: ['{cidr}']}}\nstatus: {{addresses: [{{type: InternalIP, address: '{ip}'}}]}}\n---\n"
    )
}

#[test]
fn of_duplicates_the_first_by_path_is_in_force_and_both_are_named() {
    let files = [
        found("a.yaml", &named("n1", "10.0.1.0/24", "192.0.2.1")),
        found("b.yaml", &named("n1", "10.0.9.0/24", "192.0.2.9")),
    ];
    let (cluster, problems) = merged(&files);
    assert_eq!(cluster.nodes["n1"].pod_cidrs[0].to_string(), "10.0.1.0/24");
    let text = problems[0].to_string();
    for part in [
        "b.yaml",
        "Node n1 is also in a.yaml, document 1 (line 1)",
        "remove one",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(problems.len(), 1);
}

#[test]
fn of_overlapping_podcidrs_and_same_addresses_the_first_node_keeps_them() {
    let text = named("n2", "10.0.0.0/16", "192.0.2.1")
        + &named("n1", "10.0.1.0/24", "192.0.2.1")
        + &named("n3", "10.0.1.128/25", "192.0.2.3");
    let (cluster, problems) = merged(&[found("a.yaml", &text)]);
    assert_eq!(cluster.nodes["n1"].pod_cidrs.len(), 1);
    assert!(cluster.nodes["n2"].pod_cidrs.is_empty() && cluster.nodes["n2"].addresses.is_empty());
    assert!(cluster.nodes["n3"].pod_cidrs.is_empty());
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for part in [
        "10.0.0.0/16 of node n2 overlaps 10.0.1.0/24 of node n1",
        "192.0.2.1 of node n2 is node n1's too",
        "10.0.1.128/25 of node n3 overlaps 10.0.1.0/24 of node n1",
    ] {
        assert!(
            texts.iter().any(|text| text.contains(part)),
            "{texts:?} lacks {part}"
        );
    }
}

#[test]
fn services_and_their_slices_are_part_of_the_cluster() {
    let text = "kind: Service\napiVersion: v1\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.9, ports: [{port: 80, targetPort: http}]}\n---\n\
        kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.0.1.5]}]\n";
    let (cluster, problems) = merged(&[found("a.yaml", text)]);
    assert_eq!(problems, []);
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    assert_eq!(cluster.services[&key("web")].ports[0].port, 80);
    let slice = &cluster.slices[&key("web-1")];
    assert_eq!((slice.service.as_str(), slice.ports[0].port), ("web", 8080));
    assert_eq!(slice.endpoints[0].address.to_string(), "10.0.1.5");
}

#[test]
fn namespaces_and_policies_of_a_folder_are_read() {
    let text = "kind: Namespace\napiVersion: v1\nmetadata: {name: shop, labels: {team: a}}\n---\n\
        kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: closed, namespace: shop}\n\
        spec: {podSelector: {}}\n";
    let (cluster, problems) = merged(&[found("a.yaml", text)]);
    assert_eq!(problems, []);
    assert_eq!(cluster.namespaces["shop"].labels["team"], "a");
    let closed = &cluster.policies[&("shop".to_owned(), "closed".to_owned())];
    assert_eq!(closed.ingress, Some(Vec::new()));
}

proptest! {
    /// The neighbours in order are enough to find an overlap.
    #[test]
    fn kept_podcidrs_are_those_of_a_plain_reading(
        cidrs in prop::collection::vec((any::<bool>(), 0..64u8, 0..=6u8), 1..24)
    ) {
        let mut text = String::new();
        let mut plain: Vec<(String, IpNetwork)> = Vec::new();
        for (n, (v6, block, shorter)) in cidrs.into_iter().enumerate() {
            let block = block >> shorter << shorter;
            let cidr = if v6 {
                format!("fd00:0:0:{block:x}::/{}", 64 - shorter)
            } else {
                format!("10.1.{block}.0/{}", 24 - shorter)
            };
            let name = format!("n{n:02}");
            text += &named(&name, &cidr, &format!("192.0.2.{}", n + 1));
            let cidr: IpNetwork = cidr.parse().unwrap();
            let overlaps = |(_, other): &(String, IpNetwork)| {
                other.is_ipv4() == cidr.is_ipv4()
                    && (other.contains(cidr.ip()) || cidr.contains(other.ip()))
            };
            if !plain.iter().any(overlaps) {
                plain.push((name, cidr));
            }
        }
        let (cluster, _) = merged(&[found("a.yaml", &text)]);
        let kept: Vec<_> = (cluster.nodes.values())
            .flat_map(|n| n.pod_cidrs.iter().map(move |cidr| (n.name.clone(), *cidr)))
            .collect();
        prop_assert_eq!(kept, plain);
    }

    /// No text makes the parser panic.
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}:,&*!|>%@#\"' \n\ta-c0-9.-]{0,80}", cut in 0..400usize) {
        parsed(&text);
        let whole = named("n1", "10.0.1.0/24", "192.0.2.1");
        let cut = cut.min(whole.len());
        parsed(&format!("{}{text}{}", &whole[..cut], &whole[cut..]));
    }
}
