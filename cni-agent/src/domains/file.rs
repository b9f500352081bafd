//! RIM: what names had, over a restart: what is allowed by a name is enforced before anybody has been asked.

use crate::private_file;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
};

const VERSION: u32 = 1;

/// A file in the folder of the state.
#[derive(Clone, Debug)]
pub struct DomainsFile(PathBuf);

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    names: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl DomainsFile {
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What was written last; nothing if it can't be read: then it is asked for.
    pub(super) fn read(&self) -> BTreeMap<String, BTreeSet<IpAddr>> {
        let read = fs::read(&self.0)
            .and_then(|bytes| serde_json::from_slice::<Content>(&bytes).map_err(io::Error::from));
        match read {
            Ok(content) if content.version == VERSION => content.names,
            Ok(_) => BTreeMap::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(%error, file = %self.0.display(), "addresses of names are asked for anew");
                BTreeMap::new()
            }
        }
    }

    /// Writes it whole.
    pub(super) fn write(&self, names: &BTreeMap<String, BTreeSet<IpAddr>>) -> io::Result<()> {
        let fresh = self.0.with_extension("tmp");
        let mut file = private_file::create(&fresh)?;
        let content = Content {
            version: VERSION,
            names: names.clone(),
        };
        file.write_all(&serde_json::to_vec(&content)?)?;
        // It may be lost with the power: then names are asked for.
        fs::rename(fresh, &self.0)
    }
}
