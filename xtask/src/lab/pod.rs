//! A pod: a network namespace that something connected to its node.

use super::{Action, Call, NetNs, Node, Plugin};
use anyhow::{Context, Result};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The interface inside every pod.
const IFNAME: &str = "eth0";

/// One pod.
pub(crate) struct Pod {
    /// Unique in its lab: `n1p2`.
    pub(crate) name: String,
    /// Its network namespace.
    pub(crate) ns: NetNs,
    /// Its addresses, as the ADD answered.
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// The CNI result, `Null` for pods wired without a plugin.
    pub(crate) result: Value,
}

impl Pod {
    /// Makes a namespace and has `plugin` connect it, as a runtime on `node` would.
    ///
    /// # Errors
    /// Those of the namespace and the plugin, and a result without an address pair.
    pub(crate) fn add(node: &Node, plugin: &Plugin, name: &str) -> Result<Self> {
        let ns = NetNs::new(node.ns.session(), &format!("{}-{name}", node.lab))?;
        let call = call(&ns, name);
        let result = node
            .ns
            .run(|| plugin.call(Action::Add, &call, None))
            .with_context(|| format!("adding pod {name} on {}", node.name))?;
        let (v4, v6) = addresses(&result)?;
        Ok(Self {
            name: name.to_owned(),
            ns,
            v4,
            v6,
            result,
        })
    }

    /// Address of the family wanted.
    pub(crate) fn addr(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// What a runtime calls this pod; readable, since people look at it.
    pub(crate) fn container_id(&self) -> &str {
        self.ns.name()
    }

    /// A later call about this pod: CHECK, or DEL, after which the namespace is still there.
    ///
    /// # Errors
    /// Those of the plugin.
    pub(crate) fn call(&self, node: &Node, plugin: &Plugin, action: Action) -> Result<Value> {
        let call = call(&self.ns, &self.name);
        node.ns
            .run(|| plugin.call(action, &call, Some(&self.result)))
    }

    /// DEL, then the namespace goes, in the order of a runtime.
    ///
    /// # Errors
    /// Those of the plugin.
    pub(crate) fn delete(self, node: &Node, plugin: &Plugin) -> Result<()> {
        self.call(node, plugin, Action::Del).map(|_| ())
    }
}

fn call<'a>(ns: &'a NetNs, name: &str) -> Call<'a> {
    Call {
        container_id: ns.name(),
        netns: ns.path(),
        ifname: IFNAME,
        args: format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={}",
            ns.name()
        ),
    }
}

/// The first address of each family in a CNI result (of versions 0.3.0 and later).
fn addresses(result: &Value) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let mut pair = (None, None);
    for ip in result
        .get("ips")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = ip
            .get("address")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let address = text.split('/').next().unwrap_or_default();
        match address
            .parse()
            .with_context(|| format!("the result's address {text:?}"))?
        {
            IpAddr::V4(address) => pair.0 = pair.0.or(Some(address)),
            IpAddr::V6(address) => pair.1 = pair.1.or(Some(address)),
        }
    }
    pair.0
        .zip(pair.1)
        .with_context(|| format!("the result lacks an IPv4 or IPv6 address: {result}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_result_gives_the_first_address_of_each_family() {
        let result = json!({"ips": [
            {"address": "100.11.1.5/32"}, {"address": "fd00::5/128"}, {"address": "100.11.1.6/32"},
        ]});
        let (v4, v6) = addresses(&result).unwrap();
        assert_eq!(
            (v4.to_string(), v6.to_string()),
            ("100.11.1.5".into(), "fd00::5".into())
        );
        assert!(addresses(&json!({"ips": [{"address": "100.11.1.5/32"}]})).is_err());
        assert!(addresses(&json!({"ips": [{"address": "nonsense"}]})).is_err());
    }
}
