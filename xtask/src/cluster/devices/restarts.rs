//! Kubelet and agent end at random moments, again and again: the devices are the kubelet's again at once, and no container
//! loses its own.

use super::{
    super::{place::Cluster, processes},
    LIMIT, NODE,
    consumer::{life, mark, stays, who},
    install::{CDI, COUNT, NULL},
    kubelet::{Held, Kubelet, distinct},
    node::{AGENT, Configured, Process, REGISTRATION, anew, born, process},
};
use anyhow::{Context, Result, ensure};
use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// From the moment when both are there until the kubelet has all devices.
const SOON: Duration = Duration::from_secs(2);
/// The moments of a round are within so long.
const SPREAD: Duration = Duration::from_millis(3000);
/// Pods, and what each has.
const PODS: [(&str, &str, usize); 3] = [("r-one", NULL, 1), ("r-two", NULL, 2), ("r-cdi", CDI, 1)];

pub(super) fn run(cluster: &Cluster, rounds: usize, seed: Option<u64>) -> Result<Vec<String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = seed.unwrap_or(u64::from(now.subsec_nanos()));
    println!("        restarts: --seed {seed} has the same moments again");
    let mut chance = Chance(seed);
    let quick = Configured::quick(cluster)?;
    let kubelet = Kubelet::of(cluster, NODE)?;
    kubelet.has(NULL, COUNT)?;
    for (name, resource, count) in PODS {
        stays(name, &[(resource, count)]).run(cluster)?;
        kubelet.given(resource, &who(name))?;
    }
    let before = State::of(cluster, &kubelet)?;
    distinct(&before.null)?;
    let mut times = Vec::new();
    for round in 1..=rounds {
        let took = end_both(cluster, &kubelet, &before, &mut chance)
            .with_context(|| format!("round {round} of {rounds}, --seed {seed}"))?;
        times.push(took);
        if round % 10 == 0 {
            println!("        restarts: {round} of {rounds}, {}", figures(&times));
        }
    }
    // What is left can be had, and nothing else.
    stays("r-last", &[(NULL, 1)]).run(cluster)?;
    kubelet.given(NULL, &who("r-last"))?;
    distinct(&kubelet.held(NULL)?)?;
    quick.end(cluster)?;
    Ok(vec![
        format!(
            "kubelet and agent ended {rounds} times each (-9): all devices are the kubelet's again {} after both were there",
            figures(&times)
        ),
        format!(
            "{} containers run on with their devices open; the kubelet says the same of them; no device is had twice",
            PODS.len()
        ),
    ])
}

/// Ends one and the other, in any order; answers how long it took until all was as before, from the moment when both
/// were there.
fn end_both(
    cluster: &Cluster,
    kubelet: &Kubelet,
    before: &State,
    chance: &mut Chance,
) -> Result<Duration> {
    let (registration, agent) = (born(cluster, REGISTRATION)?, born(cluster, AGENT)?);
    let mut order = ["kubelet", "fairlead"];
    if chance.below(2) == 1 {
        order.reverse();
    }
    for program in order {
        // A moment that nothing else decides: that is what is tried.
        thread::sleep(Duration::from_millis(
            chance.below(u64::try_from(SPREAD.as_millis())?),
        ));
        processes::kill(cluster, NODE, program)?;
    }
    let there = anew(cluster, REGISTRATION, registration)?.max(anew(cluster, AGENT, agent)?);
    let end = Instant::now() + LIMIT;
    // Not `until`, which asks ten times a second; a kubelet answers a hundred times.
    while !kubelet.everything().is_ok_and(|now| now == before.offered) {
        ensure!(
            Instant::now() < end,
            "the kubelet has {:?} of {:?}",
            kubelet.everything(),
            before.offered
        );
        thread::sleep(Duration::from_millis(15));
    }
    let took = SystemTime::now().duration_since(there).unwrap_or_default();
    kubelet.holds(NULL, &before.null)?;
    kubelet.holds(CDI, &before.cdi)?;
    let now = State::of(cluster, kubelet)?;
    ensure!(
        now.lives == before.lives,
        "containers were {:?}, and are {:?}",
        before.lives,
        now.lives
    );
    ensure!(took <= SOON, "it took {took:?}, and {SOON:?} are allowed");
    Ok(took)
}

/// What must be the same after each end.
struct State {
    offered: super::kubelet::Offered,
    null: Held,
    cdi: Held,
    /// Each pod's container, its process and what that has open.
    lives: Vec<(String, u64, Process)>,
}

impl State {
    fn of(cluster: &Cluster, kubelet: &Kubelet) -> Result<Self> {
        let lives = PODS.iter().map(|(name, _, _)| {
            let (id, restarts) = life(cluster, name)?;
            let process = process(&mark(name))?.with_context(|| format!("{name} has ended"))?;
            Ok((id, restarts, process))
        });
        Ok(Self {
            offered: kubelet.everything()?,
            null: kubelet.held(NULL)?,
            cdi: kubelet.held(CDI)?,
            lives: lives.collect::<Result<_>>()?,
        })
    }
}

fn figures(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default().as_millis();
    format!(
        "within {} ms (p50), {} ms (max)",
        at(sorted.len() / 2),
        at(sorted.len().saturating_sub(1))
    )
}

/// Random numbers of a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}
