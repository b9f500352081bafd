//! What people and scripts see, whole: names of fields are an interface.

use super::*;
use crate::{model::Mac, query::Adoption};
use serde_json::{Value, json};

fn endpoint_row(id: u32, container: &str) -> EndpointRow {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    EndpointRow {
        id,
        container_id: container.to_owned(),
        ifname: "eth0".to_owned(),
        network: "pods".to_owned(),
        pod: Some(crate::model::PodRef {
            namespace: "shop".to_owned(),
            name: format!("web-{id}"),
            uid: None,
        }),
        addresses: crate::model::Addresses {
            v4: Some(format!("100.11.1.{id}").parse().unwrap()),
            v6: None,
        },
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host_ifname: format!("fl{id}"),
        host_mac: Mac([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        sandbox: "/run/netns/x".to_owned(),
        // Three days and a bit, whenever this runs.
        created_at: now.as_secs() - 3 * 86_400 - 60,
    }
}

fn list() -> [EndpointRow; 2] {
    [endpoint_row(1, "0f3a77aa"), endpoint_row(2, "9c1b00bb")]
}

fn said(answer: Result<Answer, String>) -> String {
    let answer = answer.unwrap();
    assert_eq!(answer.code, 0);
    answer.text
}

#[test]
fn a_table_has_heads_and_a_line_for_each_row_and_wide_has_more() {
    let table = said(endpoints(&list(), Output::Table));
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let heads = ["ID", "POD", "INTERFACE", "IPV4", "IPV6", "AGE"];
    assert_eq!(lines[0], heads);
    assert_eq!(
        lines[1],
        ["1", "shop/web-1", "eth0", "100.11.1.1", "-", "3d"]
    );
    assert_eq!(lines.len(), 3);
    let wide = said(endpoints(&list(), Output::Wide));
    assert!(
        wide.starts_with(" ID  POD") && wide.contains("HOST INTERFACE  MAC"),
        "{wide}"
    );
    for part in ["fl2", "02:00:00:00:00:01", "1500", "pods", "9c1b00bb"] {
        assert!(wide.contains(part), "{wide}");
    }
    assert!(table.lines().chain(wide.lines()).all(|l| l == l.trim_end()));
}

#[test]
fn json_and_yaml_say_the_same_in_camel_case() {
    let json: Value = serde_json::from_str(&said(endpoints(&list(), Output::Json))).unwrap();
    let yaml = said(endpoints(&list(), Output::Yaml));
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), json);
    let mut first = json[0].clone();
    first.as_object_mut().unwrap().remove("createdAt").unwrap();
    assert_eq!(
        first,
        json!({
            "id": 1, "containerId": "0f3a77aa", "ifname": "eth0", "network": "pods",
            "pod": {"namespace": "shop", "name": "web-1"}, "addresses": {"v4": "100.11.1.1"},
            "mac": "02:00:00:00:00:01", "hostIfname": "fl1", "hostMac": "02:00:00:00:00:02",
            "mtu": 1500, "sandbox": "/run/netns/x",
        })
    );
}

#[test]
fn one_endpoint_is_found_by_each_of_its_names() {
    let names = [
        "2",
        "100.11.1.2",
        "shop/web-2",
        "9c1b00bb/eth0",
        "9c1b00",
        "fl2",
    ];
    for name in names {
        let one: Value =
            serde_json::from_str(&said(endpoint(&list(), name, Output::Json))).unwrap();
        assert_eq!(one["id"], 2, "{name}");
        // For people the whole row.
        let table = said(endpoint(&list(), name, Output::Table));
        assert!(table.contains("HOST INTERFACE") && table.lines().count() == 2);
    }
    let none = endpoint(&list(), "nobody", Output::Table).unwrap();
    assert_eq!((none.code, none.text.as_str()), (1, ""));
    assert_eq!(
        endpoint(&list(), "9c1", Output::Json).unwrap().code,
        1,
        "too short"
    );
}

#[test]
fn status_says_whether_it_is_ready_and_every_problem() {
    let mut status = Status {
        version: "0.1.0".to_owned(),
        node: "n1".to_owned(),
        ready: false,
        problems: vec!["first".to_owned(), "second".to_owned()],
        parts: Default::default(),
        pod_cidrs: vec!["100.11.1.0/24".parse().unwrap()],
        pod_mtu: 1500,
        uplinks: vec![],
        endpoints: 2,
        nodes: 3,
        uptime_secs: 3_700,
        adoption: Some(Adoption {
            adopted: 2,
            recovered: 1,
            ..Adoption::default()
        }),
        paths: vec![],
    };
    let answer = super::status(&status, Output::Table).unwrap();
    assert_eq!(answer.code, 1);
    for part in [
        "first",
        "second",
        "1h",
        "2 endpoints adopted (1 that the store had lost)",
    ] {
        assert!(answer.text.contains(part), "{}", answer.text);
    }
    status.ready = true;
    let json: Value = serde_json::from_str(&said(super::status(&status, Output::Json))).unwrap();
    assert_eq!(
        (&json["podMtu"], &json["uptimeSecs"]),
        (&json!(1500), &json!(3_700))
    );
    assert_eq!(json["problems"], json!(["first", "second"]));
}

#[test]
fn the_other_lists_have_every_form_too() {
    let pool = IpamRow {
        prefix: "100.11.1.0/29".parse().unwrap(),
        total: 6,
        used: 3,
        cooling: 1,
    };
    let table = said(ipam(&[pool], Output::Table));
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["100.11.1.0/29", "3", "1", "2", "6"]);
    let node = NodeRow {
        name: "n2".to_owned(),
        local: false,
        addresses: vec![],
        pod_cidrs: vec![],
        uplink: None,
    };
    assert!(said(nodes(&[node], Output::Wide)).contains("no way"));
    let drop = DropRow {
        reason: "source_mac".to_owned(),
        ifindex: 7,
        interface: "fl1".to_owned(),
        endpoint: String::new(),
        packets: 5,
        bytes: 300,
    };
    assert!(said(drops(std::slice::from_ref(&drop), Output::Wide)).contains("IFINDEX"));
    assert!(said(drops(&[drop], Output::Yaml)).contains("source_mac"));
    let pin = PinRow {
        name: "nodes".to_owned(),
        kind: "map".to_owned(),
        path: "/p".to_owned(),
        command: "bpftool map dump pinned /p".to_owned(),
    };
    assert!(said(pins(&[pin], Output::Table)).contains("bpftool map dump pinned /p"));
    let none: Value = serde_json::from_str(&said(endpoints(&[], Output::Json))).unwrap();
    assert_eq!(none, json!([]));
}
