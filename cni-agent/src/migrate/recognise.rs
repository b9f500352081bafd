//! Names and configuration → findings. No effects. What may be somebody else's is told and left.

use super::finding::{Finding, Kind, Removal};
use crate::{
    install::CONFLIST,
    netlink::foreign::{Chain, ForeignRoute, Link},
};
use serde_json::Value;
use std::path::Path;

const CALICO: &str = "Calico";
const FLANNEL: &str = "Flannel";
const REFERENCE: &str = "reference plugins";
/// Protocol number of Calico's own routes, and of BIRD's, which Calico runs for BGP.
const FELIX: u8 = 80;
const BIRD: u8 = 12;
/// What a runtime reads in the folder of configuration.
const READ_BY_RUNTIMES: [&str; 3] = ["conf", "conflist", "json"];
/// Appended to a configuration that is set aside.
pub const ASIDE: &str = "fairlead-disabled";

fn finding(kind: Kind, name: &str, made_by: &'static str, removal: Removal) -> Finding {
    let (does, if_left) = match kind {
        Kind::Config => (
            "tells the runtime to have new pods wired by this network",
            "the runtime takes the first file by name: new pods may get the old network",
        ),
        Kind::Binary => (
            "the plugin that the configuration names",
            "harmless without a configuration; an old one would work again by mistake",
        ),
        Kind::Link => (
            "carries packets of the old network",
            "its addresses and routes may take packets that are for pods of Fairlead",
        ),
        Kind::Route => (
            "the way to pods of the old network",
            "a podCIDR that it covers is not reached; Fairlead reports it as a conflict",
        ),
        Kind::Firewall => (
            "filters and translates packets of the old network",
            "packets of pods may be dropped or masqueraded by rules that nobody maintains",
        ),
        Kind::Ipam => (
            "remembers which addresses the old network gave out",
            "harmless; addresses would count as used if the old network came back",
        ),
        Kind::Folder => (
            "state and configuration of the old network's agent",
            "harmless; may hold credentials of the old network",
        ),
    };
    Finding {
        kind,
        name: name.to_owned(),
        made_by,
        does,
        if_left,
        removal,
    }
}

/// A file of the folder of CNI configuration. Ours never is a finding, nor is one that runtimes don't read.
pub fn config(path: &Path, text: &str) -> Option<Finding> {
    let name = path.file_name()?.to_str()?;
    let aside = || Removal::Aside {
        from: path.to_owned(),
        to: path.with_file_name(format!("{name}.{ASIDE}")),
    };
    if name == "calico-kubeconfig" {
        let mut found = finding(Kind::Folder, name, CALICO, Removal::Delete(path.to_owned()));
        found.does = "credentials of Calico's plugin for the API server";
        return Some(found);
    }
    let extension = path.extension()?.to_str()?;
    if !READ_BY_RUNTIMES.contains(&extension) {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let types = types(&value);
    let has = |wanted: &[&str]| types.iter().any(|t| wanted.contains(t));
    if has(&["fairlead-cni"]) {
        return None;
    }
    if has(&["calico", "calico-ipam"]) {
        return Some(finding(Kind::Config, name, CALICO, aside()));
    }
    if has(&["multus"]) && others_network(&value) {
        let command = format!("have it call {CONFLIST}, in {}", path.display());
        let mut found = finding(Kind::Config, name, "Multus", Removal::ByHand(command));
        found.does = "has new pods wired by the old network, which it calls by name";
        return Some(found);
    }
    if has(&["flannel"]) {
        return Some(finding(Kind::Config, name, FLANNEL, aside()));
    }
    if has(&["bridge", "ptp", "macvlan", "ipvlan", "host-local"]) {
        let to = format!("{}.{ASIDE}", path.display());
        let by_hand = format!(
            "if it was the pods' network and not one of podman or Multus: mv {} {to}",
            path.display()
        );
        return Some(finding(
            Kind::Config,
            name,
            REFERENCE,
            Removal::ByHand(by_hand),
        ));
    }
    None
}

/// Whether Multus is told to call a configuration of Calico or Flannel.
fn others_network(value: &Value) -> bool {
    let first = value["plugins"].get(0).unwrap_or(value);
    let network = first["clusterNetwork"].as_str().unwrap_or_default();
    ["calico", "flannel", "k8s-pod-network"]
        .iter()
        .any(|name| network.contains(name))
}

/// The types of all plugins, inside chains and as IPAM or delegate, too.
fn types(value: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    let own = [value, &value["ipam"], &value["delegate"]];
    found.extend(own.iter().filter_map(|v| v["type"].as_str()));
    for key in ["plugins", "delegates"] {
        let inner = value[key].as_array().into_iter().flatten();
        found.extend(inner.flat_map(types));
    }
    found
}

/// A file of the folder of plugins. `portmap`, `loopback`, `bandwidth` and the like are shared: never.
pub fn binary(path: &Path) -> Option<Finding> {
    let name = path.file_name()?.to_str()?;
    let made_by = match name {
        "calico" | "calico-ipam" => CALICO,
        "flannel" => FLANNEL,
        _ => return None,
    };
    Some(finding(
        Kind::Binary,
        name,
        made_by,
        Removal::Delete(path.to_owned()),
    ))
}

/// A link.
pub fn link(link: &Link) -> Option<Finding> {
    let name = link.name.as_str();
    let removal = || Removal::Link {
        ifindex: link.ifindex,
        name: name.to_owned(),
    };
    let found = |made_by, removal| Some(finding(Kind::Link, name, made_by, removal));
    if is_workload(name) && link.peer_lives {
        let (ifindex, name) = (link.ifindex, name.to_owned());
        return found(CALICO, Removal::InUse { ifindex, name });
    }
    match name {
        "vxlan.calico" | "vxlan-v6.calico" | "wireguard.cali" | "wg-v6.cali" => {
            found(CALICO, removal())
        }
        _ if is_workload(name) => found(CALICO, removal()),
        "flannel.1" | "flannel-v6.1" | "flannel-wg" => found(FLANNEL, removal()),
        "cni0" => found(
            REFERENCE,
            Removal::ByHand(
                "once no pod is on it (`ip link show master cni0`): ip link delete cni0".into(),
            ),
        ),
        // The kernel makes it with the module and nobody can delete it; down it does nothing.
        "tunl0" if link.up => found(
            CALICO,
            Removal::ByHand(
                "ip address flush dev tunl0; ip link set tunl0 down; modprobe -r ipip".into(),
            ),
        ),
        _ => None,
    }
}

/// `cali` and eleven figures.
fn is_workload(name: &str) -> bool {
    name.strip_prefix("cali")
        .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A route; `device` is the name of its link.
pub fn route(route: &ForeignRoute, device: Option<&str>) -> Option<Finding> {
    let device = device.unwrap_or_default();
    let of_calico = is_workload(device) || matches!(device, "vxlan.calico" | "tunl0");
    let (made_by, removal) = match route.protocol {
        FELIX => (CALICO, Removal::Route(route.clone())),
        BIRD if of_calico => (CALICO, Removal::Route(route.clone())),
        // The node may have a BIRD of its own.
        BIRD => {
            let kind = if route.blackhole { "blackhole " } else { "" };
            let command = format!(
                "if no BIRD of your own made it: ip route delete {kind}{} proto bird",
                route.cidr
            );
            (CALICO, Removal::ByHand(command))
        }
        // Those of the kernel go with the link.
        2 => return None,
        // Anybody may have routes by tunl0: it is the kernel's.
        _ if device == "tunl0" => return None,
        _ if of_calico => (CALICO, Removal::Route(route.clone())),
        _ if device == "flannel.1" => (FLANNEL, Removal::Route(route.clone())),
        _ => return None,
    };
    let name = route.cidr.to_string();
    Some(finding(Kind::Route, &name, made_by, removal))
}

/// A chain of a table of nftables. The jumps to it stand in chains that kube-proxy and others share, so
/// the tools that keep those whole remove it.
pub fn chain(chain: &Chain) -> Option<Finding> {
    let (table, name) = (chain.table.as_str(), chain.name.as_str());
    // Tables of their own, which the reference plugins make where nftables is their backend: portmap one of
    // each family, masquerading one of both.
    if let "cni_hostport" | "cni_plugins_masquerade" = table {
        let command = format!("nft delete table {} {table}", chain.family);
        return Some(finding(
            Kind::Firewall,
            table,
            REFERENCE,
            Removal::ByHand(command),
        ));
    }
    let (made_by, prefix) = if name.starts_with("cali-") || table == "calico" {
        (CALICO, "cali-")
    } else if name.starts_with("FLANNEL-") {
        (FLANNEL, "FLANNEL-")
    } else if name.starts_with("CNI-") {
        (REFERENCE, "CNI-")
    } else {
        return None;
    };
    let command = if table == "calico" {
        "nft delete table ip calico; nft delete table ip6 calico".to_owned()
    } else {
        // The comment of Calico's own rules begins alike, without the stroke: `cali:`.
        let pattern = if made_by == CALICO {
            "cali[-:]"
        } else {
            prefix
        };
        format!(
            "for t in iptables ip6tables; do $t-nft-save | grep -v '{pattern}' | $t-nft-restore; done"
        )
    };
    let name = format!("{table} {name}");
    Some(finding(
        Kind::Firewall,
        &name,
        made_by,
        Removal::ByHand(command),
    ))
}

/// Whether a chain is one of the plugin `portmap`.
pub fn is_of_portmap(chain: &Chain) -> bool {
    chain.table == "cni_hostport"
        || ["CNI-HOSTPORT-", "CNI-DN-", "CNI-SN-"]
            .iter()
            .any(|prefix| chain.name.starts_with(prefix))
}

/// Whether a configuration is ours and chains `portmap`, whose rules then are not left over.
pub fn chains_portmap(path: &Path, text: &str) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    if !extension.is_some_and(|e| READ_BY_RUNTIMES.contains(&e)) {
        return false;
    }
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let types = types(&value);
    ["fairlead-cni", "portmap"]
        .iter()
        .all(|wanted| types.contains(wanted))
}

/// What netlink doesn't tell: legacy iptables, if the kernel has tables of it, and ipsets. Told only where
/// something else of Calico or Flannel was found.
pub fn untold(others: &[Finding], legacy_tables: &str) -> Option<Finding> {
    let foreign = others.iter().any(|f| f.made_by != REFERENCE);
    if !foreign || legacy_tables.trim().is_empty() {
        return None;
    }
    let command = "iptables-legacy-save | grep -v 'cali[-:]' | grep -v FLANNEL- | iptables-legacy-restore; \
                   then `ipset list -n | grep ^cali` and `ipset destroy` for each";
    let mut found = finding(
        Kind::Firewall,
        "legacy iptables, ipsets",
        "Calico or Flannel",
        Removal::ByHand(command.into()),
    );
    found.does = "may hold chains cali-*, FLANNEL-* and sets cali*: only these tools can tell";
    Some(found)
}

/// A folder of host-local's records.
pub fn records(path: &Path) -> Option<Finding> {
    let name = path.file_name()?.to_str()?;
    let (made_by, removal) = match name {
        "cbr0" => (FLANNEL, Removal::Delete(path.to_owned())),
        "k8s-pod-network" => (CALICO, Removal::Delete(path.to_owned())),
        _ => {
            let command = format!(
                "if no network of that name is left: rm -r {}",
                path.display()
            );
            (REFERENCE, Removal::ByHand(command))
        }
    };
    Some(finding(Kind::Ipam, name, made_by, removal))
}

/// Folders of the agents, from the root of the file system.
pub const FOLDERS: [(&str, &str); 6] = [
    ("var/lib/calico", CALICO),
    ("etc/calico", CALICO),
    ("run/calico", CALICO),
    ("var/run/calico", CALICO),
    ("var/log/calico", CALICO),
    ("run/flannel", FLANNEL),
];

/// One of [`FOLDERS`] that is there.
pub fn folder(path: &Path, made_by: &'static str) -> Finding {
    let name = path.display().to_string();
    finding(Kind::Folder, &name, made_by, Removal::Delete(path.into()))
}
