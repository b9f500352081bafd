//! From a change of an EndpointSlice to the first new connection that follows it: the API server, the
//! watch, the agent and its maps, and the connection itself are all in it.

use super::{
    Changes,
    rig::{PATHS, Rig, Way},
};
use anyhow::Result;
use std::time::{Duration, Instant};

/// kube-proxy waits a second between its changes: there are fewer of them.
const OF_PROXY: u32 = 10;

/// Turns backends off and on, one Service after the other, on each kind of node.
///
/// # Errors
/// When a change isn't followed.
pub(super) fn measure(rig: &mut Rig, services: u32, changes: u32) -> Result<Vec<Changes>> {
    let ways = PATHS
        .into_iter()
        .filter(|way| matches!(way, Way::Proxy(_) | Way::Packets));
    let mut all = Vec::new();
    for way in ways {
        let (count, pause) = match way {
            Way::Proxy(_) => (changes.min(OF_PROXY), Duration::from_millis(5)),
            _ => (changes, Duration::from_micros(200)),
        };
        let ours = way == Way::Packets;
        rig.freeze_proxies(ours)?;
        let mut millis = Vec::new();
        for turn in 0..count {
            let service = (turn / 2 * 7919 + 1) % services;
            // First off, then on again.
            let answers = turn % 2 == 1;
            millis.push(one(rig, way, service, answers, pause)?);
        }
        all.push(Changes {
            path: way.name(),
            millis,
        });
        rig.freeze_proxies(false)?;
        if count % 2 == 1 {
            rig.point((count / 2 * 7919 + 1) % services, true)?;
        }
    }
    Ok(all)
}

fn one(rig: &mut Rig, way: Way, service: u32, answers: bool, pause: Duration) -> Result<f64> {
    // It is as it was when the client begins to look.
    rig.until(way, service, !answers, pause)?;
    let begin = Instant::now();
    rig.point(service, answers)?;
    let seen = rig.until(way, service, answers, pause)?;
    Ok((seen - begin).as_secs_f64() * 1e3)
}
