//! Recognition by tables, files in a folder of the test's own.

use super::{recognise::*, *};
use crate::netlink::foreign::{Chain, ForeignRoute, Link};
use std::path::Path;

fn removed_by_clean(finding: Option<Finding>) -> Option<bool> {
    finding.map(|f| f.is_cleaned(false))
}

#[test]
fn configuration_is_known_by_its_plugins_and_ours_never_is_a_finding() {
    for (name, text, expected) in [
        (
            "10-calico.conflist",
            r#"{"plugins":[{"type":"calico","ipam":{"type":"calico-ipam"}},{"type":"portmap"}]}"#,
            Some(true),
        ),
        (
            "10-flannel.conflist",
            r#"{"plugins":[{"type":"flannel"},{"type":"portmap"}]}"#,
            Some(true),
        ),
        (
            "10-canal.conflist",
            r#"{"plugins":[{"type":"calico","ipam":{"type":"host-local"}}]}"#,
            Some(true),
        ),
        (
            "00-multus.conf",
            r#"{"type":"multus","delegates":[{"plugins":[{"type":"calico"}]}]}"#,
            Some(true),
        ),
        (
            "00-multus.conf",
            r#"{"type":"multus","clusterNetwork":"/etc/cni/net.d/10-calico.conflist"}"#,
            Some(false),
        ),
        (
            "00-multus.conf",
            r#"{"type":"multus","clusterNetwork":"fairlead"}"#,
            None,
        ),
        (
            "87-podman.conflist",
            r#"{"plugins":[{"type":"bridge"}]}"#,
            Some(false),
        ),
        (
            "05-fairlead.conflist",
            r#"{"plugins":[{"type":"fairlead-cni"},{"type":"portmap"}]}"#,
            None,
        ),
        (
            "05-chained.conflist",
            r#"{"plugins":[{"type":"fairlead-cni"},{"type":"calico"}]}"#,
            None,
        ),
        ("99-loopback.conf", r#"{"type":"loopback"}"#, None),
        (
            "10-calico.conflist.fairlead-disabled",
            r#"{"type":"calico"}"#,
            None,
        ),
        ("broken.conf", "{", None),
        ("calico-kubeconfig", "", Some(true)),
    ] {
        let found = config(Path::new("/etc/cni/net.d").join(name).as_path(), text);
        assert_eq!(removed_by_clean(found), expected, "{name}");
    }
}

#[test]
fn links_of_running_pods_are_left_without_force() {
    for (name, up, peer_lives, expected) in [
        ("cali1234567890a", true, true, Some(false)),
        ("cali1234567890a", true, false, Some(true)),
        ("calibration", true, false, None),
        ("vxlan.calico", true, false, Some(true)),
        ("flannel.1", true, false, Some(true)),
        ("cni0", true, false, Some(false)),
        ("tunl0", true, false, Some(false)),
        ("tunl0", false, false, None),
        ("fl0123456789abc", true, true, None),
        ("eth0", true, false, None),
    ] {
        let one = Link {
            name: name.to_owned(),
            ifindex: 7,
            up,
            peer_lives,
        };
        let found = link(&one);
        assert_eq!(removed_by_clean(found.clone()), expected, "{name}");
        if peer_lives && expected == Some(false) {
            assert!(found.is_some_and(|f| f.is_cleaned(true)), "{name}");
        }
    }
}

#[test]
fn routes_are_known_by_protocol_and_device() {
    for (protocol, blackhole, device, expected) in [
        (80, true, None, Some(true)),
        (80, false, Some("eth0"), Some(true)),
        (12, false, Some("tunl0"), Some(true)),
        (12, true, None, Some(false)),
        (12, false, Some("eth0"), Some(false)),
        (3, false, Some("cali1234567890a"), Some(true)),
        (4, false, Some("flannel.1"), Some(true)),
        (2, false, Some("flannel.1"), None),
        (3, false, Some("eth0"), None),
        (80, false, Some("tunl0"), Some(true)),
        (3, false, Some("tunl0"), None),
        (4, false, Some("tunl0"), None),
        (157, false, Some("eth0"), None),
    ] {
        let one = ForeignRoute {
            cidr: "10.1.0.0/26".parse().unwrap(),
            protocol,
            blackhole,
            ifindex: None,
            gateway: None,
            metric: 0,
        };
        let found = removed_by_clean(route(&one, device));
        assert_eq!(found, expected, "{protocol} {device:?}");
    }
}

#[test]
fn shared_plugins_and_others_chains_are_no_findings() {
    for (name, expected) in [
        ("calico-ipam", true),
        ("flannel", true),
        ("portmap", false),
        ("loopback", false),
        ("fairlead-cni", false),
    ] {
        let path = Path::new("/opt/cni/bin").join(name);
        assert_eq!(binary(&path).is_some(), expected, "{name}");
    }
    for (table, name, expected) in [
        ("filter", "cali-FORWARD", true),
        ("nat", "FLANNEL-POSTRTG", true),
        ("nat", "CNI-HOSTPORT-DNAT", true),
        ("cni_hostport", "prerouting", true),
        ("cni_plugins_masquerade", "masq_checks", true),
        ("nat", "KUBE-SERVICES", false),
        ("fairlead", "postrouting", false),
    ] {
        let found = chain(&of("ip", table, name));
        assert_eq!(found.is_some(), expected, "{name}");
        assert!(
            found.is_none_or(|f| !f.is_cleaned(true)),
            "{name}: shared chains are told"
        );
    }
    let ours = r#"{"plugins":[{"type":"fairlead-cni"},{"type":"portmap"}]}"#;
    for (text, ending, expected) in [
        (ours, "conflist", true),
        (ours, "fairlead-disabled", false),
        (
            r#"{"plugins":[{"type":"fairlead-cni"}]}"#,
            "conflist",
            false,
        ),
        (
            r#"{"plugins":[{"type":"bridge"},{"type":"portmap"}]}"#,
            "conflist",
            false,
        ),
    ] {
        let path = Path::new("/etc/cni/net.d/10-x").with_extension(ending);
        assert_eq!(chains_portmap(&path, text), expected, "{text} {ending}");
    }
    assert!(is_of_portmap(&of("ip", "nat", "CNI-DN-0123456789ab")));
    assert!(!is_of_portmap(&of("ip", "nat", "KUBE-SEP-X")));
    let calico = folder(Path::new("/etc/calico"), "Calico");
    assert!(untold(&[], "filter\n").is_none());
    assert!(untold(std::slice::from_ref(&calico), "").is_none());
    assert!(untold(&[calico], "filter\n").is_some());
}

/// A chain of a table.
fn of(family: &'static str, table: &str, name: &str) -> Chain {
    Chain {
        family,
        table: table.to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn a_table_is_removed_from_the_family_that_it_is_of() {
    for (family, table, command) in [
        ("ip", "cni_hostport", "nft delete table ip cni_hostport"),
        ("ip6", "cni_hostport", "nft delete table ip6 cni_hostport"),
        (
            "inet",
            "cni_plugins_masquerade",
            "nft delete table inet cni_plugins_masquerade",
        ),
    ] {
        let found = chain(&of(family, table, "any")).unwrap();
        assert_eq!(found.removal, Removal::ByHand(command.to_owned()));
    }
}
