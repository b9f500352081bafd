//! `fairlead service`.

use super::{
    client::ask,
    print::{Columns, render},
    rows::{Answer, NONE, join},
};
use crate::{
    config::Output,
    query::{
        Answerer, EndpointOfService, FrontendRow, Query, ServiceAnswer, ServiceDetail, ServiceRow,
    },
    service::{Topology, Unused},
};
use clap::{Args, Subcommand};
use std::path::Path;

#[derive(Subcommand)]
pub(super) enum ServiceVerb {
    /// Every Service: its addresses, how many backends answer, who answers the pods of this node.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        scope: Scope,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// One Service: each of its addresses and ports with the backends that answer.
    Get(One),
    /// Why a Service is answered as it is: every endpoint, and why it is not used.
    Explain(One),
}

#[derive(Args)]
pub(super) struct Scope {
    /// Services of this namespace only.
    #[arg(short, long, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Services of every namespace; so it is without -n, too.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

#[derive(Args)]
pub(super) struct One {
    /// Its name, or namespace/name; a name that several namespaces have needs one.
    name: String,
    /// Its namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl One {
    fn query(&self) -> Query {
        let (namespace, name) = match self.name.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (self.namespace.clone(), &*self.name),
        };
        let name = name.to_owned();
        Query::Service { namespace, name }
    }
}

/// Asks the agent and words the answer.
pub(super) fn run(verb: &ServiceVerb, socket: &Path) -> Result<Answer, String> {
    match verb {
        ServiceVerb::List { scope, output } => {
            let mut rows: Vec<ServiceRow> = ask(socket, Query::Services)?;
            if let Some(namespace) = &scope.namespace {
                rows.retain(|row| row.namespace == *namespace);
            }
            list(&rows, *output)
        }
        ServiceVerb::Get(one) => found(ask(socket, one.query())?, one, get),
        ServiceVerb::Explain(one) => found(ask(socket, one.query())?, one, explain),
    }
}

fn found(
    answer: ServiceAnswer,
    one: &One,
    show: fn(ServiceDetail, Output) -> Result<String, String>,
) -> Result<Answer, String> {
    match answer.service {
        Some(service) => {
            let text = show(service, one.output)?;
            Ok(Answer { text, code: 0 })
        }
        None => {
            eprintln!("fairlead: {}", unknown(&one.name, &answer.near));
            let text = String::new();
            Ok(Answer { text, code: 1 })
        }
    }
}

fn unknown(name: &str, near: &[String]) -> String {
    let same = |near: &&String| near.split_once('/').is_some_and(|(_, n)| n == name);
    match near {
        [] => format!("no Service {name:?}; `fairlead service list` shows them"),
        several if several.iter().filter(same).count() > 1 => {
            format!(
                "Services of several namespaces are called {name:?}, say which: {}",
                join(near)
            )
        }
        _ => format!("no Service {name:?}; is it one of these? {}", join(near)),
    }
}

fn list(rows: &[ServiceRow], output: Output) -> Result<Answer, String> {
    let text = render(&rows, output, || Columns {
        heads: vec![
            "NAMESPACE",
            "NAME",
            "TYPE",
            "ADDRESSES",
            "PORTS",
            "BACKENDS",
            "FLOWS",
            "PODS BY",
        ],
        wide_heads: vec!["WHY"],
        rows: rows.iter().map(list_row).collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

fn list_row(row: &ServiceRow) -> (Vec<String>, Vec<String>) {
    let mut by: Vec<&str> = row
        .pods
        .iter()
        .map(|answerer| answerer.by.as_str())
        .collect();
    by.dedup();
    let why: Vec<&str> = row.pods.iter().filter_map(|a| a.why.as_deref()).collect();
    let columns = vec![
        row.namespace.clone(),
        row.name.clone(),
        word(&row.service_type),
        join(&row.addresses),
        join(&row.ports),
        format!("{}/{}", row.backends_used, row.backends_known),
        row.flows.to_string(),
        join(&by),
    ];
    let why = if why.is_empty() {
        NONE.to_owned()
    } else {
        why.join("; ")
    };
    (columns, vec![why])
}

fn get(mut service: ServiceDetail, output: Output) -> Result<String, String> {
    for frontend in &mut service.frontends {
        frontend.endpoints.retain(EndpointOfService::is_used);
    }
    render(&service, output, || Columns {
        heads: vec![
            "KIND", "ADDRESS", "PODS BY", "FLOWS", "BACKEND", "NODE", "POD",
        ],
        wide_heads: vec!["ZONE", "SLICE", "ANSWERS"],
        rows: service.frontends.iter().flat_map(backends).collect(),
    })
}

/// A line for each backend, one for a frontend without.
fn backends(frontend: &FrontendRow) -> Vec<(Vec<String>, Vec<String>)> {
    let line = |backend: Vec<String>, wide| {
        let mut row = vec![
            word(&frontend.kind),
            place(frontend),
            by(&frontend.pods),
            frontend.flows.to_string(),
        ];
        row.extend(backend);
        (row, wide)
    };
    if frontend.endpoints.is_empty() {
        return vec![line(vec![NONE.to_owned(); 3], vec![NONE.to_owned(); 3])];
    }
    let lines = frontend.endpoints.iter().map(|endpoint| {
        let whom = match (endpoint.internal, endpoint.external) {
            (None, None) => "all",
            (None, Some(_)) => "cluster",
            _ => "outside",
        };
        let wide = vec![
            or_none(&endpoint.zone),
            endpoint.slice.clone(),
            whom.to_owned(),
        ];
        line(backend(endpoint), wide)
    });
    lines.collect()
}

fn backend(endpoint: &EndpointOfService) -> Vec<String> {
    let at = match endpoint.port {
        Some(port) => std::net::SocketAddr::new(endpoint.address, port).to_string(),
        None => endpoint.address.to_string(),
    };
    let node = match (&endpoint.node, endpoint.local) {
        (Some(node), true) => format!("{node} (this)"),
        (node, _) => or_none(node),
    };
    vec![at, node, or_none(&endpoint.pod)]
}

fn explain(service: ServiceDetail, output: Output) -> Result<String, String> {
    if matches!(output, Output::Json | Output::Yaml) {
        return render(&service, output, Columns::default);
    }
    let facts = render(&(), output, || facts(&service))?;
    let endpoints = render(&(), output, || Columns {
        heads: vec!["ADDRESS", "ENDPOINT", "NODE", "POD", "CLUSTER", "OUTSIDE"],
        wide_heads: vec!["ZONE", "SLICE"],
        rows: service.frontends.iter().flat_map(explained).collect(),
    })?;
    Ok(format!("{facts}\n{endpoints}"))
}

fn facts(service: &ServiceDetail) -> Columns {
    let mut rows = Vec::new();
    let mut line = |name: &str, value: String| rows.push((vec![name.to_owned(), value], vec![]));
    line("service", format!("{}/{}", service.namespace, service.name));
    line("type", word(&service.service_type));
    line(
        "node",
        match &service.zone {
            Some(zone) => format!("{}, zone {zone}", service.node),
            None => format!("{}, no zone", service.node),
        },
    );
    line("internal policy", service.internal_traffic_policy.clone());
    if let Some(policy) = &service.external_traffic_policy {
        line("external policy", policy.clone());
    }
    line(
        "affinity",
        match service.affinity_secs {
            Some(secs) => format!("a client keeps its backend for {secs} s"),
            None => "none".to_owned(),
        },
    );
    if let Some(distribution) = &service.traffic_distribution {
        line("distribution", distribution.clone());
    }
    if service.publish_not_ready_addresses {
        line("not ready", "endpoints are published as ready".to_owned());
    }
    if !service.source_ranges.is_empty() {
        line("source ranges", join(&service.source_ranges));
    }
    if let Some(health) = &service.health_check {
        let by = if health.served {
            "this agent"
        } else {
            "kube-proxy"
        };
        let count = health.check.local_endpoints;
        line(
            "health check",
            format!("port {} by {by}: {count} local endpoints", health.port),
        );
    }
    for frontend in &service.frontends {
        line(
            "frontend",
            format!(
                "{} {}: pods by {}; outside by {}; {}; {} flows",
                word(&frontend.kind),
                place(frontend),
                whole(&frontend.pods),
                whole(&frontend.outside),
                hints(frontend.topology),
                frontend.flows
            ),
        );
    }
    for problem in &service.problems {
        line("problem", problem.clone());
    }
    Columns {
        heads: vec!["FIELD", "VALUE"],
        rows,
        ..Columns::default()
    }
}

fn explained(frontend: &FrontendRow) -> Vec<(Vec<String>, Vec<String>)> {
    let lines = frontend.endpoints.iter().map(|endpoint| {
        let mut row = vec![place(frontend)];
        row.extend(backend(endpoint));
        row.push(reason(endpoint.internal).to_owned());
        row.push(reason(endpoint.external).to_owned());
        (row, vec![or_none(&endpoint.zone), endpoint.slice.clone()])
    });
    lines.collect()
}

fn reason(unused: Option<Unused>) -> &'static str {
    match unused {
        None => "answers",
        Some(Unused::NotReady) => "not ready",
        Some(Unused::Terminating) => "terminating",
        Some(Unused::OtherZone) => "hinted for other zones",
        Some(Unused::OtherNode) => "hinted for other nodes",
        Some(Unused::NotLocal) => "not on this node (policy Local)",
        Some(Unused::WrongFamily) => "of the other family",
        Some(Unused::NoPort) => "its slice lacks this port",
    }
}

fn hints(topology: Topology) -> &'static str {
    match topology {
        Topology::Anywhere => "no hints followed",
        Topology::SameZone => "hints for this zone followed",
        Topology::SameNode => "hints for this node followed",
    }
}

fn place(frontend: &FrontendRow) -> String {
    format!("{}/{}", frontend.at, word(&frontend.protocol))
}

fn by(answerer: &Answerer) -> String {
    answerer.by.as_str().to_owned()
}

fn whole(answerer: &Answerer) -> String {
    match &answerer.why {
        Some(why) => format!("{} ({why})", answerer.by.as_str()),
        None => by(answerer),
    }
}

fn or_none(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| NONE.to_owned())
}

/// As Kubernetes writes it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => NONE.to_owned(),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
