//! Objects of a large cluster on an API server, for `cargo xtask cluster populate`: Nodes, Pods and Services
//! of the size that they have in life, which nobody runs. The kubeconfig is `KUBECONFIG`'s.
#![expect(clippy::unwrap_used, reason = "a tool of the lab may panic")]

mod objects;

use clap::{Parser, Subcommand};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use objects::{SPACE, node, pod, pod_name, pod_status, service, slice, slice_name};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{future::Future, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

/// Requests under way at once.
const AT_ONCE: usize = 64;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    size: Size,
}

/// How large the cluster is.
#[derive(clap::Args, Clone, Copy)]
struct Size {
    /// Number of Nodes.
    #[arg(long, global = true, default_value_t = 5_000)]
    nodes: u32,
    /// Number of Pods, spread over them.
    #[arg(long, global = true, default_value_t = 100_000)]
    pods: u32,
    /// Number of Services, each of an equal share of the Pods.
    #[arg(long, global = true, default_value_t = 1_000)]
    services: u32,
}

#[derive(Subcommand)]
enum What {
    /// Create the Nodes.
    Nodes,
    /// Create the Pods and report them as running.
    Pods,
    /// Create Services with EndpointSlices.
    Services,
    /// Replace a tenth of the Pods within a minute, each with its endpoint.
    Churn,
}

#[tokio::main]
async fn main() -> Result<(), kube::Error> {
    let cli = Cli::parse();
    let client = Client::try_default().await?;
    let begin = Instant::now();
    let done = match cli.what {
        What::Nodes => nodes(client, cli.size).await,
        What::Pods => pods(client, cli.size).await,
        What::Services => services(client, cli.size).await,
        What::Churn => churn(client, cli.size).await,
    }?;
    println!("{done} in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

async fn all<F>(count: u32, make: impl Fn(u32) -> F) -> Result<(), kube::Error>
where
    F: Future<Output = Result<(), kube::Error>>,
{
    stream::iter((0..count).map(make))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// An object that is there is fine: a run that was stopped goes on.
fn made<T>(outcome: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(|_| ()),
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn nodes(client: Client, size: Size) -> Result<String, kube::Error> {
    let api: Api<Node> = Api::all(client);
    all(size.nodes, |number| {
        let api = api.clone();
        async move {
            made(
                api.create(&PostParams::default(), &object(node(number)))
                    .await,
            )
        }
    })
    .await?;
    Ok(format!("{} Nodes", size.nodes))
}

async fn space(client: &Client) -> Result<(), kube::Error> {
    let spaces: Api<Namespace> = Api::all(client.clone());
    let space = json!({ "metadata": { "name": SPACE } });
    made(spaces.create(&PostParams::default(), &object(space)).await)?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SPACE);
    let account = json!({ "metadata": { "name": "default" } });
    made(
        accounts
            .create(&PostParams::default(), &object(account))
            .await,
    )
}

async fn pods(client: Client, size: Size) -> Result<String, kube::Error> {
    space(&client).await?;
    let api: Api<Pod> = Api::namespaced(client, SPACE);
    all(size.pods, |number| run_pod(api.clone(), number, size.nodes)).await?;
    Ok(format!("{} Pods", size.pods))
}

/// Creates a Pod that runs.
async fn run_pod(api: Api<Pod>, number: u32, nodes: u32) -> Result<(), kube::Error> {
    let name = pod_name(number);
    made(
        api.create(&PostParams::default(), &object(pod(number, nodes)))
            .await,
    )?;
    let status = Patch::Merge(json!({ "status": pod_status(number, nodes) }));
    api.patch_status(&name, &PatchParams::default(), &status)
        .await?;
    Ok(())
}

async fn services(client: Client, size: Size) -> Result<String, kube::Error> {
    space(&client).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), SPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client, SPACE);
    all(size.services, |number| {
        let (services, slices) = (services.clone(), slices.clone());
        async move {
            let parameters = PostParams::default();
            made(services.create(&parameters, &object(service(number))).await)?;
            made(
                slices
                    .create(&parameters, &object(slice(number, size, 0)))
                    .await,
            )
        }
    })
    .await?;
    Ok(format!("{} Services", size.services))
}

async fn churn(client: Client, size: Size) -> Result<String, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client, SPACE);
    let count = size.pods / 10;
    let mut pace = interval(Duration::from_secs(60) / count.max(1));
    let mut under_way = JoinSet::new();
    for number in 0..count {
        pace.tick().await;
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await.unwrap().unwrap()?;
        }
        under_way.spawn(replace(pods.clone(), slices.clone(), number, size));
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap()?;
    }
    Ok(format!("{count} Pods replaced"))
}

async fn replace(
    pods: Api<Pod>,
    slices: Api<EndpointSlice>,
    number: u32,
    size: Size,
) -> Result<(), kube::Error> {
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete(&pod_name(number), &at_once).await?;
    run_pod(pods, number, size.nodes).await?;
    if size.services > 0 {
        let service = number % size.services;
        let changed = Patch::Merge(slice(service, size, number + 1));
        let parameters = PatchParams::default();
        slices
            .patch(&slice_name(service), &parameters, &changed)
            .await?;
    }
    Ok(())
}
