//! One look at the node for several resources, on a thread of its own.

use super::{
    found::Findings,
    host::Host,
    inventory::{Item, Offer, Witness, items},
    name::ResourceName,
    plan::Finder,
};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

/// What a look found of one resource.
pub(super) struct Sight {
    pub(super) name: ResourceName,
    pub(super) findings: Findings,
    pub(super) items: Vec<Item>,
}

/// What the node has of these resources, and where changes of it are seen; none: the look ended badly.
pub(super) async fn look(
    host: Arc<Host>,
    offers: Vec<Arc<Offer>>,
) -> Option<(BTreeSet<PathBuf>, Vec<Sight>)> {
    let looked = tokio::task::spawn_blocking(move || {
        let finders = offers.iter().flat_map(|offer| offer.rule.find.clone());
        let finders: Vec<Finder> = finders.collect();
        let folders = host.folders(&finders);
        let sights = offers.iter().map(|offer| sight(&host, offer));
        (folders, sights.collect())
    });
    let failed = |error: &_| tracing::error!(%error, "the look at the node's devices ended badly");
    looked.await.inspect_err(failed).ok()
}

fn sight(host: &Host, offer: &Offer) -> Sight {
    let node = Witness {
        exists: &|path| host.exists(path),
        is_there: &|site| host.is_there(site),
    };
    let mut findings = host.find(&offer.rule.find);
    let found = std::mem::take(&mut findings.found);
    let (items, problems) = items(&offer.rule, found, &offer.items, &node);
    findings.problems.extend(problems);
    Sight {
        name: offer.rule.name.clone(),
        findings,
        items,
    }
}
