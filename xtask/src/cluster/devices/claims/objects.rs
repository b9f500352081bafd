//! Classes, claims and the pods that name them.

use super::super::{
    SPACE,
    consumer::{self, stays},
    install::{CLAIMED, SHARED},
};
use serde_json::{Value, json};

/// The class of the devices that are each for one claim.
pub(super) const CLASS: &str = "fairlead-test-claimed";
/// The class of the one that several may have.
pub(super) const SHARES: &str = "fairlead-test-shared";

/// Both; pods may ask for the first one by limits, too.
pub(super) fn classes() -> [Value; 2] {
    [(CLASS, CLAIMED, true), (SHARES, SHARED, false)].map(|(name, resource, by_limits)| {
        let is_ours = format!(
            "device.driver == \"devices.fairlead.dev\" && device.attributes[\"devices.fairlead.dev\"].resource == \"{resource}\""
        );
        let mut class = json!({ "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
            "metadata": { "name": name },
            "spec": { "selectors": [{ "cel": { "expression": is_ours } }] } });
        if by_limits {
            class["spec"]["extendedResourceName"] = resource.into();
        }
        class
    })
}

/// A request for one device of a class.
pub(super) fn one(name: &str, class: &str) -> Value {
    json!({ "name": name, "exactly": { "deviceClassName": class } })
}

/// A request for the device with that file.
pub(super) fn with_file(name: &str, path: &str) -> Value {
    let expression = format!("device.attributes[\"devices.fairlead.dev\"].path == \"{path}\"");
    let mut request = one(name, CLASS);
    request["exactly"]["selectors"] = json!([{ "cel": { "expression": expression } }]);
    request
}

/// A request for so many shares of the one that is shared.
pub(super) fn shares(name: &str, count: usize) -> Value {
    let mut request = one(name, SHARES);
    request["exactly"]["capacity"] = json!({ "requests": { "shares": count.to_string() } });
    request
}

/// A claim by itself.
pub(super) fn claim(name: &str, requests: &[Value]) -> Value {
    json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": { "name": name, "namespace": SPACE },
        "spec": { "devices": { "requests": requests } } })
}

/// What claims are made by, one for each pod.
pub(super) fn template(name: &str, requests: &[Value]) -> Value {
    json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": { "name": name, "namespace": SPACE },
        "spec": { "spec": { "devices": { "requests": requests } } } })
}

/// Where a pod's claim comes from.
#[derive(Clone, Copy)]
pub(super) enum From<'a> {
    Claim(&'a str),
    Template(&'a str),
}

/// A pod that stays, with its first device open; what it has of a claim it calls `own`.
pub(super) fn pod(name: &str, from: From<'_>) -> Value {
    let mut pod = stays(name, &[]).object();
    pod["spec"]["resourceClaims"] = json!([source("own", from)]);
    pod["spec"]["containers"][0]["resources"] = json!({ "claims": [{ "name": "own" }] });
    pod
}

/// A container that stays, of a pod with a claim that it calls `own`; of all requests, or of one.
pub(super) fn container(pod: &str, name: &str, request: Option<&str>) -> Value {
    let mut container = stays(&format!("{pod}-{name}"), &[]).container(name);
    let mut claim = json!({ "name": "own" });
    if let Some(request) = request {
        claim["request"] = request.into();
    }
    container["resources"] = json!({ "claims": [claim] });
    container
}

fn source(name: &str, from: From<'_>) -> Value {
    match from {
        From::Claim(of) => json!({ "name": name, "resourceClaimName": of }),
        From::Template(of) => json!({ "name": name, "resourceClaimTemplateName": of }),
    }
}

/// A pod that ends, as soon as it was told of its device.
pub(super) fn ends(name: &str, from: From<'_>) -> Value {
    let mut pod = pod(name, from);
    let done = consumer::Consumer {
        script: "echo told $DEVICE".to_owned(),
        ..stays(name, &[])
    };
    pod["spec"]["containers"][0]["command"] = done.container("consumer")["command"].take();
    pod["spec"]["restartPolicy"] = "Never".into();
    pod
}
