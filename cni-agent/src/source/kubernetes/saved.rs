//! The cluster published last, on disk: what a start takes while the API server is away.

use super::Shared;
use crate::{
    model::{ClusterPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service},
    private_file,
    state::{Cluster, Objects},
};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufReader, BufWriter, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

/// Changes with the form of the file; another one is not read.
const VERSION: u32 = 3;
/// The pause after a write, as a multiple of what it took, and its bounds.
const PAUSE_FOR_TIME: u32 = 50;
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    path: PathBuf,
    node_name: String,
}

/// Its content, written without a copy of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    version: u32,
    node_name: &'a str,
    at: String,
    nodes: Values<'a, String, Node>,
    pods: Pods<'a>,
    services: Values<'a, (String, String), Service>,
    slices: Values<'a, (String, String), EndpointSlice>,
    namespaces: Values<'a, String, Namespace>,
    policies: Values<'a, (String, String), NetworkPolicy>,
    cluster_policies: Values<'a, (String, String), ClusterPolicy>,
}

struct Values<'a, K, V>(&'a Objects<K, V>);

impl<K, V: Serialize> Serialize for Values<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values())
    }
}

/// Those of this node, and all others only where policies ask for them: they are by far the most.
struct Pods<'a> {
    cluster: &'a Cluster,
    node_name: &'a str,
}

impl Serialize for Pods<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = self.cluster.has_policies();
        let wanted = |pod: &&Pod| all || pod.node.as_deref() == Some(self.node_name);
        serializer.collect_seq(self.cluster.pods.values().filter(wanted))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    version: u32,
    node_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    at: String,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    namespaces: Vec<Namespace>,
    policies: Vec<NetworkPolicy>,
    cluster_policies: Vec<ClusterPolicy>,
}

impl Saved {
    pub(super) fn new(state_dir: &Path, node_name: &str) -> Self {
        Self {
            path: state_dir.join("cluster.json"),
            node_name: node_name.to_owned(),
        }
    }

    /// Writes down each snapshot of the API server, the newest only if they come fast.
    pub(super) async fn keep(
        self,
        mut cluster: watch::Receiver<Arc<Cluster>>,
        shared: Arc<Shared>,
    ) {
        let mut failed = false;
        // After a failure without waiting for news: the cluster may be quiet for hours.
        while failed || cluster.changed().await.is_ok() {
            let newest = cluster.borrow_and_update().clone();
            if shared.health().is_from_disk() {
                failed = false;
                continue;
            }
            let begin = Instant::now();
            let outcome = self.write(newest).await;
            failed = outcome.is_err();
            if let Err(fault) = &outcome {
                tracing::warn!(fault, "the state of the cluster is not kept on disk");
            }
            shared.health().disk(outcome.err());
            // A small cluster's newest state is soon on the disk, a large one's doesn't keep the disk busy.
            let pause = begin.elapsed() * PAUSE_FOR_TIME;
            sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
            if cluster.has_changed().is_err() {
                return;
            }
        }
    }

    /// Replaces the file as a whole; durable on return.
    ///
    /// # Errors
    /// Those of the disk, with the file's name.
    async fn write(&self, cluster: Arc<Cluster>) -> Result<(), String> {
        let saved = self.clone();
        let written = spawn_blocking(move || saved.write_now(&cluster));
        match written.await {
            Ok(outcome) => outcome.map_err(|e| format!("{}: {e}", self.path.display())),
            Err(error) => Err(error.to_string()),
        }
    }

    fn write_now(&self, cluster: &Cluster) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let fresh = self.path.with_extension("tmp");
        let file = private_file::create(&fresh)?;
        let mut buffer = BufWriter::new(file);
        let content = Written {
            version: VERSION,
            node_name: &self.node_name,
            at: now(),
            nodes: Values(&cluster.nodes),
            pods: Pods {
                cluster,
                node_name: &self.node_name,
            },
            services: Values(&cluster.services),
            slices: Values(&cluster.slices),
            namespaces: Values(&cluster.namespaces),
            policies: Values(&cluster.policies),
            cluster_policies: Values(&cluster.cluster_policies),
        };
        serde_json::to_writer(&mut buffer, &content)?;
        buffer.flush()?;
        buffer.get_ref().sync_all()?;
        fs::rename(fresh, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// The last state (revision 1) and when it was written; none if there is none.
    ///
    /// # Errors
    /// When the file can't be used, with the remedy.
    pub(super) async fn read(&self) -> Result<Option<(Cluster, String)>, String> {
        let saved = self.clone();
        match spawn_blocking(move || saved.read_now()).await {
            Ok(outcome) => outcome,
            Err(error) => Err(error.to_string()),
        }
    }

    fn read_now(&self) -> Result<Option<(Cluster, String)>, String> {
        let fault = |e: &dyn std::fmt::Display| {
            format!(
                "{}: {e}; it is replaced when the API server answers",
                self.path.display()
            )
        };
        let open = || File::open(&self.path).map(BufReader::new);
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| fault(&e))?,
        };
        let header: Header = serde_json::from_reader(file).map_err(|e| fault(&e))?;
        if header.version != VERSION {
            return Err(fault(&format!(
                "is of version {}, not {VERSION}",
                header.version
            )));
        }
        if header.node_name != self.node_name {
            return Err(fault(&format!("is of node {:?}", header.node_name)));
        }
        let file = open().map_err(|e| fault(&e))?;
        let content: Content = serde_json::from_reader(file).map_err(|e| fault(&e))?;
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let cluster = Cluster {
            revision: 1,
            nodes: (content.nodes.into_iter())
                .map(|o| (o.name.clone(), o))
                .collect(),
            pods: (content.pods.into_iter())
                .map(|o| (key(&o.namespace, &o.name), o))
                .collect(),
            services: (content.services.into_iter())
                .map(|o| (key(&o.namespace, &o.name), o))
                .collect(),
            slices: (content.slices.into_iter())
                .map(|o| (key(&o.namespace, &o.name), o))
                .collect(),
            namespaces: (content.namespaces.into_iter())
                .map(|o| (o.name.clone(), o))
                .collect(),
            policies: (content.policies.into_iter())
                .map(|o| (key(&o.namespace, &o.name), o))
                .collect(),
            cluster_policies: (content.cluster_policies.into_iter())
                .map(|o| (key(&o.kind, &o.name), o))
                .collect(),
            ..Cluster::default()
        };
        Ok(Some((cluster, content.at)))
    }
}

/// To the second, in UTC.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}
