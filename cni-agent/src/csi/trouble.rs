//! PURE: what an operator must know of volumes, each once: a pool that fills, volumes that are not well. What was told is
//! told again only after it had been better for a while.

use super::{
    health::Illness,
    id::VolumeId,
    records::{ObjectName, Volume},
};
use std::collections::{BTreeMap, BTreeSet};

/// Percent of the pool: with less free it is nearly full, with more than the second it is not any more.
const LITTLE: u64 = 10;
const ENOUGH: u64 = 15;
/// Of what is promised so much, in percent, has to be free before it is told anew that it is not.
const AGAIN: u64 = 105;

/// Whom something is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    Node,
    Claim(ObjectName),
    Pod(ObjectName),
}

/// Something that an operator must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) about: About,
    pub(super) reason: &'static str,
    pub(super) note: String,
}

/// How the pool and its volumes are at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) promised: u64,
    /// Those that are not well.
    pub(super) ill: Vec<(Volume, Vec<Illness>)>,
}

/// What has been told and still is so.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    little: bool,
    over: bool,
    ill: BTreeMap<VolumeId, BTreeSet<&'static str>>,
}

impl Told {
    /// What is new.
    pub(super) fn news(&mut self, seen: &Seen) -> Vec<Trouble> {
        let mut news = Vec::new();
        let percent = |of: u64, part: u64| u64::try_from(u128::from(of) * u128::from(part) / 100);
        let of = |of, part| percent(of, part).unwrap_or(u64::MAX);
        if seen.free < of(seen.total, LITTLE) && !self.little {
            self.little = true;
            news.push(Trouble {
                about: About::Node,
                reason: "VolumePoolNearlyFull",
                note: format!(
                    "the pool of volumes has {} of {} bytes free: delete snapshots and volumes that nobody needs, or add room; `fairlead volume usage` shows what has it",
                    seen.free, seen.total
                ),
            });
        }
        self.little &= seen.free < of(seen.total, ENOUGH);
        if seen.promised > seen.free && !self.over {
            self.over = true;
            news.push(Trouble {
                about: About::Node,
                reason: "VolumePoolOverPromised",
                note: format!(
                    "{} bytes are promised to volumes and snapshots, and {} are free: if what they share is written anew, writes fail in volumes; delete snapshots, or add room; `fairlead volume usage` shows what is promised",
                    seen.promised, seen.free
                ),
            });
        }
        self.over &= seen.free < of(seen.promised, AGAIN);
        let mut ill = BTreeMap::new();
        for (volume, illnesses) in &seen.ill {
            let reasons: BTreeSet<&'static str> =
                illnesses.iter().map(|illness| illness.reason()).collect();
            let before = self.ill.get(&volume.id);
            for illness in illnesses {
                let reason = illness.reason();
                if before.is_none_or(|before| !before.contains(reason)) {
                    news.push(unwell(volume, *illness));
                }
            }
            ill.insert(volume.id.clone(), reasons);
        }
        self.ill = ill;
        news
    }
}

fn unwell(volume: &Volume, illness: Illness) -> Trouble {
    Trouble {
        about: about(volume),
        reason: match illness {
            Illness::ReadOnly => "VolumeReadOnly",
            Illness::DeviceGone | Illness::BackendGone => "VolumeInaccessible",
            Illness::FileGone | Illness::FileShort => "VolumeDamaged",
            Illness::NoLimit | Illness::TooLarge | Illness::Subvolumes | Illness::Unthrottled => {
                "VolumeUnbounded"
            }
        },
        note: format!("volume {}: {}", volume.id, illness.message()),
    }
}

/// Whom trouble with a volume is about: its claim, else the pod that has it, else the node.
pub(super) fn about(volume: &Volume) -> About {
    let pod = || volume.targets.values().find_map(|at| at.pod.clone());
    match (&volume.claim, pod()) {
        (Some(claim), _) => About::Claim(claim.clone()),
        (None, Some(pod)) => About::Pod(pod),
        (None, None) => About::Node,
    }
}

/// Files that nobody remembers.
pub(super) fn strangers(names: &[String]) -> Option<Trouble> {
    const MOST: usize = 5;
    let first = names.get(..MOST.min(names.len()))?;
    let more = match names.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!first.is_empty()).then(|| Trouble {
        about: About::Node,
        reason: "StrangersInVolumePool",
        note: format!(
            "nobody remembers {}{more} in the pool of volumes; they stay: look at them with `fairlead volume check`, and remove them by hand",
            first.join(", ")
        ),
    })
}

/// A volume that could not be made larger.
pub(super) fn refused(volume: &Volume, why: &str) -> Trouble {
    Trouble {
        about: about(volume),
        reason: "VolumeExpansionRefused",
        note: format!("volume {} can't be expanded: {why}", volume.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::{
        records::{Phase, Target},
        request::{Access, Capability, Mode},
    };

    fn volume(claim: Option<&str>) -> Volume {
        Volume {
            phase: Phase::Ready,
            claim: claim.map(name),
            ..Volume::new(VolumeId::random().unwrap(), "pvc-1", 1)
        }
    }

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: "shop".into(),
            name: name.into(),
            uid: None,
        }
    }

    fn reasons(told: &mut Told, seen: &Seen) -> Vec<&'static str> {
        told.news(seen).iter().map(|news| news.reason).collect()
    }

    #[test]
    fn a_pool_that_fills_is_told_once_until_it_has_had_room_again() {
        let mut told = Told::default();
        let free = |free| Seen {
            total: 1000,
            free,
            ..Seen::default()
        };
        for (left, expected) in [
            (500, &[][..]),
            (99, &["VolumePoolNearlyFull"]),
            (98, &[]),
            // To and fro about the limit.
            (101, &[]),
            (99, &[]),
            (150, &[]),
            (99, &["VolumePoolNearlyFull"]),
        ] {
            assert_eq!(reasons(&mut told, &free(left)), expected, "{left}");
        }
    }

    #[test]
    fn more_promised_than_there_is_is_told_once_until_it_is_met() {
        let mut told = Told::default();
        let promised = |promised, free| Seen {
            total: 1000,
            free,
            promised,
            ..Seen::default()
        };
        for (of, free, expected) in [
            (500, 500, &[][..]),
            (501, 500, &["VolumePoolOverPromised"]),
            (500, 501, &[]),
            (501, 500, &[]),
            (400, 500, &[]),
            (501, 500, &["VolumePoolOverPromised"]),
        ] {
            assert_eq!(reasons(&mut told, &promised(of, free)), expected);
        }
    }

    #[test]
    fn each_illness_of_a_volume_is_told_once_and_to_whom_it_concerns() {
        let mut told = Told::default();
        let claimed = volume(Some("data"));
        let seen = |ill: &[Illness]| Seen {
            ill: vec![(claimed.clone(), ill.to_vec())],
            ..Seen::default()
        };
        let first = told.news(&seen(&[Illness::ReadOnly]));
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].about, About::Claim(name("data")));
        assert_eq!(first[0].reason, "VolumeReadOnly");
        assert!(first[0].note.contains(claimed.id.as_str()), "{first:?}");
        let both = [Illness::ReadOnly, Illness::FileGone];
        assert_eq!(reasons(&mut told, &seen(&both)), ["VolumeDamaged"]);
        assert_eq!(reasons(&mut told, &Seen::default()), [""; 0]);
        assert_eq!(reasons(&mut told, &seen(&both)).len(), 2);
    }

    #[test]
    fn trouble_is_about_the_claim_else_the_pod_else_the_node() {
        let mut inline = volume(None);
        assert_eq!(about(&inline), About::Node);
        let target = Target {
            capability: Capability {
                access: Access::Block,
                mode: Mode::Writers,
            },
            readonly: false,
            pod: Some(name("web-0")),
        };
        inline.targets.insert("/at".into(), target);
        assert_eq!(about(&inline), About::Pod(name("web-0")));
        inline.claim = Some(name("data"));
        assert_eq!(about(&inline), About::Claim(name("data")));
    }

    #[test]
    fn strangers_are_named_the_first_of_them() {
        assert_eq!(strangers(&[]), None);
        let names: Vec<String> = (0..7).map(|n| format!("vol-{n}")).collect();
        let note = strangers(&names).unwrap().note;
        assert!(note.contains("vol-4 and 2 more"), "{note}");
        assert!(!note.contains("vol-5"), "{note}");
    }
}
