//! RIM: the claims that are prepared, on the disk: what the kubelet was answered, to be answered again, and the CDI
//! specification of each for the container runtime. The kubelet may ask another process than the one that prepared them.

use super::claim::{Given, Wanted};
use crate::device::{
    cdi::{self, Spec},
    kept,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// A claim that is prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Prepared {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The machine's start in which it was: what a device is called may differ in another.
    pub(super) boot: String,
    pub(super) given: Vec<Given>,
    pub(super) spec: Option<Spec>,
}

impl Prepared {
    /// Whether it is what is wanted now, and may be answered again.
    pub(super) fn is_for(&self, wanted: &[Wanted], boot: &str) -> bool {
        let given = self.given.iter().map(|given| &given.wanted);
        self.boot == boot && given.eq(wanted)
    }
}

/// What is on the disk: claims by their uids.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    claims: BTreeMap<String, Prepared>,
}

/// All of them. Every function that writes waits for the disk.
#[derive(Debug)]
pub(super) struct Claims {
    file: PathBuf,
    cdi_dir: PathBuf,
    boot: String,
    kept: Kept,
    /// Names of devices that claims have.
    held: watch::Sender<Arc<BTreeSet<String>>>,
}

impl Claims {
    /// Those that an earlier agent prepared. What it left of others is removed.
    pub(super) fn open(state_dir: &Path, cdi_dir: &Path) -> Self {
        let file = state_dir.join("dra-claims.json");
        let read = kept::read::<Kept>(&file);
        let is_known = match &read {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(
                    file = %file.display(),
                    %error,
                    "prepared claims can't be read: they are prepared again when the kubelet asks"
                );
                false
            }
            _ => true,
        };
        let this = Self {
            file,
            cdi_dir: cdi_dir.to_owned(),
            boot: kept::boot(),
            kept: read.unwrap_or_default(),
            held: watch::Sender::default(),
        };
        this.tell();
        // Containers that run may be started again with what nobody knows of now.
        if is_known && let Err(error) = this.restore() {
            tracing::warn!(%error, folder = %cdi_dir.display(), "CDI specifications of claims can't be put right");
        }
        this
    }

    /// Has the folder hold the specifications of these claims alone. After a start of the machine the kubelet has each
    /// prepared again.
    fn restore(&self) -> io::Result<()> {
        let uids = self.kept.claims.keys().map(String::as_str).collect();
        cdi::keep_claims(&self.cdi_dir, &uids)?;
        for (uid, prepared) in &self.kept.claims {
            if prepared.boot == self.boot {
                self.describe(uid, prepared)?;
            }
        }
        Ok(())
    }

    /// Which start of the machine this is.
    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.claims.is_empty()
    }

    /// Names of devices that claims have, from now on.
    pub(super) fn held(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.held.subscribe()
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Prepared> {
        self.kept.claims.get(uid)
    }

    /// Another claim that has a device for itself, with its uid.
    pub(super) fn holder(&self, device: &str, uid: &str) -> Option<(&str, &Prepared)> {
        let mut others = self.kept.claims.iter().filter(|(other, _)| *other != uid);
        // What was prepared before the machine's start, nobody holds any more.
        let holds = |prepared: &Prepared| {
            let mut given = prepared.given.iter().map(|given| &given.wanted);
            prepared.boot == self.boot && given.any(|of| of.device == device && of.is_alone())
        };
        others
            .find(|(_, prepared)| holds(prepared))
            .map(|(uid, prepared)| (&**uid, prepared))
    }

    /// Keeps one, in place of what was kept of it.
    ///
    /// # Errors
    /// Those of the disk; then nothing is kept.
    pub(super) fn put(&mut self, uid: &str, prepared: Prepared) -> io::Result<()> {
        self.describe(uid, &prepared)?;
        let before = self.kept.claims.insert(uid.to_owned(), prepared);
        if let Err(error) = kept::write(&self.file, &self.kept) {
            match before {
                Some(before) => self.kept.claims.insert(uid.to_owned(), before),
                None => self.kept.claims.remove(uid),
            };
            return Err(error);
        }
        self.tell();
        Ok(())
    }

    /// Has the runtime find what a claim's containers get, also when somebody removed it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn describe(&self, uid: &str, prepared: &Prepared) -> io::Result<()> {
        match &prepared.spec {
            Some(spec) => cdi::write_one(&self.cdi_dir, &cdi::claim_file(uid), spec),
            None => self.forget(uid),
        }
    }

    /// Removes one, also one that isn't known.
    ///
    /// # Errors
    /// Those of the disk; it is kept until it can be removed.
    pub(super) fn remove(&mut self, uid: &str) -> io::Result<()> {
        self.forget(uid)?;
        let Some(before) = self.kept.claims.remove(uid) else {
            return Ok(());
        };
        if let Err(error) = kept::write(&self.file, &self.kept) {
            self.kept.claims.insert(uid.to_owned(), before);
            return Err(error);
        }
        self.tell();
        Ok(())
    }

    fn forget(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.cdi_dir.join(cdi::claim_file(uid))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn tell(&self) {
        let claims = self.kept.claims.values();
        let given = claims.flat_map(|prepared| &prepared.given);
        let held = given.map(|given| given.wanted.device.clone()).collect();
        self.held.send_replace(Arc::new(held));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(device: &str) -> Prepared {
        Prepared {
            namespace: "shop".to_owned(),
            name: "claim".to_owned(),
            boot: kept::boot(),
            given: vec![Given {
                wanted: Wanted {
                    request: "one".to_owned(),
                    device: device.to_owned(),
                    ..Wanted::default()
                },
                cdi: vec!["x/y=z".to_owned()],
            }],
            spec: None,
        }
    }

    fn open(folder: &Path) -> Claims {
        Claims::open(&folder.join("state"), &folder.join("cdi"))
    }

    #[test]
    fn what_is_kept_is_there_after_a_start_and_what_is_removed_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut claims = open(folder.path());
        assert!(claims.is_empty());
        claims.put("a", prepared("d1")).unwrap();
        claims.put("b", prepared("d2")).unwrap();
        claims.remove("a").unwrap();
        claims.remove("a").unwrap();
        let claims = open(folder.path());
        assert_eq!(claims.get("a"), None);
        assert_eq!(claims.get("b"), Some(&prepared("d2")));
        assert!(claims.held().borrow().iter().eq(["d2"]));
    }

    #[test]
    fn a_device_has_a_holder_until_its_claim_is_removed_or_the_machine_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut claims = open(folder.path());
        claims.put("a", prepared("d1")).unwrap();
        assert!(claims.holder("d1", "b").is_some());
        assert!(claims.holder("d1", "a").is_none(), "itself");
        assert!(claims.holder("d2", "b").is_none());
        let earlier = Prepared {
            boot: "earlier".to_owned(),
            ..prepared("d1")
        };
        claims.put("a", earlier).unwrap();
        assert!(claims.holder("d1", "b").is_none());
        let mut shared = prepared("d1");
        shared.given[0].wanted.share = Some("s".to_owned());
        claims.put("a", shared).unwrap();
        assert!(claims.holder("d1", "b").is_none());
    }

    #[test]
    fn what_nobody_keeps_is_removed_at_the_start_unless_nothing_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let cdi = folder.path().join("cdi");
        fs::create_dir_all(&cdi).unwrap();
        let names = ["fairlead-claim-x.json", "fairlead-claim-y.new"];
        let others = ["vendor.json", "fairlead-device-1.json"];
        for name in names.iter().chain(&others) {
            fs::write(cdi.join(name), "{}").unwrap();
        }
        fs::create_dir_all(folder.path().join("state")).unwrap();
        fs::write(folder.path().join("state/dra-claims.json"), "{").unwrap();
        drop(open(folder.path()));
        assert!(names.iter().all(|name| cdi.join(name).exists()));
        fs::remove_file(folder.path().join("state/dra-claims.json")).unwrap();
        drop(open(folder.path()));
        assert!(!names.iter().any(|name| cdi.join(name).exists()));
        assert!(others.iter().all(|name| cdi.join(name).exists()));
    }
}
