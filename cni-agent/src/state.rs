//! The cluster as it should be: one consistent snapshot that a source publishes and everybody else
//! reads. Level-triggered: a reader that missed some revisions sees the last one, whole.

use crate::model::{EndpointSlice, Node, Pod, Service};
use std::collections::BTreeMap;

/// A snapshot. Readers get it as `Arc<Cluster>` from a watch channel and never see it change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Grows by one whenever the contents change; 0 is the empty cluster before the first read.
    pub revision: u64,
    /// By name.
    pub nodes: BTreeMap<String, Node>,
    /// By namespace and name.
    pub pods: BTreeMap<(String, String), Pod>,
    /// By namespace and name.
    pub services: BTreeMap<(String, String), Service>,
    /// By namespace and name.
    pub slices: BTreeMap<(String, String), EndpointSlice>,
}

impl Cluster {
    /// Whether both hold the same objects, whatever their revisions.
    pub fn same_objects(&self, other: &Self) -> bool {
        self.nodes == other.nodes
            && self.pods == other.pods
            && self.services == other.services
            && self.slices == other.slices
    }
}
