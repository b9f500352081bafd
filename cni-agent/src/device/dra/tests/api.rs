//! A small API server: ResourceSlices, of which it refuses and drops what the real one does, claims, and the node.

use super::PATIENCE;
use crate::device::dra::slices::DRIVER;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedMutexGuard, watch},
    task::JoinHandle,
    time::timeout,
};

/// What is switched on in the server.
#[derive(Clone, Copy)]
pub(super) struct Gates {
    pub(super) taints: bool,
    pub(super) shares: bool,
}

pub(super) struct Inner {
    version: u64,
    /// Grows with each node that is made.
    pub(super) node_uid: String,
    pub(super) slices: BTreeMap<String, Value>,
    log: Vec<(u64, &'static str, Value)>,
    claims: BTreeMap<String, Value>,
    pub(super) gates: Gates,
    /// How often somebody asked for one.
    claims_asked: usize,
    /// Method and name of each write of a slice.
    pub(super) writes: Vec<String>,
    /// Writes are refused with this code.
    pub(super) refuses: Option<u16>,
    /// Watches of an earlier one have ended.
    life: u64,
    /// The last one that was watched.
    watched: Option<u64>,
}

#[derive(Clone)]
pub(super) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    news: watch::Sender<()>,
    claims_go: Arc<tokio::sync::Mutex<()>>,
    url: String,
    _server: Arc<Server>,
}

struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inner {
    fn store(&mut self, mut slice: Value) -> Value {
        self.version += 1;
        let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = match self.slices.insert(name, slice.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.log.push((self.version, event, slice.clone()));
        slice
    }

    fn remove(&mut self, name: &str) -> Option<Value> {
        let mut slice = self.slices.remove(name)?;
        self.version += 1;
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push((self.version, "DELETED", slice.clone()));
        Some(slice)
    }

    /// All devices, if whoever reads the pool finds it whole.
    pub(super) fn devices(&self) -> Option<Vec<Device>> {
        let slices: Vec<ResourceSlice> = self
            .slices
            .values()
            .map(|slice| serde_json::from_value(slice.clone()).unwrap())
            .collect();
        let is_whole = slices.iter().all(|slice| {
            let pool = &slice.spec.pool;
            pool.generation == slices[0].spec.pool.generation
                && pool.resource_slice_count == i64::try_from(slices.len()).unwrap()
        });
        let devices = slices.into_iter().flat_map(|slice| slice.spec.devices);
        is_whole.then(|| devices.flatten().collect())
    }

    /// Whether somebody watches the slices since it started.
    pub(super) fn is_watched(&self) -> bool {
        self.watched == Some(self.life)
    }

    pub(super) fn generation(&self) -> i64 {
        let mut slices = self.slices.values();
        let generation = |of: &Value| of["spec"]["pool"]["generation"].as_i64();
        slices.next().and_then(generation).unwrap_or_default()
    }
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Mutex::new(Inner {
            version: 1,
            node_uid: "uid-n1".to_owned(),
            slices: BTreeMap::new(),
            log: Vec::new(),
            claims: BTreeMap::new(),
            gates: Gates {
                taints: true,
                shares: true,
            },
            claims_asked: 0,
            writes: Vec::new(),
            refuses: None,
            life: 0,
            watched: None,
        }));
        let news = watch::Sender::new(());
        let claims_go = Arc::default();
        let router = Router::new().fallback(answer).with_state((
            inner.clone(),
            news.clone(),
            Arc::clone(&claims_go),
        ));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            inner,
            news,
            claims_go,
            url,
            _server: Arc::new(Server(server)),
        }
    }

    pub(super) fn client(&self) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Changes a slice, as somebody else would.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut inner = self.inner();
        let mut slice = inner.slices[name].clone();
        change(&mut slice);
        inner.store(slice);
        drop(inner);
        self.news.send_replace(());
    }

    /// The name of the first slice.
    pub(super) fn first(&self) -> String {
        self.inner().slices.keys().next().unwrap().clone()
    }

    /// Holds the answers about claims up; they go on when what is answered is dropped.
    pub(super) fn hold_claims(&self) -> OwnedMutexGuard<()> {
        self.claims_go.clone().try_lock_owned().unwrap()
    }

    /// Waits until so many were asked for since its start.
    pub(super) async fn was_asked_for_claims(&self, count: usize) {
        let asked = |inner: &Inner| (inner.claims_asked >= count).then_some(());
        self.wait("claims are asked for", asked).await;
    }

    /// Adds a slice, as somebody else would.
    pub(super) fn put(&self, slice: Value) {
        self.inner().store(slice);
        self.news.send_replace(());
    }

    /// Deletes all slices, as the kubelet does.
    pub(super) fn wipe(&self) {
        let mut inner = self.inner();
        let names: Vec<String> = inner.slices.keys().cloned().collect();
        for name in names {
            inner.remove(&name).unwrap();
        }
        drop(inner);
        self.news.send_replace(());
    }

    /// Starts again with other features: whoever watched has to list.
    pub(super) async fn start_again(&self, gates: Gates) {
        let is_watched = |inner: &Inner| inner.is_watched().then_some(());
        self.wait("a watch", is_watched).await;
        let mut inner = self.inner();
        inner.life += 1;
        inner.gates = gates;
        drop(inner);
        self.news.send_replace(());
    }

    /// A claim that was given these devices.
    pub(super) fn claim(&self, name: &str, uid: &str, results: Value) {
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": "shop", "uid": uid},
            "spec": {"devices": {}},
            "status": {"allocation": {"devices": {"results": results}}},
        });
        self.inner().claims.insert(name.to_owned(), claim);
    }

    pub(super) fn delete_claim(&self, name: &str) {
        self.inner().claims.remove(name).unwrap();
    }

    /// Waits until it is as wanted.
    pub(super) async fn wait<T>(&self, what: &str, wanted: impl Fn(&Inner) -> Option<T>) -> T {
        let mut news = self.news.subscribe();
        let waited = timeout(PATIENCE, async {
            loop {
                if let Some(found) = wanted(&self.inner()) {
                    return found;
                }
                news.changed().await.unwrap();
            }
        });
        match waited.await {
            Ok(found) => found,
            Err(_) => {
                let inner = self.inner();
                panic!(
                    "not in time: {what}; {:#?} {:#?}",
                    inner.writes, inner.slices
                )
            }
        }
    }

    /// Waits until so many devices are told of, by a pool that is whole.
    pub(super) async fn has(&self, count: usize) -> Vec<Device> {
        self.wait(&format!("{count} devices"), |inner| {
            inner.devices().filter(|devices| devices.len() == count)
        })
        .await
    }
}

/// What the real one refuses.
fn refused(slice: &ResourceSlice) -> Option<String> {
    let spec = &slice.spec;
    let devices = spec.devices.as_deref().unwrap_or_default();
    let names: BTreeSet<&str> = devices.iter().map(|device| &*device.name).collect();
    let most = match devices.iter().any(|device| device.taints.is_some()) {
        true => 64,
        false => 128,
    };
    let owner = slice.metadata.owner_references.as_ref();
    let is_odd = |device: &Device| {
        let values = device.attributes.iter().flatten();
        let mut texts = values.filter_map(|(_, value)| value.string.as_ref());
        device.name.len() > 63 || texts.any(|text| text.len() > 64)
    };
    for (is, what) in [
        (names.len() != devices.len(), "devices: Duplicate value"),
        (devices.len() > most, "devices: Too many"),
        (spec.pool.resource_slice_count < 1, "resourceSliceCount"),
        (spec.driver != DRIVER, "driver"),
        (spec.node_name.as_deref() != Some("n1"), "nodeName"),
        (devices.iter().any(is_odd), "devices: Too long"),
        (
            slice.metadata.generate_name.is_none() && owner.is_none_or(Vec::is_empty),
            "a slice of a node goes with it",
        ),
    ] {
        if is {
            return Some(what.to_owned());
        }
    }
    None
}

/// What the real one drops without a word, and what it adds.
fn kept(gates: Gates, slice: &mut Value) {
    for device in slice["spec"]["devices"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        let device = device.as_object_mut().unwrap();
        if !gates.taints {
            device.remove("taints");
        }
        if !gates.shares {
            device.remove("allowMultipleAllocations");
            let capacities = device.get_mut("capacity").and_then(Value::as_object_mut);
            for capacity in capacities.into_iter().flat_map(|all| all.values_mut()) {
                capacity.as_object_mut().unwrap().remove("requestPolicy");
            }
        }
        let taints = device.get_mut("taints").and_then(Value::as_array_mut);
        for taint in taints.into_iter().flatten() {
            if taint["timeAdded"].is_null() {
                taint["timeAdded"] = json!("2026-01-01T00:00:00Z");
            }
        }
    }
}

type Shared = (
    Arc<Mutex<Inner>>,
    watch::Sender<()>,
    Arc<tokio::sync::Mutex<()>>,
);

async fn answer(
    State((shared, news, claims_go)): State<Shared>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let query = uri.query().unwrap_or_default();
    let parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    if parts.contains(&"resourceclaims") {
        shared.lock().unwrap().claims_asked += 1;
        news.send_replace(());
        // What is answered is as it was when it was asked for.
        let claim = shared
            .lock()
            .unwrap()
            .claims
            .get(parts[parts.len() - 1])
            .cloned();
        drop(claims_go.lock().await);
        return match claim {
            Some(claim) => answered(200, &claim),
            None => refusal(404, "NotFound"),
        };
    }
    let mut inner = shared.lock().unwrap();
    match (&method, &parts[..]) {
        (&Method::GET, ["api", "v1", "nodes", "n1"]) => answered(
            200,
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": inner.node_uid}}),
        ),
        (method, ["apis", "resource.k8s.io", "v1", "resourceslices", rest @ ..]) => {
            let is_read = *method == Method::GET;
            if let Some(code) = inner.refuses.filter(|_| !is_read) {
                return refusal(code, "it is refused");
            }
            match (method, rest) {
                (&Method::GET, []) => {
                    drop(inner);
                    read(shared, news, query)
                }
                (&Method::POST, []) => {
                    let slice = serde_json::from_slice(&body).unwrap();
                    let is_dry = query.contains("dryRun=All");
                    let answer = create(&mut inner, slice, is_dry);
                    news.send_replace(());
                    answer
                }
                (&Method::PUT, [name]) => {
                    let slice = serde_json::from_slice(&body).unwrap();
                    let answer = replace(&mut inner, name, slice);
                    news.send_replace(());
                    answer
                }
                (&Method::DELETE, [name]) => {
                    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let uid = &asked["preconditions"]["uid"];
                    let found = inner.slices.get(*name);
                    let Some(found) = found else {
                        return refusal(404, "NotFound");
                    };
                    if *uid != found["metadata"]["uid"] {
                        return refusal(409, "Conflict");
                    }
                    let removed = inner.remove(name).unwrap();
                    inner.writes.push(format!("DELETE {name}"));
                    news.send_replace(());
                    answered(200, &removed)
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
}

fn create(inner: &mut Inner, mut slice: Value, is_dry: bool) -> Response {
    kept(inner.gates, &mut slice);
    let typed: ResourceSlice = serde_json::from_value(slice.clone()).unwrap();
    if let Some(why) = refused(&typed) {
        return refusal(422, &why);
    }
    if is_dry {
        slice["metadata"]["name"] = json!("made-up");
        return answered(201, &slice);
    }
    let name = typed.metadata.name.unwrap();
    if inner.slices.contains_key(&name) {
        return refusal(409, "AlreadyExists");
    }
    slice["metadata"]["uid"] = json!(format!("uid-{}", inner.version));
    inner.writes.push(format!("POST {name}"));
    let stored = inner.store(slice);
    answered(201, &stored)
}

fn replace(inner: &mut Inner, name: &str, mut slice: Value) -> Response {
    let Some(found) = inner.slices.get(name).cloned() else {
        return refusal(404, "NotFound");
    };
    if slice["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"] {
        return refusal(409, "Conflict");
    }
    kept(inner.gates, &mut slice);
    let typed: ResourceSlice = serde_json::from_value(slice.clone()).unwrap();
    let is_other = slice["spec"]["pool"]["name"] != found["spec"]["pool"]["name"];
    if let Some(why) = refused(&typed).or(is_other.then(|| "immutable".to_owned())) {
        return refusal(422, &why);
    }
    inner.writes.push(format!("PUT {name}"));
    let stored = inner.store(slice);
    answered(200, &stored)
}

/// Lists, or watches. Who asks for more than its own would load a real one.
fn read(shared: Arc<Mutex<Inner>>, news: watch::Sender<()>, query: &str) -> Response {
    let own = "fieldSelector=spec.nodeName%3Dn1%2Cspec.driver%3Ddevices.fairlead.dev";
    assert!(query.contains(own), "{query}");
    if !query.contains("watch=true") {
        let inner = shared.lock().unwrap();
        let items: Vec<&Value> = inner.slices.values().collect();
        let list = json!({
            "kind": "List", "apiVersion": "resource.k8s.io/v1",
            "metadata": {"resourceVersion": inner.version.to_string()}, "items": items
        });
        return answered(200, &list);
    }
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let seen = pairs.find(|(key, _)| *key == "resourceVersion");
    let seen: u64 = seen.unwrap().1.parse().unwrap();
    let life = {
        let mut inner = shared.lock().unwrap();
        inner.watched = Some(inner.life);
        inner.life
    };
    news.send_replace(());
    let state = (shared, news.subscribe(), seen);
    let events = stream::unfold(state, move |(shared, mut news, mut seen)| async move {
        loop {
            let mut lines = String::new();
            {
                let inner = shared.lock().unwrap();
                if seen == u64::MAX {
                    return None;
                }
                if inner.life != life {
                    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "message": "too old resource version", "reason": "Expired", "code": 410});
                    let line = format!("{}\n", json!({"type": "ERROR", "object": gone}));
                    drop(inner);
                    return Some((Ok(line), (shared, news, u64::MAX)));
                }
                for (_, event, object) in inner.log.iter().filter(|of| of.0 > seen) {
                    lines += &format!("{}\n", json!({"type": event, "object": object}));
                }
                seen = inner.version;
            }
            if !lines.is_empty() {
                let lines = Ok::<_, std::convert::Infallible>(lines);
                return Some((lines, (shared, news, seen)));
            }
            news.changed().await.ok()?;
        }
    });
    Body::from_stream(events).into_response()
}

fn refusal(code: u16, message: &str) -> Response {
    let reason = if code == 404 { "NotFound" } else { "Refused" };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": reason, "code": code});
    answered(code, &status)
}

fn answered(code: u16, value: &Value) -> Response {
    (StatusCode::from_u16(code).unwrap(), value.to_string()).into_response()
}
