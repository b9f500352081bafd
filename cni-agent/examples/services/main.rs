//! Services on an API server, for the bench: reads commands line by line, and answers each with `done` or
//! what is wrong. The kubeconfig is `KUBECONFIG`'s.
//!
//! `node FILE` creates the Node of that file; `create FROM TO ADDRESS PORT` Services with one endpoint each;
//! `point NUMBER ADDRESS PORT` gives one Service another endpoint.
#![expect(clippy::unwrap_used, reason = "a tool of the lab may panic")]

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{error::Error, io::Write as _};

/// Where the Services are.
const SPACE: &str = "fairlead-bench";
/// Requests under way at once.
const AT_ONCE: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::try_default().await?;
    // One command after the other: this thread has nothing else to do.
    for line in std::io::stdin().lines() {
        let line = line?;
        match carry_out(&client, &line).await {
            Ok(()) => println!("done"),
            Err(error) => println!("{error}"),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn carry_out(client: &Client, line: &str) -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["node", file] => {
            let node: Node = serde_json::from_slice(&std::fs::read(file)?)?;
            let api: Api<Node> = Api::all(client.clone());
            made(api.create(&PostParams::default(), &node).await)?;
        }
        ["create", from, to, address, port] => {
            let (from, to, port) = (from.parse()?, to.parse()?, port.parse()?);
            create(client, from, to, address, port).await?;
        }
        ["point", number, address, port] => {
            let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), SPACE);
            let number = number.parse()?;
            let changed = Patch::Merge(slice(number, address, port.parse()?));
            let parameters = PatchParams::default();
            slices.patch(&name(number), &parameters, &changed).await?;
        }
        _ => return Err(format!("{line:?} is no command").into()),
    }
    Ok(())
}

async fn create(
    client: &Client,
    from: u32,
    to: u32,
    address: &str,
    port: u16,
) -> Result<(), kube::Error> {
    let spaces: Api<Namespace> = Api::all(client.clone());
    let space = json!({ "metadata": { "name": SPACE } });
    made(spaces.create(&PostParams::default(), &object(space)).await)?;
    let services: Api<Service> = Api::namespaced(client.clone(), SPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), SPACE);
    let one = |number: u32| {
        let (services, slices) = (services.clone(), slices.clone());
        async move {
            let parameters = PostParams::default();
            let slice = object(slice(number, address, port));
            made(slices.create(&parameters, &slice).await)?;
            made(
                services
                    .create(&parameters, &object(service(number, port)))
                    .await,
            )
        }
    };
    stream::iter((from..to).map(one))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// An object that is there is fine.
fn made<T>(outcome: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(|_| ()),
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

/// Its ClusterIP is known beforehand: 250 to a byte.
fn service(number: u32, port: u16) -> Value {
    json!({
        "metadata": { "name": name(number) },
        "spec": {
            "clusterIP": format!("10.96.{}.{}", 16 + number / 250, number % 250 + 1),
            "ports": [{ "name": "load", "port": port, "protocol": "TCP" }],
        },
    })
}

fn slice(number: u32, address: &str, port: u16) -> Value {
    json!({
        "metadata": { "name": name(number), "labels": { "kubernetes.io/service-name": name(number) } },
        "addressType": "IPv4",
        "ports": [{ "name": "load", "port": port, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
    })
}
