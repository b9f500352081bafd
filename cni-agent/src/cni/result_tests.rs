//! Results of each version against files that were written by hand from the specifications.

use super::*;
use crate::{
    cni::netconf::NetConf,
    model::{Addresses, AttachmentId, Mac},
};

fn endpoint(addresses: Addresses) -> Endpoint {
    Endpoint {
        attachment: AttachmentId::new("0f3a", "eth0").unwrap(),
        id: 1,
        network: "pods".to_owned(),
        pod: None,
        addresses,
        mac: Mac([2, 0, 0x5e, 0x10, 0, 1]),
        host_mac: Mac([2, 0, 0x5e, 0x10, 0, 2]),
        host_ifname: "fl0123456789ab".to_owned(),
        mtu: 1450,
        sandbox: "/run/netns/pod-1".to_owned(),
        created_at: 0,
        wired: false,
    }
}

fn both() -> Addresses {
    Addresses {
        v4: Some("100.11.1.7".parse().unwrap()),
        v6: Some("fd00:100:11:1::7".parse().unwrap()),
    }
}

fn conf(version: Version, more: Value) -> NetConf {
    let mut config = json!({"cniVersion": version, "name": "pods", "type": "fairlead-cni"});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    NetConf::parse(&config).unwrap()
}

fn golden(version: Version) -> Value {
    let text = match version {
        Version::V0_3_0 => include_str!("golden/add-0.3.0.json"),
        Version::V0_3_1 => include_str!("golden/add-0.3.1.json"),
        Version::V0_4_0 => include_str!("golden/add-0.4.0.json"),
        Version::V1_0_0 => include_str!("golden/add-1.0.0.json"),
        Version::V1_1_0 => include_str!("golden/add-1.1.0.json"),
    };
    serde_json::from_str(text).unwrap()
}

/// As the agent does: what came before first.
fn added(endpoint: &Endpoint, conf: &NetConf) -> Result<Value, CniError> {
    super::added(&PrevResult::before(conf)?, endpoint, conf)
}

#[test]
fn each_version_gets_the_result_of_its_specification() {
    for version in Version::ALL {
        let dns = json!({"dns": {"nameservers": ["10.96.0.10"], "search": ["svc.local"]}});
        let result = added(&endpoint(both()), &conf(version, dns)).unwrap();
        assert_eq!(result, golden(version), "{version}");
    }
}

#[test]
fn a_result_is_read_back_in_every_version() {
    for version in Version::ALL {
        let read = PrevResult::parse(&golden(version), version.as_str()).unwrap();
        assert_eq!(read.to_value(version).unwrap(), golden(version));
        let addresses: Vec<IpAddr> = both().iter().collect();
        assert_eq!(read.addresses(), addresses);
        let names: Vec<&str> = read.interface_names().collect();
        assert_eq!(names, ["fl0123456789ab", "eth0"]);
    }
}

#[test]
fn one_family_has_one_address_and_one_route() {
    let only = |v4, v6| {
        let endpoint = endpoint(Addresses { v4, v6 });
        added(&endpoint, &conf(Version::V1_1_0, json!({}))).unwrap()
    };
    let v4 = only(both().v4, None);
    assert_eq!(v4["ips"], json!([golden(Version::V1_1_0)["ips"][0]]));
    assert_eq!(
        v4["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}])
    );
    assert!(v4.get("dns").is_none(), "empty DNS is left out");
    let v6 = only(None, both().v6);
    assert_eq!(v6["ips"], json!([golden(Version::V1_1_0)["ips"][1]]));
    assert_eq!(v6["routes"], json!([{"dst": "::/0", "gw": "fe80::1"}]));
}

#[test]
fn in_a_chain_ours_comes_after_what_is_there() {
    let prev = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net1", "sandbox": "/run/netns/pod-1", "mtu": 9000,
            "socketPath": "/run/vhost.sock", "pciID": "0000:04:00.5"}],
        "ips": [{"interface": 0, "address": "192.0.2.5/24", "gateway": "192.0.2.1"}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1", "mtu": 1400, "advmss": 1360,
            "priority": 7, "table": 100, "scope": 0}],
        "dns": {"domain": "example.org"},
    });
    let v4 = Addresses { v6: None, ..both() };
    let result = added(
        &endpoint(v4),
        &conf(Version::V1_1_0, json!({"prevResult": prev})),
    )
    .unwrap();
    assert_eq!(result["interfaces"][0], prev["interfaces"][0]);
    assert_eq!(result["ips"][0], prev["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["routes"][0], prev["routes"][0]);
    assert_eq!(result["routes"][1]["dst"], "0.0.0.0/0");
    assert_eq!(result["dns"], prev["dns"]);

    let mut old = prev;
    old["cniVersion"] = json!("1.0.0");
    let result = added(
        &endpoint(v4),
        &conf(Version::V1_0_0, json!({"prevResult": old})),
    )
    .unwrap();
    assert_eq!(
        result["interfaces"][0],
        json!({"name": "net1", "sandbox": "/run/netns/pod-1"}),
        "1.0.0 has no more words"
    );
    assert_eq!(
        result["routes"][0],
        json!({"dst": "198.51.100.0/24", "gw": "192.0.2.1"})
    );
}

#[test]
fn the_runtimes_dns_goes_before_the_networks() {
    let more = json!({
        "dns": {"nameservers": ["192.0.2.1"]},
        "runtimeConfig": {"dns": {"servers": ["192.0.2.2"], "options": ["ndots:5"]}},
    });
    let result = added(&endpoint(both()), &conf(Version::V1_0_0, more)).unwrap();
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["192.0.2.2"], "options": ["ndots:5"]})
    );
}

#[test]
fn what_go_writes_for_nothing_is_nothing() {
    let value = json!({
        "interfaces": null, "routes": null, "dns": {"nameservers": null},
        "ips": [{"version": "4", "address": "100.11.1.7/32", "gateway": ""}],
    });
    let read = PrevResult::parse(&value, "0.4.0").unwrap();
    assert_eq!(read.ips[0].gateway, None);
    assert!(read.dns.is_empty() && read.interfaces.is_empty());
}

#[test]
fn a_result_that_cannot_be_read_names_the_field() {
    for (value, field) in [
        (json!([]), "prevResult"),
        (
            json!({"cniVersion": "0.2.0", "ip4": {}}),
            "prevResult.cniVersion",
        ),
        (
            json!({"ips": [{"address": "100.11.1"}]}),
            "prevResult.ips[0].address",
        ),
        (json!({"ips": [{}]}), "prevResult.ips[0]"),
        (
            json!({"routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}),
            "prevResult.routes[0].gw",
        ),
        (
            json!({"interfaces": [{"name": 5}]}),
            "prevResult.interfaces[0].name",
        ),
    ] {
        let error = PrevResult::parse(&value, "1.0.0").unwrap_err();
        assert_eq!(error.code, 7, "{value}");
        assert!(error.msg.contains(field), "{value}: {}", error.msg);
    }
}

#[test]
fn check_needs_a_previous_result() {
    let error = PrevResult::required(&conf(Version::V1_0_0, json!({}))).unwrap_err();
    assert_eq!(error.code, 7);
    assert!(error.msg.contains("prevResult"), "{error}");
    let prev = json!({"prevResult": golden(Version::V1_0_0)});
    assert_eq!(
        PrevResult::required(&conf(Version::V1_0_0, prev))
            .unwrap()
            .ips
            .len(),
        2
    );
}
