//! `CNI_ARGS`: `K=V;K=V`. Known keys are checked; unknown ones need `IgnoreUnknown=1`, as the
//! reference plugins have it.

use super::{CniError, capabilities::parse_address};
use crate::model::{Mac, PodRef};
use std::net::IpAddr;

/// What a runtime says of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// `K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`.
    pub pod: Option<PodRef>,
    /// `K8S_POD_INFRA_CONTAINER_ID`; the sandbox's id, the same as `CNI_CONTAINERID` in practice.
    pub infra_container_id: Option<String>,
    /// `IP`: the address asked for. A prefix length is taken and not used: pods get /32 and /128.
    pub ip: Option<IpAddr>,
    /// `MAC`: the pod end's address asked for.
    pub mac: Option<Mac>,
}

/// Longest name of a Kubernetes object.
const MAX_NAME: usize = 253;

impl CniArgs {
    /// Parses and checks. Empty text has no arguments; an empty value is as good as none.
    ///
    /// # Errors
    /// 4, naming the key.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut found = Found::default();
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .filter(|(key, value)| !key.is_empty() && !value.contains('='))
                .ok_or_else(|| fault(format!("{pair:?} is not of the form KEY=VALUE")))?;
            found.take(key, value)?;
        }
        found.finish()
    }
}

#[derive(Default)]
struct Found<'a> {
    ignore_unknown: Option<&'a str>,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    uid: Option<&'a str>,
    infra_container_id: Option<&'a str>,
    ip: Option<&'a str>,
    mac: Option<&'a str>,
    unknown: Vec<&'a str>,
}

impl<'a> Found<'a> {
    fn take(&mut self, key: &'a str, value: &'a str) -> Result<(), CniError> {
        let slot = match key {
            "IgnoreUnknown" => &mut self.ignore_unknown,
            "K8S_POD_NAMESPACE" => &mut self.namespace,
            "K8S_POD_NAME" => &mut self.name,
            "K8S_POD_UID" => &mut self.uid,
            "K8S_POD_INFRA_CONTAINER_ID" => &mut self.infra_container_id,
            "IP" => &mut self.ip,
            "MAC" => &mut self.mac,
            unknown => {
                self.unknown.push(unknown);
                return Ok(());
            }
        };
        // Multus gives what it was given, and once more what it knows; IgnoreUnknown in another form.
        let before = slot.replace(value).filter(|before| *before != value);
        if before.is_some() && key != "IgnoreUnknown" {
            return Err(fault(format!(
                "{key} is given twice, with different values"
            )));
        }
        Ok(())
    }

    fn finish(self) -> Result<CniArgs, CniError> {
        let ignore = match self.ignore_unknown.map(str::to_ascii_lowercase).as_deref() {
            Some("1" | "true") => true,
            None | Some("" | "0" | "false") => false,
            Some(other) => {
                return Err(fault(format!("IgnoreUnknown={other:?} is neither 1 nor 0")));
            }
        };
        if !self.unknown.is_empty() && !ignore {
            return Err(fault(format!("unknown keys {:?}", self.unknown))
                .with_details("add IgnoreUnknown=1 to have them ignored"));
        }
        let namespace = name("K8S_POD_NAMESPACE", self.namespace)?;
        let pod = match (namespace, name("K8S_POD_NAME", self.name)?) {
            (Some(namespace), Some(pod_name)) => {
                let uid = name("K8S_POD_UID", self.uid)?;
                Some(PodRef {
                    namespace,
                    name: pod_name,
                    uid,
                })
            }
            // Runtimes without Kubernetes may set one of them: there is no pod.
            _ => None,
        };
        let ip =
            given(self.ip).map(|text| parse_address(text).map_err(|e| fault(format!("IP={e}"))));
        let mac =
            given(self.mac).map(|text| text.parse().map_err(|e: String| fault(format!("MAC={e}"))));
        Ok(CniArgs {
            pod,
            infra_container_id: name("K8S_POD_INFRA_CONTAINER_ID", self.infra_container_id)?,
            ip: ip.transpose()?,
            mac: mac.transpose()?,
        })
    }
}

fn given(value: Option<&str>) -> Option<&str> {
    value.filter(|text| !text.is_empty())
}

/// A name of Kubernetes or of a runtime that fills its place: never a path, always printable.
fn name(key: &str, value: Option<&str>) -> Result<Option<String>, CniError> {
    let Some(text) = given(value) else {
        return Ok(None);
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = text.as_bytes()[0];
    if text.len() > MAX_NAME || !first.is_ascii_alphanumeric() || !text.bytes().all(allowed) {
        return Err(fault(format!("{key}={text:?} is no name")).with_details(format!(
            "a name begins with a letter or digit and holds at most {MAX_NAME} letters, digits, '_', '.' and '-'"
        )));
    }
    Ok(Some(text.to_owned()))
}

fn fault(msg: String) -> CniError {
    CniError::environment(format!("CNI_ARGS: {msg}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, part: &str) {
        let error = CniArgs::parse(text).unwrap_err();
        assert_eq!(error.code, 4, "{text}");
        assert!(
            error.msg.starts_with("CNI_ARGS: ") && error.msg.contains(part),
            "{}",
            error.msg
        );
    }

    #[test]
    fn what_containerd_sends() {
        let args = CniArgs::parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns-7d.x;\
             K8S_POD_INFRA_CONTAINER_ID=0f3a;K8S_POD_UID=9b1f-22",
        )
        .unwrap();
        let pod = args.pod.unwrap();
        assert_eq!(
            (pod.to_string(), pod.uid.unwrap()),
            ("kube-system/dns-7d.x".into(), "9b1f-22".into())
        );
        assert_eq!(args.infra_container_id.unwrap(), "0f3a");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(CniArgs::parse("").unwrap(), CniArgs::default());
        let empty = "IgnoreUnknown=0;K8S_POD_NAMESPACE=;K8S_POD_NAME=;IP=;MAC=";
        assert_eq!(CniArgs::parse(empty).unwrap(), CniArgs::default());
        assert_eq!(CniArgs::parse("K8S_POD_NAME=box_1").unwrap().pod, None);
    }

    #[test]
    fn requests_for_addresses() {
        for (text, expected) in [
            ("IP=100.11.1.7", "100.11.1.7"),
            ("IP=100.11.1.7/24", "100.11.1.7"),
            ("IP=fd00::7/64", "fd00::7"),
        ] {
            assert_eq!(
                CniArgs::parse(text).unwrap().ip.unwrap().to_string(),
                expected
            );
        }
        let args = CniArgs::parse("MAC=02:00:5e:10:00:01").unwrap();
        assert_eq!(args.mac.unwrap().to_string(), "02:00:5e:10:00:01");
    }

    #[test]
    fn bad_arguments_are_named() {
        refused("a", "\"a\" is not of the form");
        refused("IgnoreUnknown=1;", "\"\" is not of the form");
        refused("=1", "not of the form");
        refused("IP=1=2", "not of the form");
        refused("FOO=1;BAR=2", "unknown keys [\"FOO\", \"BAR\"]");
        refused("IgnoreUnknown=0;FOO=1", "unknown keys");
        refused("IgnoreUnknown=maybe", "IgnoreUnknown");
        refused("IP=100.11.1.7;IP=100.11.1.8", "IP is given twice");
        assert!(CniArgs::parse("IP=100.11.1.7;IP=100.11.1.7").is_ok());
        assert!(CniArgs::parse("IgnoreUnknown=1;FOO=1;IgnoreUnknown=true").is_ok());
        refused("IP=100.11.1", "IP=");
        refused("IP=100.11.1.7/33", "IP=");
        refused("MAC=ff:ff:ff:ff:ff:ff", "MAC=");
        refused("K8S_POD_NAME=../x", "K8S_POD_NAME");
        refused("K8S_POD_NAMESPACE=a b", "K8S_POD_NAMESPACE");
        refused(&format!("K8S_POD_NAME={}", "a".repeat(254)), "K8S_POD_NAME");
        assert!(CniArgs::parse("FOO=1;IgnoreUnknown=true").is_ok());
    }
}
