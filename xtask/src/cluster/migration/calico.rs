//! From Calico, whose own programs are not here: its leftovers are put on the nodes by hand. One node is cleaned
//! by what the page tells to do by hand, the other one by starting it again.

use super::{
    super::{
        members,
        place::Cluster,
        plan::{self, Cni, Plan},
        up,
    },
    node::{Finding, migrate, names, shell},
};
use anyhow::{Context, Result, ensure};

/// What a node with Calico has, as far as it can be had without Calico: docs/migrate-from-calico.md, and what
/// `fairlead migrate` knows. Without iptables on the machine, its chains on nftables are made by nft. `$ADDRESS`:
/// the other node's.
const LEFTOVERS: &str = r#"
net=/etc/cni/net.d
cat > $net/10-calico.conflist <<'END'
{ "name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [
  { "type": "calico", "datastore_type": "kubernetes", "ipam": { "type": "calico-ipam" },
    "kubernetes": { "kubeconfig": "/etc/cni/net.d/calico-kubeconfig" } },
  { "type": "bandwidth", "capabilities": { "bandwidth": true } },
  { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } } ] }
END
echo token > $net/calico-kubeconfig
for name in calico calico-ipam; do cp /opt/cni/bin/loopback /opt/cni/bin/$name; done
mkdir -p /var/lib/cni/networks/k8s-pod-network /var/lib/calico /var/log/calico/cni /etc/calico /run/calico/cgroup
touch /var/lib/cni/networks/k8s-pod-network/10.244.7.5 /var/lib/calico/nodename /var/log/calico/cni/cni.log
mount -t tmpfs calico /run/calico/cgroup
ip link add vxlan.calico type vxlan id 4096 dstport 4789 dev eth0
ip address add 10.244.7.0/32 dev vxlan.calico
ip link set vxlan.calico up
# One pod runs on, the other one's link was left by its namespace.
ip netns add pod
ip link add cali0123456789a type veth peer name eth0 netns pod
ip link add cali0123456789b type veth peer name left
for link in cali0123456789a cali0123456789b; do
    ip link set $link up
    echo 1 > /proc/sys/net/ipv4/conf/$link/proxy_arp
done
ip route add 10.244.7.5/32 dev cali0123456789a proto 80
ip route add 10.244.7.6/32 dev cali0123456789b
ip route add blackhole 10.244.7.0/26 proto 80
ip route add blackhole 10.244.8.0/26 proto bird
ip route add 10.244.9.0/26 via $ADDRESS proto bird
for table in filter nat; do
    nft add table ip $table
    nft add chain ip $table cali-FORWARD
done
nft "add chain ip filter FORWARD { type filter hook forward priority 0; }"
nft 'add rule ip filter FORWARD jump cali-FORWARD comment "cali:wUHhoiAYhphO9Mso"'
nft 'add rule ip filter cali-FORWARD drop'
"#;
/// What `check` has to name.
const NAMES: [&str; 19] = [
    "10-calico.conflist",
    "calico-kubeconfig",
    "calico",
    "calico-ipam",
    "vxlan.calico",
    "cali0123456789a",
    "cali0123456789b",
    "10.244.7.5/32",
    "10.244.7.6/32",
    "10.244.7.0/26",
    "10.244.8.0/26",
    "10.244.9.0/26",
    "filter cali-FORWARD",
    "nat cali-FORWARD",
    "k8s-pod-network",
    "/var/lib/calico",
    "/run/calico",
    "/var/log/calico",
    "/etc/calico",
];
/// Chains by nft, as iptables-restore does it where there is iptables.
const CHAINS: &str = r#"
nft -a list chain ip filter FORWARD | sed -n 's/.*cali:.* # handle //p' | while read -r handle; do
    nft delete rule ip filter FORWARD handle "$handle"
done
for table in filter nat; do
    nft flush chain ip $table cali-FORWARD
    nft delete chain ip $table cali-FORWARD
done
"#;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let mut plan = Plan {
        nodes: plan::first(2),
        cni: Cni::None,
        kube_proxy: true,
        dns: false,
        ipv6: false,
    };
    let (archive, manifest) = up::image_of_fairlead()?;
    up(cluster, &plan)?;
    let (first, second) = (plan::Member::Node(1), plan::Member::Node(2));
    for (node, other) in [(first, second), (second, first)] {
        let (node, address) = (node.name(), other.v4());
        shell(cluster, &node, &format!("ADDRESS={address}\n{LEFTOVERS}"))?;
        let found = migrate(cluster, &node, &["check"])?;
        names(&found, &NAMES)?;
        println!(
            "{node}: check names all {} leftovers: {} findings",
            NAMES.len(),
            found.len()
        );
        let left = migrate(cluster, &node, &["clean", "--yes"])?;
        println!("{node}: clean leaves {} findings", left.len());
        match node.as_str() {
            "n1" => by_hand(cluster, &node, &left)?,
            _ => {
                members::restart(cluster, &node)?;
                let left = migrate(cluster, &node, &["clean", "--yes"])?;
                println!("{node}: is started again");
                ensure!(left.is_empty(), "{node} still has {left:#?}");
            }
        }
        let left = migrate(cluster, &node, &["check"])?;
        ensure!(left.is_empty(), "{node} still has {left:#?}");
        println!("{node}: check exits with 0");
    }
    up::fairlead(cluster, &plan, &archive, &manifest)?;
    cluster.ask(&[
        "wait",
        "--for=condition=Ready",
        "node",
        "--all",
        "--timeout=120s",
    ])?;
    println!("Fairlead is applied and the nodes are ready");
    plan.cni = Cni::Fairlead;
    cluster.set_up(&plan)
}

/// What is told to do by hand.
fn by_hand(cluster: &Cluster, node: &str, left: &[Finding]) -> Result<()> {
    for finding in left {
        // The page: such a link is a running pod's. Here it ends.
        if finding.removal.starts_with("a running pod uses ") {
            println!("{node}: by hand: the pod of {} ends", finding.name);
            shell(cluster, node, "ip netns delete pod")?;
            continue;
        }
        // Told with iptables, which isn't there.
        if finding.kind == "firewall" {
            continue;
        }
        let command = finding.by_hand();
        let command = command.with_context(|| format!("clean left {finding:?}"))?;
        println!("{node}: by hand: {command}");
        shell(cluster, node, command)?;
    }
    println!("{node}: by hand: chains and the rule that leads to them, by nft");
    shell(cluster, node, CHAINS)?;
    let left = migrate(cluster, node, &["clean", "--yes"])?;
    ensure!(left.is_empty(), "{node} still has {left:#?}");
    Ok(())
}
