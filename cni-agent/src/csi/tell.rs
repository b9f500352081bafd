//! Looks at the pool from time to time, and tells what an operator must know: in the log, and where there is a cluster as
//! Events of the claim, the pod or the node.

use super::{
    Driver,
    records::{ObjectName, Phase, Volume},
    trouble::{About, Seen, Told, Trouble},
    volumes::{Volumes, failed},
};
use crate::{
    config::ApiOptions,
    csi::fault::Fault,
    events::{self, Events},
    parts::Shutdown,
};
use k8s_openapi::api::core::v1::ObjectReference;
use std::time::Duration;
use tokio::{sync::mpsc, time::sleep};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(60);
/// Troubles that wait to be told; more are in the log alone.
pub(super) const MOST_WAITING: usize = 64;

/// Where operations tell of what they refused.
pub(super) type Troubles = mpsc::Sender<Trouble>;

/// Looks and tells until `shutdown`.
pub(super) async fn run(
    driver: Driver,
    api: Option<ApiOptions>,
    mut refused: mpsc::Receiver<Trouble>,
    mut shutdown: Shutdown,
) {
    let teller = Teller::new(&driver.volumes.node, api).await;
    let mut told = Told::default();
    let looking = async {
        loop {
            // What can't be read is in the log by now.
            if let Ok(seen) = driver.blocking(Volumes::seen).await {
                for trouble in told.news(&seen) {
                    teller.tell(&trouble).await;
                }
            }
            let pause = sleep(PAUSE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(trouble) = refused.recv() => teller.tell(&trouble).await,
                }
            }
        }
    };
    tokio::select! {
        () = looking => {}
        () = shutdown.requested() => {}
    }
}

impl Volumes {
    /// How everything is now.
    fn seen(&self) -> Result<Seen, Fault> {
        let room = self.pool.room().map_err(failed("the pool"))?;
        let contents = self.book.read().clone();
        let mut seen = Seen {
            total: room.total,
            free: room.free,
            promised: self.promised(),
            ill: Vec::new(),
        };
        let volumes = contents.volumes.into_values();
        for volume in volumes.filter(|volume| volume.phase == Phase::Ready) {
            let ill = self.illnesses(&volume)?;
            // What is being worked on may look like it for a moment.
            if !ill.is_empty()
                && !self.busy.keys().contains(volume.id.as_str())
                && self.is_same(&volume)
            {
                seen.ill.push((volume, ill));
            }
        }
        Ok(seen)
    }

    fn is_same(&self, volume: &Volume) -> bool {
        self.book.read().volumes.get(&volume.id) == Some(volume)
    }
}

/// Writes Events, where there is a cluster.
struct Teller {
    node: String,
    events: Events,
}

impl Teller {
    async fn new(node: &str, api: Option<ApiOptions>) -> Self {
        Self {
            node: node.to_owned(),
            events: Events::connect(api.as_ref(), "volumes").await,
        }
    }

    async fn tell(&self, trouble: &Trouble) {
        tracing::warn!(
            reason = trouble.reason,
            about = ?trouble.about,
            note = trouble.note,
            "volumes need somebody to look at them"
        );
        let about = reference(&trouble.about, &self.node);
        self.events
            .warn(&about, trouble.reason, &trouble.note)
            .await;
    }
}

/// PURE: whom an Event is about.
fn reference(about: &About, node: &str) -> ObjectReference {
    let of = |kind: &str, name: &ObjectName| ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(name.namespace.clone()),
        name: Some(name.name.clone()),
        uid: name.uid.clone(),
        ..ObjectReference::default()
    };
    match about {
        About::Claim(name) => of("PersistentVolumeClaim", name),
        About::Pod(name) => of("Pod", name),
        About::Node => events::node(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_an_object_with_its_uid() {
        let name = ObjectName {
            namespace: "shop".into(),
            name: "data".into(),
            uid: Some("1-2".into()),
        };
        let about = reference(&About::Claim(name.clone()), "n1");
        assert_eq!(about.kind.as_deref(), Some("PersistentVolumeClaim"));
        assert_eq!(about.uid.as_deref(), Some("1-2"));
        assert_eq!(about.namespace.as_deref(), Some("shop"));
        assert_eq!(
            reference(&About::Pod(name), "n1").kind.as_deref(),
            Some("Pod")
        );
        let node = reference(&About::Node, "n1");
        assert_eq!((node.name, node.namespace), (Some("n1".into()), None));
        assert_eq!(node.uid.as_deref(), Some("n1"));
    }
}
