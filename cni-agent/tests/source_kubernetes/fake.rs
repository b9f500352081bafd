//! A small API server: objects by kind, and a log of changes that watches are served from.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use cni_agent::source::kubernetes::Kubernetes;
use futures_util::stream;
use kube::{Client, Config};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

#[derive(Default)]
pub(crate) struct Inner {
    version: u64,
    /// Older changes than this are compacted away.
    oldest: u64,
    /// By path of the collection and `namespace/name`.
    objects: BTreeMap<(String, String), Value>,
    log: Vec<(u64, String, &'static str, Value)>,
    /// Whether lists are streamed.
    streaming: bool,
    /// Answers 503.
    away: bool,
    /// Collections that are not listed before they are let go.
    held: Vec<String>,
    /// Groups that nobody may read.
    forbidden: Vec<String>,
    /// Defined kinds are not served for now.
    pub(crate) unserved: bool,
    pub(crate) lists: usize,
    pub(crate) streams: usize,
    /// Method, path and body.
    pub(crate) writes: Vec<(String, String, Value)>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) inner: Arc<Mutex<Inner>>,
    /// Wakes watches; the number is that of disconnects.
    news: watch::Sender<u64>,
    pub(crate) url: String,
    _server: Arc<Server>,
}

struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fake {
    pub(crate) async fn start(streaming: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Mutex::new(Inner {
            streaming,
            version: 1,
            ..Inner::default()
        }));
        let news = watch::Sender::new(0);
        let state = (inner.clone(), news.clone());
        let router = Router::new().fallback(answer).with_state(state);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            inner,
            news,
            url,
            _server: Arc::new(Server(server)),
        }
    }

    pub(crate) fn client(&self) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    pub(crate) async fn source(&self, state: &Path, patience: Duration) -> Kubernetes {
        Kubernetes::watch(self.client(), "n1", state, patience).await
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().unwrap());
        self.news.send_modify(|_| {});
    }

    pub(crate) fn put(&self, mut object: Value) {
        self.change(|inner| {
            inner.version += 1;
            let collection = collection(&object).to_owned();
            let meta = &mut object["metadata"];
            meta["resourceVersion"] = json!(inner.version.to_string());
            let key = format!(
                "{}/{}",
                meta["namespace"].as_str().unwrap_or_default(),
                meta["name"].as_str().unwrap()
            );
            let before = inner
                .objects
                .insert((collection.clone(), key), object.clone());
            let event = if before.is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            };
            let version = inner.version;
            inner.log.push((version, collection, event, object));
        });
    }

    pub(crate) fn delete(&self, collection: &str, key: &str) {
        self.change(|inner| {
            inner.version += 1;
            let name = (collection.to_owned(), key.to_owned());
            let mut object = inner.objects.remove(&name).unwrap();
            object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            let version = inner.version;
            inner.log.push((version, name.0, "DELETED", object));
        });
    }

    /// Forgets the changes: a watch that goes on from one of them is answered 410.
    pub(crate) fn compact(&self) {
        self.change(|inner| {
            inner.version += 1;
            inner.oldest = inner.version;
            inner.log.clear();
        });
    }

    /// Ends all watches.
    pub(crate) fn disconnect(&self) {
        self.news.send_modify(|disconnects| *disconnects += 1);
    }

    pub(crate) fn away(&self, away: bool) {
        self.change(|inner| inner.away = away);
        self.disconnect();
    }

    pub(crate) fn hold(&self, collection: &str) {
        self.change(|inner| inner.held.push(collection.to_owned()));
    }

    pub(crate) fn forbid(&self, group: &str) {
        self.change(|inner| inner.forbidden.push(group.to_owned()));
    }

    pub(crate) fn let_go(&self) {
        self.change(|inner| inner.held.clear());
    }
}

fn collection(object: &Value) -> &'static str {
    match object["kind"].as_str().unwrap() {
        "Node" => "/api/v1/nodes",
        "Pod" => "/api/v1/pods",
        "Service" => "/api/v1/services",
        "EndpointSlice" => "/apis/discovery.k8s.io/v1/endpointslices",
        "Namespace" => "/api/v1/namespaces",
        "NetworkPolicy" => "/apis/networking.k8s.io/v1/networkpolicies",
        "ClusterNetworkPolicy" => "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        "CustomResourceDefinition" => DEFINITIONS,
        other => panic!("{other}"),
    }
}

/// Where kinds are defined that not every cluster has.
pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Whether the kind of a collection is defined.
fn is_served(inner: &Inner, path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/apis/policy.networking.k8s.io/") else {
        return true;
    };
    let (version, plural) = rest.split_once('/').unwrap();
    if version == "v1beta1" || inner.unserved {
        // Of a release before it had this version.
        return false;
    }
    let name = format!("/{plural}.policy.networking.k8s.io");
    inner.objects.contains_key(&(DEFINITIONS.to_owned(), name))
}

type Shared = (Arc<Mutex<Inner>>, watch::Sender<u64>);

async fn answer(
    State((inner, news)): State<Shared>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let query = uri.query().unwrap_or_default().split('&');
    let query: HashMap<&str, &str> = query.filter_map(|pair| pair.split_once('=')).collect();
    if inner.lock().unwrap().away {
        return status(503, "away");
    }
    if method != Method::GET {
        return write(&inner, &news, &method, path, &body);
    }
    // The API server does not answer for what is held.
    let mut changes = news.subscribe();
    while inner.lock().unwrap().held.contains(&path) {
        changes.changed().await.unwrap();
    }
    let is_forbidden = |inner: &Inner| inner.forbidden.iter().any(|group| path.contains(group));
    if is_forbidden(&inner.lock().unwrap()) {
        return status(403, "forbidden: cannot list resource");
    }
    if !is_served(&inner.lock().unwrap(), &path) {
        return status(404, "the server could not find the requested resource");
    }
    // Of one object.
    let only = query.get("fieldSelector").map(|field| {
        let name = field.strip_prefix("metadata.name%3D").unwrap();
        format!("/{name}")
    });
    let streamed = query.get("sendInitialEvents").is_some_and(|v| *v == "true");
    if query.get("watch").is_none_or(|v| *v != "true") {
        let mut inner = inner.lock().unwrap();
        // Definitions are asked for one by one.
        if path != DEFINITIONS {
            inner.lists += 1;
        }
        let items: Vec<_> = of(&inner, &path, only.as_deref()).collect();
        let version = inner.version.to_string();
        return body_of(&json!({"metadata": {"resourceVersion": version}, "items": items}));
    }
    let (first, from) = {
        let mut inner = inner.lock().unwrap();
        if streamed && !inner.streaming {
            return status(
                422,
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            );
        }
        let mut first = Vec::new();
        let from = if streamed {
            inner.streams += 1;
            first.extend(of(&inner, &path, only.as_deref()).map(|object| event("ADDED", &object)));
            let version = inner.version.to_string();
            first.push(event(
                "BOOKMARK",
                &json!({"kind": "X", "apiVersion": "v1", "metadata": {
                "resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}}),
            ));
            inner.version
        } else {
            let from: u64 = query["resourceVersion"].parse().unwrap();
            if from < inner.oldest {
                let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": 410, "reason": "Expired", "message": "too old resource version"});
                return Body::from(event("ERROR", &gone)).into_response();
            }
            from
        };
        (first, from)
    };
    let disconnects = *news.borrow();
    let rest = stream::unfold(
        (first, from, news.subscribe()),
        move |(first, mut from, mut news)| {
            let (inner, path, only) = (inner.clone(), path.clone(), only.clone());
            async move {
                if !first.is_empty() {
                    return Some((
                        Ok::<_, std::io::Error>(first.concat()),
                        (Vec::new(), from, news),
                    ));
                }
                loop {
                    if *news.borrow_and_update() != disconnects {
                        return None;
                    }
                    let lines: String = {
                        let inner = inner.lock().unwrap();
                        let meant = |object: &Value| {
                            let name = object["metadata"]["name"].as_str();
                            only.as_ref().is_none_or(|only| only.get(1..) == name)
                        };
                        let new = inner.log.iter();
                        let new = new.filter(|c| c.0 > from && c.1 == path && meant(&c.3));
                        let lines = new
                            .map(|(_, _, kind, object)| event(kind, object))
                            .collect();
                        from = inner.version;
                        lines
                    };
                    if !lines.is_empty() {
                        return Some((Ok(lines), (Vec::new(), from, news)));
                    }
                    news.changed().await.ok()?;
                }
            }
        },
    );
    Body::from_stream(rest).into_response()
}

fn write(
    inner: &Mutex<Inner>,
    news: &watch::Sender<u64>,
    method: &Method,
    path: String,
    body: &[u8],
) -> Response {
    let body: Value = serde_json::from_slice(body).unwrap();
    let mut held = inner.lock().unwrap();
    held.writes
        .push((method.to_string(), path.clone(), body.clone()));
    let Some(name) = path.strip_prefix("/api/v1/nodes/") else {
        return body_of(&body);
    };
    let name = name.trim_end_matches("/status");
    let key = ("/api/v1/nodes".to_owned(), format!("/{name}"));
    let mut node = held.objects[&key].clone();
    let written = &body["metadata"]["resourceVersion"];
    if !written.is_null() && *written != node["metadata"]["resourceVersion"] {
        return status(409, "the object has been modified");
    }
    if let Some(annotations) = body["metadata"]["annotations"].as_object() {
        for (name, value) in annotations {
            node["metadata"]["annotations"][name] = value.clone();
        }
    }
    for (part, field) in [("spec", "taints"), ("status", "conditions")] {
        if !body[part][field].is_null() {
            node[part][field] = body[part][field].clone();
        }
    }
    held.version += 1;
    let version = held.version;
    node["metadata"]["resourceVersion"] = json!(version.to_string());
    held.objects.insert(key.clone(), node.clone());
    held.log.push((version, key.0, "MODIFIED", node.clone()));
    drop(held);
    news.send_modify(|_| {});
    body_of(&node)
}

fn of(inner: &Inner, path: &str, only: Option<&str>) -> impl Iterator<Item = Value> {
    let objects = inner.objects.iter();
    let objects =
        objects.filter(move |(key, _)| key.0 == path && only.is_none_or(|only| key.1 == only));
    objects.map(|(_, object)| object.clone())
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

fn body_of(object: &Value) -> Response {
    Body::from(object.to_string()).into_response()
}

fn status(code: u16, message: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Fault", "code": code});
    (StatusCode::from_u16(code).unwrap(), body_of(&status)).into_response()
}

pub(crate) fn node(name: &str, number: usize) -> Value {
    let (high, low) = (number / 256, number % 256);
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "managedFields": [{"manager": "kubelet"}]},
        "spec": {"podCIDRs": [format!("10.{high}.{low}.0/24")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("172.16.{high}.{low}")}]}})
}

pub(crate) fn pod(name: &str, node: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [
            {"name": "a", "image": "a", "ports": [{"containerPort": 80, "name": "web", "hostPort": 0}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.1.9"}]}})
}

pub(crate) fn service(name: &str, number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": format!("10.96.{}.{}", number / 256, number % 256), "ports": [{"port": 80}]}})
}

pub(crate) fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": "n1"}]})
}
