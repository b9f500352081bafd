//! The rules, the same for everybody who judges.

use serde_json::{Value, json};
use std::{fmt::Write, net::Ipv4Addr};

/// Rules of one NetworkPolicy, as people have them.
const IN_ONE: u32 = 100;
/// The first of those who are let in besides the client.
const OTHERS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Who is let in besides the client, each by one port: nobody of them is there.
fn others(rules: u32) -> impl Iterator<Item = (Ipv4Addr, u16)> {
    (1..rules).map(|number| {
        let address = u32::from(OTHERS) + number;
        let port = u16::try_from(1024 + number % 60_000).unwrap_or(u16::MAX);
        (address.into(), port)
    })
}

/// NetworkPolicies of the server; the last rule is the client's.
pub(super) fn policies(client: Ipv4Addr, rules: u32) -> Vec<Value> {
    let block = |address: Ipv4Addr| json!([{ "ipBlock": { "cidr": format!("{address}/32") } }]);
    let mut all: Vec<Value> = others(rules)
        .map(|(address, port)| json!({ "from": block(address), "ports": [{ "port": port }] }))
        .collect();
    all.push(json!({ "from": block(client) }));
    all.chunks(IN_ONE as usize)
        .enumerate()
        .map(|(number, rules)| policy(&format!("p{number}"), rules))
        .collect()
}

/// A policy of the server; without rules it lets nobody in.
pub(super) fn policy(name: &str, rules: &[Value]) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "podSelector": { "matchLabels": { "app": "server" } },
            "policyTypes": ["Ingress"], "ingress": rules } })
}

/// A chain of the rules for `nft -f`, or with a set in place of all but the client's.
pub(super) fn nftables(client: Ipv4Addr, rules: u32, set: bool) -> String {
    let mut text = "table ip bench {\n".to_owned();
    if set {
        let elements: Vec<_> = others(rules)
            .map(|(address, port)| format!("{address} . {port}"))
            .collect();
        let _infallible = writeln!(
            text,
            "set others {{\ntype ipv4_addr . inet_service\nelements = {{ {} }}\n}}",
            elements.join(", ")
        );
    }
    text += "chain forward {\ntype filter hook forward priority 0; policy drop;\n\
             ct state established,related accept\n";
    if set {
        text += "ip saddr . tcp dport @others accept\n";
    } else {
        for (address, port) in others(rules) {
            let _infallible = writeln!(text, "ip saddr {address} tcp dport {port} accept");
        }
    }
    let _infallible = writeln!(text, "ip saddr {client} accept\n}}\n}}");
    text
}

/// The same for `iptables-restore`.
pub(super) fn iptables(client: Ipv4Addr, rules: u32) -> String {
    let mut text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                    -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
        .to_owned();
    for (address, port) in others(rules) {
        let _infallible = writeln!(
            text,
            "-A FORWARD -s {address}/32 -p tcp -m tcp --dport {port} -j ACCEPT"
        );
    }
    let _infallible = writeln!(text, "-A FORWARD -s {client}/32 -j ACCEPT\nCOMMIT");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_the_same_rules_and_the_client_last() {
        let client = Ipv4Addr::new(10, 0, 0, 2);
        for rules in [1, 2_500] {
            let all = policies(client, rules);
            let of = |policy: &Value| policy["spec"]["ingress"].as_array().map_or(0, Vec::len);
            let count: usize = all.iter().map(of).sum();
            let lines = |text: &str| text.matches("accept\n").count() - 1;
            assert_eq!(count, rules as usize);
            assert_eq!(lines(&nftables(client, rules, false)), rules as usize);
            let set = nftables(client, rules, true);
            assert_eq!(set.matches(" . ").count() - 2, rules as usize - 1);
            assert_eq!(
                iptables(client, rules).matches("-j ACCEPT").count() - 1,
                rules as usize
            );
            let last = all
                .last()
                .and_then(|p| p["spec"]["ingress"].as_array()?.last());
            assert_eq!(
                last.map(|rule| &rule["from"][0]["ipBlock"]["cidr"]),
                Some(&json!("10.0.0.2/32"))
            );
        }
    }
}
