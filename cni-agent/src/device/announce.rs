//! Says what there is to others than the kubelet: to people who ask, and to what serves claims.

use super::{
    dra::{Looked, Offers},
    name::ResourceName,
    plan::Serve,
    resource::Resource,
    slot::{Shown, ShownResource},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// Where it is said.
pub(super) struct Announcer {
    pub(super) shown: watch::Sender<Arc<Shown>>,
    /// What claims may have.
    pub(super) claimable: watch::Sender<Looked>,
}

impl Announcer {
    /// What claims may have from now on.
    pub(super) fn offer_to_claims(&self, resources: &BTreeMap<ResourceName, Resource>) {
        let offers = resources.iter().map(|(name, of)| {
            let offer = of.offers.borrow().clone();
            (name.clone(), offer)
        });
        let claimable: Offers = offers
            .filter(|(_, offer)| offer.rule.serve == Serve::Dra)
            .collect();
        self.claimable.send_if_modified(|told| {
            let is_news = told.as_ref().is_none_or(|told| !same(told, &claimable));
            if is_news {
                *told = Some(Arc::new(claimable));
            }
            is_news
        });
    }

    /// What people are shown from now on: beside the resources faults in the configuration, and what is not seen at once.
    pub(super) fn show(
        &self,
        resources: &BTreeMap<ResourceName, Resource>,
        problems: &[String],
        warnings: &[String],
    ) {
        let resources = resources.iter().map(|(name, of)| {
            let shown = ShownResource {
                offers: of.offers.subscribe(),
                findings: of.findings.clone(),
                standing: of.standing.clone(),
            };
            (name.clone(), shown)
        });
        self.shown.send_replace(Arc::new(Shown {
            resources: resources.collect(),
            problems: problems.to_vec(),
            warnings: warnings.to_vec(),
        }));
    }
}

/// Whether nothing of it was made anew.
fn same(one: &Offers, other: &Offers) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((name, one), (of, other))| name == of && Arc::ptr_eq(one, other))
}
