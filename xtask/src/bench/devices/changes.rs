//! How soon the kubelet's stream says that a device has gone or come: one alone, and a tenth of all at once. And the same
//! tenth, over and over, while calls are made.

use super::{
    Extent,
    kubelet::Known,
    name,
    rig::{Rig, Tree, Who, leaving, number},
    starts::ms,
};
use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Between two changes: longer than two of the agent's pauses between looks, so that each change is seen at once.
const REST: Duration = Duration::from_millis(150);
/// How long a tenth is away, and there again, while calls are made.
const AWAY: Duration = Duration::from_millis(100);

/// What goes and comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Kind {
    One,
    Tenth,
}

/// In the order that they are measured.
pub(super) const KINDS: [Kind; 2] = [Kind::One, Kind::Tenth];

impl Kind {
    pub(super) fn title(self) -> String {
        match self {
            Self::One => "one device".to_owned(),
            Self::Tenth => format!("{} devices at once, the last", leaving().len()),
        }
    }
}

/// Times by rounds, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Told {
    pub(super) kind: Kind,
    pub(super) gone_ms: Vec<Vec<f64>>,
    pub(super) back_ms: Vec<Vec<f64>>,
}

impl Told {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            gone_ms: Vec::new(),
            back_ms: Vec::new(),
        }
    }

    /// One round of it.
    pub(super) fn measure(&mut self, rig: &Rig, extent: Extent) -> Result<()> {
        let all = leaving();
        let samples = match (self.kind, extent.quick) {
            (Kind::One, false) => 20,
            (Kind::Tenth, false) => 3,
            (_, true) => 2,
        };
        let (mut gone, mut back) = (Vec::new(), Vec::new());
        for sample in 0..samples {
            let those = match self.kind {
                // Any but neighbours.
                Kind::One => vec![all[sample * 37 % all.len()]],
                Kind::Tenth => all.clone(),
            };
            for (healthy, times) in [(false, &mut gone), (true, &mut back)] {
                // Not always at the same moment of what the agent does by itself.
                thread::sleep(REST + Duration::from_millis((sample as u64 * 7) % 20));
                times.push(changed(rig, &those, healthy)?);
            }
        }
        self.gone_ms.push(gone);
        self.back_ms.push(back);
        Ok(())
    }
}

/// Changes devices, and waits until the kubelet is told of all; how long that was, in milliseconds.
fn changed(rig: &Rig, those: &[(usize, usize)], healthy: bool) -> Result<f64> {
    let begin = Instant::now();
    for (resource, device) in those {
        match healthy {
            true => rig.tree.come(*resource, *device)?,
            false => rig.tree.go(*resource, *device)?,
        }
    }
    let told = |known: &Known| {
        let mut last = begin;
        for (resource, device) in those {
            let plugin = known.get(&name(*resource))?;
            let mut devices = plugin.devices.iter();
            let (_, is) = devices.find(|(id, _)| number(id) == Some(*device))?;
            if *is != healthy {
                return None;
            }
            last = last.max(plugin.told);
        }
        Some(last)
    };
    let what = format!("{} devices being healthy: {healthy}", those.len());
    Ok(ms(rig.kubelet(Who::Agent).wait(&what, told)? - begin))
}

/// A tenth of the devices that goes and comes until this ends.
pub(super) struct Churn {
    begin: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Churn {
    pub(super) fn start(rig: &Rig) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tree, stopped) = (rig.tree.clone(), stop.clone());
        let thread = thread::Builder::new().name("devices".to_owned());
        let thread = thread.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                once(&tree)?;
            }
            Ok(())
        })?;
        Ok(Self {
            begin: Instant::now(),
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it with all devices there, and looks whether the kubelet was told of changes meanwhile.
    pub(super) fn end(mut self, rig: &Rig) -> Result<()> {
        self.join()?;
        let known = rig.whole(Who::Agent)?;
        let silent = known.values().filter(|one| one.told < self.begin).count();
        ensure!(
            silent == 0,
            "the kubelet was told of no changes of {silent} resources"
        );
        Ok(())
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let ended = thread.join();
        let ended = ended.map_err(|_panic| anyhow!("the thread of devices ended badly"))?;
        ended.context("having devices go and come")
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            eprintln!("clean-up: {error:#}");
        }
    }
}

fn once(tree: &Tree) -> Result<()> {
    for (resource, device) in leaving() {
        tree.go(resource, device)?;
    }
    thread::sleep(AWAY);
    for (resource, device) in leaving() {
        tree.come(resource, device)?;
    }
    thread::sleep(AWAY);
    Ok(())
}
