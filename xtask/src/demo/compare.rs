//! Throughput and round trip of Fairlead next to the kernel's plain routing, in turns.

use crate::{
    bench::stats::median,
    lab::{Lab, LabOptions, Pod, Session, Underlay, load::Load, probe::Server, reference},
    table::Table,
};
use anyhow::{Context, Result};
use std::{sync::Arc, time::Duration};

/// Turns of each path: forwards, backwards, forwards, backwards.
const TURNS: u32 = 4;

/// A path from one pod to another.
struct Path<'a> {
    place: &'static str,
    by: &'static str,
    from: &'a Pod,
    to: &'a Pod,
    gbit: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

/// Measures for about `seconds` in all and answers the table. `pods` are Fairlead's, on nodes
/// joined by a bridge, like the reference's; servers run in them.
///
/// # Errors
/// When a path carries nothing.
pub(super) fn compare(
    session: &Arc<Session>,
    lab: &Lab,
    pods: &[Pod],
    pods_per_node: usize,
    seconds: u32,
) -> Result<Table> {
    let options = LabOptions {
        name: "ref",
        nodes: 2,
        underlay: Underlay::Bridge,
    };
    let routed = Lab::new(session, options)?;
    reference::route_nodes(&routed.nodes)?;
    let from = reference::routed_pod(&routed.nodes[0], 0)?;
    let near = reference::routed_pod(&routed.nodes[0], 1)?;
    let far = reference::routed_pod(&routed.nodes[1], 0)?;
    let _servers = [Server::start(&near.ns)?, Server::start(&far.ns)?];

    let mut paths = Vec::new();
    let mut path = |place, by, from, to| {
        paths.push(Path {
            place,
            by,
            from,
            to,
            gbit: vec![],
            p50_us: vec![],
            p99_us: vec![],
        });
    };
    if pods_per_node > 1 {
        path("same node", "kernel routing", &from, &near);
        path("same node", "Fairlead", &pods[0], &pods[1]);
    }
    if lab.nodes.len() > 1 {
        path("other node", "kernel routing", &from, &far);
        path("other node", "Fairlead", &pods[0], &pods[pods_per_node]);
    }
    let runs = TURNS * 2 * u32::try_from(paths.len().max(1))?;
    let time = (Duration::from_secs(seconds.into()) / runs).max(Duration::from_millis(50));
    for turn in 0..TURNS {
        let order: Vec<usize> = match turn % 2 {
            0 => (0..paths.len()).collect(),
            _ => (0..paths.len()).rev().collect(),
        };
        for index in order {
            measure(&mut paths[index], time)?;
        }
    }

    let mut table = Table::new(
        2,
        &["where", "by", "TCP Gbit/s", "round trip p50 µs", "p99 µs"],
    );
    for path in &paths {
        table.row([
            path.place.to_owned(),
            path.by.to_owned(),
            format!("{:.1}", median(&path.gbit)),
            format!("{:.1}", median(&path.p50_us)),
            format!("{:.1}", median(&path.p99_us)),
        ]);
    }
    Ok(table)
}

fn measure(path: &mut Path<'_>, time: Duration) -> Result<()> {
    let target = path.to.addr(false);
    let (stream, trips) = path
        .from
        .ns
        .run(|| {
            Ok((
                Load::Stream { connections: 1 }.run(target, time)?,
                Load::RoundTrip { bytes: 1 }.run(target, time)?,
            ))
        })
        .with_context(|| format!("measuring {} by {}", path.place, path.by))?;
    path.gbit.push(stream.rate() * 8.0 / 1e9);
    path.p50_us.extend(trips.p50_us);
    path.p99_us.extend(trips.p99_us);
    Ok(())
}
