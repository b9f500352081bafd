//! Calico's policies as they are written (projectcalico.org/v3). What a field lacks here is named by whoever
//! finds it in `rest`.

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) tier: Option<String>,
    pub(super) order: Option<f64>,
    pub(super) selector: Option<String>,
    pub(super) namespace_selector: Option<String>,
    pub(super) types: Vec<String>,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
    pub(super) performance_hints: Option<Value>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rule {
    pub(super) action: String,
    pub(super) protocol: Option<Value>,
    pub(super) source: Entity,
    pub(super) destination: Entity,
    pub(super) metadata: Option<Value>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entity {
    pub(super) selector: Option<String>,
    pub(super) namespace_selector: Option<String>,
    pub(super) nets: Option<Vec<String>>,
    pub(super) ports: Option<Vec<Value>>,
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

impl Entity {
    /// Whether it means everybody.
    pub(super) fn is_anybody(&self) -> bool {
        self.selector.is_none() && self.namespace_selector.is_none() && self.nets.is_none()
    }
}
