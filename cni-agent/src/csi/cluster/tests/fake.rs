//! A small API server for any kind: objects, selectors by label and name, watches, merge patches with versions,
//! finalizers.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use kube::{Client, Config};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

/// API version, plural, namespace and name.
type Key = (String, String, String, String);

#[derive(Default)]
pub(super) struct Inner {
    version: u64,
    objects: BTreeMap<Key, Value>,
    log: Vec<(u64, Key, &'static str, Value)>,
    pub(super) events: Vec<Value>,
    /// Method, plural and name of each write.
    pub(super) writes: Vec<String>,
    /// The same of each object that is read by its name.
    pub(super) reads: Vec<String>,
    /// Kinds of which nothing can be made, and the code that says so.
    pub(super) refuses: BTreeMap<&'static str, u16>,
    /// Kinds that can't be listed, and how often that was tried.
    pub(super) unlisted: BTreeMap<&'static str, usize>,
    /// Names of what can't be changed, and the code that says so.
    pub(super) unchanged: BTreeMap<&'static str, u16>,
}

#[derive(Clone)]
pub(super) struct Fake {
    pub(super) inner: Arc<Mutex<Inner>>,
    news: watch::Sender<()>,
    url: String,
    _server: Arc<Server>,
}

struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn key(api: &str, plural: &str, namespace: &str, name: &str) -> Key {
    (api.into(), plural.into(), namespace.into(), name.into())
}

impl Inner {
    fn store(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let free = object["metadata"]["finalizers"]
            .as_array()
            .is_none_or(Vec::is_empty);
        let event = match object["metadata"]["deletionTimestamp"].is_string() && free {
            true => {
                self.objects.remove(&key);
                "DELETED"
            }
            false => match self.objects.insert(key.clone(), object.clone()) {
                Some(_) => "MODIFIED",
                None => "ADDED",
            },
        };
        self.log.push((self.version, key, event, object.clone()));
        object
    }

    /// How many there are of a kind.
    pub(super) fn count(&self, plural: &str) -> usize {
        self.objects.keys().filter(|key| key.1 == plural).count()
    }

    fn remove(&mut self, key: Key) -> Option<Value> {
        let mut object = self.objects.get(&key)?.clone();
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        Some(self.store(key, object))
    }
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Mutex::new(Inner::default()));
        let news = watch::Sender::new(());
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

    pub(super) fn client(&self) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let done = change(&mut self.inner.lock().unwrap());
        self.news.send_replace(());
        done
    }

    pub(super) fn put(&self, api: &str, plural: &str, mut object: Value) {
        let text = |field: &str| {
            object["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let key = (
            api.to_owned(),
            plural.to_owned(),
            text("namespace"),
            text("name"),
        );
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", key.3));
        }
        self.change(|inner| inner.store(key, object));
    }

    pub(super) fn merge(&self, api: &str, plural: &str, namespace: &str, name: &str, patch: Value) {
        let key = key(api, plural, namespace, name);
        self.change(|inner| {
            let mut object = inner.objects[&key].clone();
            merge(&mut object, &patch);
            inner.store(key, object);
        });
    }

    pub(super) fn delete(&self, api: &str, plural: &str, namespace: &str, name: &str) {
        let key = key(api, plural, namespace, name);
        self.change(|inner| inner.remove(key).unwrap());
    }

    pub(super) fn all(&self, api: &str, plural: &str) -> Vec<Value> {
        let inner = self.inner.lock().unwrap();
        let of = inner
            .objects
            .iter()
            .filter(|(key, _)| key.0 == api && key.1 == plural);
        of.map(|(_, object)| object.clone()).collect()
    }

    /// Waits until the cluster is as wanted.
    pub(super) async fn wait<T>(
        &self,
        what: &str,
        mut wanted: impl FnMut(&Inner) -> Option<T>,
    ) -> T {
        let mut news = self.news.subscribe();
        let waited = timeout(super::LONG, async {
            loop {
                if let Some(found) = wanted(&self.inner.lock().unwrap()) {
                    return found;
                }
                news.changed().await.unwrap();
            }
        });
        match waited.await {
            Ok(found) => found,
            Err(_) => {
                let inner = self.inner.lock().unwrap();
                panic!(
                    "not in time: {what}; {:#?} {:#?}",
                    inner.writes, inner.events
                )
            }
        }
    }

    /// Waits until what can be asked for is as wanted.
    pub(super) async fn settled(&self, wanted: impl Fn() -> bool) {
        let mut news = self.news.subscribe();
        let waited = timeout(super::LONG, async {
            while !wanted() {
                news.changed().await.unwrap();
            }
        });
        waited.await.unwrap();
    }

    /// Waits until an object is as wanted.
    pub(super) async fn until(
        &self,
        api: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let key = key(api, plural, namespace, name);
        let found = |inner: &Inner| inner.objects.get(&key).filter(|of| wanted(of)).cloned();
        self.wait(&format!("{key:?}"), found).await
    }

    pub(super) async fn gone(&self, api: &str, plural: &str, namespace: &str, name: &str) {
        let key = key(api, plural, namespace, name);
        let found = |inner: &Inner| (!inner.objects.contains_key(&key)).then_some(());
        self.wait(&format!("{key:?} is gone"), found).await;
    }

    /// Waits for an Event, and returns its note.
    pub(super) async fn told(&self, reason: &str, name: &str) -> String {
        let found = |inner: &Inner| {
            let is =
                |event: &&Value| event["reason"] == reason && event["regarding"]["name"] == name;
            let event = inner.events.iter().find(is)?;
            Some(event["note"].as_str().unwrap().to_owned())
        };
        self.wait(&format!("the Event {reason} of {name}"), found)
            .await
    }
}

fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (field, value) in fields {
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(field)),
            value => merge(&mut object[field], value),
        }
    }
}

type Shared = (Arc<Mutex<Inner>>, watch::Sender<()>);

async fn answer(
    State((inner, news)): State<Shared>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let query = uri.query().unwrap_or_default().split('&');
    let query = query.filter_map(|pair| pair.split_once('='));
    let query: HashMap<&str, String> = query.map(|(key, value)| (key, decoded(value))).collect();
    let parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let (api, rest) = match parts[0] {
        "api" => (parts[1].to_owned(), &parts[2..]),
        _ => (format!("{}/{}", parts[1], parts[2]), &parts[3..]),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, status) = (rest[0], rest.get(1).copied(), rest.get(2).is_some());
    let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(name) = name else {
        return match method {
            Method::POST => create(
                &mut inner.lock().unwrap(),
                &news,
                (&api, plural, namespace),
                sent,
            ),
            _ => read(&inner, &news, (&api, plural, namespace), &query),
        };
    };
    let key = key(&api, plural, namespace, name);
    let mut inner = inner.lock().unwrap();
    if method == Method::GET {
        inner.reads.push(format!("{plural} {name}"));
    }
    let Some(mut object) = inner.objects.get(&key).cloned() else {
        return refusal(404, "NotFound", &format!("{plural} {name:?} not found"));
    };
    let changed = |inner: &mut Inner| {
        inner.writes.push(format!("{method} {plural} {name}"));
        news.send_replace(());
    };
    let same =
        |version: &Value| version.is_null() || *version == object["metadata"]["resourceVersion"];
    match method {
        Method::GET => answered(200, &json!(object)),
        Method::PATCH if inner.unchanged.contains_key(name) => {
            refusal(inner.unchanged[name], "Refused", "it is refused")
        }
        Method::PATCH | Method::PUT if !same(&sent["metadata"]["resourceVersion"]) => {
            refusal(409, "Conflict", "the object has been modified")
        }
        Method::PATCH => {
            let mut sent = sent;
            // What isn't of the subresource is not taken by it.
            match status {
                true => sent = json!({"status": sent["status"]}),
                false => drop(sent.as_object_mut().unwrap().remove("status")),
            }
            merge(&mut object, &sent);
            let stored = inner.store(key, object);
            changed(&mut inner);
            answered(200, &json!(stored))
        }
        Method::PUT => {
            let stored = inner.store(key, sent);
            changed(&mut inner);
            answered(200, &json!(stored))
        }
        Method::DELETE => {
            let wanted = &sent["preconditions"]["uid"];
            if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                return refusal(409, "Conflict", "another uid");
            }
            let removed = inner.remove(key);
            changed(&mut inner);
            answered(200, &json!(removed))
        }
        other => panic!("{other}"),
    }
}

fn create(
    inner: &mut Inner,
    news: &watch::Sender<()>,
    of: (&str, &str, &str),
    mut sent: Value,
) -> Response {
    let (api, plural, namespace) = of;
    if plural == "events" {
        inner.events.push(sent.clone());
        news.send_replace(());
        return answered(200, &json!(sent));
    }
    if let Some(code) = inner.refuses.get(plural) {
        return refusal(*code, "Refused", "it is refused");
    }
    let meta = &mut sent["metadata"];
    if let Some(prefix) = meta["generateName"].as_str() {
        meta["name"] = json!(format!("{prefix}{}", inner.version));
    }
    let name = meta["name"].as_str().unwrap().to_owned();
    meta["uid"] = json!(format!("uid-{name}"));
    if !namespace.is_empty() {
        meta["namespace"] = json!(namespace);
    }
    let key = key(api, plural, namespace, &name);
    if inner.objects.contains_key(&key) {
        return refusal(
            409,
            "AlreadyExists",
            &format!("{plural} {name:?} already exists"),
        );
    }
    inner.writes.push(format!("POST {plural} {name}"));
    let stored = inner.store(key, sent);
    news.send_replace(());
    answered(201, &stored)
}

fn selected(object: &Value, query: &HashMap<&str, String>) -> bool {
    let labels = query.get("labelSelector").map_or("", String::as_str);
    let fields = query.get("fieldSelector").map_or("", String::as_str);
    let has = |part: &str| match (part.split_once('='), part.strip_prefix('!')) {
        (Some((key, value)), _) => object["metadata"]["labels"][key] == value,
        (None, Some(key)) => object["metadata"]["labels"][key].is_null(),
        (None, None) => panic!("{part}"),
    };
    let is = |part: &str| {
        let (field, value) = part.split_once('=').unwrap();
        assert_eq!(field, "metadata.name");
        object["metadata"]["name"] == value
    };
    labels.split(',').filter(|part| !part.is_empty()).all(has)
        && fields.split(',').filter(|part| !part.is_empty()).all(is)
}

fn read(
    shared: &Arc<Mutex<Inner>>,
    news: &watch::Sender<()>,
    (api, plural, namespace): (&str, &str, &str),
    query: &HashMap<&str, String>,
) -> Response {
    let meant =
        |key: &Key| key.0 == api && key.1 == plural && (namespace.is_empty() || key.2 == namespace);
    let mut inner = shared.lock().unwrap();
    if query.get("watch").map(String::as_str) != Some("true") {
        if let Some(tried) = inner.unlisted.get_mut(plural) {
            *tried += 1;
            news.send_replace(());
            return refusal(503, "ServiceUnavailable", "it can't be listed");
        }
        let of = inner
            .objects
            .iter()
            .filter(|(key, of)| meant(key) && selected(of, query));
        let items: Vec<&Value> = of.map(|(_, object)| object).collect();
        let list = json!({
            "kind": "List", "apiVersion": api,
            "metadata": {"resourceVersion": inner.version.to_string()}, "items": items
        });
        return answered(200, &json!(list));
    }
    let seen: u64 = query["resourceVersion"].parse().unwrap();
    let (api, plural, namespace) = (api.to_owned(), plural.to_owned(), namespace.to_owned());
    let state = (
        shared.clone(),
        news.subscribe(),
        seen,
        query
            .clone()
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect::<Vec<_>>(),
    );
    let events = stream::unfold(state, move |(shared, mut news, mut seen, query)| {
        let (api, plural, namespace) = (api.clone(), plural.clone(), namespace.clone());
        async move {
            loop {
                let borrowed: HashMap<&str, String> =
                    query.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
                let mut lines = String::new();
                {
                    let inner = shared.lock().unwrap();
                    for (version, key, event, object) in &inner.log {
                        let meant = key.0 == api
                            && key.1 == plural
                            && (namespace.is_empty() || key.2 == namespace);
                        if *version > seen && meant && selected(object, &borrowed) {
                            lines += &format!("{}\n", json!({"type": event, "object": object}));
                        }
                    }
                    seen = inner.version;
                }
                if !lines.is_empty() {
                    drop(borrowed);
                    return Some((
                        Ok::<_, std::convert::Infallible>(lines),
                        (shared, news, seen, query),
                    ));
                }
                if news.changed().await.is_err() {
                    return None;
                }
            }
        }
    });
    Body::from_stream(events).into_response()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match first {
            b'%' => {
                let hex = std::str::from_utf8(&more[..2]).unwrap();
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &more[2..];
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn refusal(code: u16, reason: &str, message: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": reason, "code": code});
    answered(code, &status)
}

fn answered(code: u16, value: &Value) -> Response {
    (StatusCode::from_u16(code).unwrap(), value.to_string()).into_response()
}
