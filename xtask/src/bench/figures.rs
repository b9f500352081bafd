//! The figures of the bench: which load gives which, what is better, and the aims.

use super::{paths::Place, stats::Estimate, worker::Measured};
use crate::lab::load::Load;

/// A figure of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    Tcp1,
    Tcp8,
    Trip1P50,
    Trip1P99,
    Trip1kP50,
    Trip1kP99,
    Connects,
    Datagrams,
    CpuPerGb,
    CpuPerPacket,
}

/// What a result means for an aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The whole interval is within the aim.
    Met,
    /// The aim is to be no worse than the limit, and the interval contains 1: no loss is shown, which
    /// a wide interval does not show either.
    NoDifference,
    /// The interval contains the aim's bound: the estimate alone says on which side.
    Open { within: bool },
    /// The whole interval is outside.
    NotMet,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::NoDifference => "met: no difference shown",
            Self::Open { within: true } => "met by the estimate, not by the whole interval",
            Self::Open { within: false } => "not met by the estimate, the interval reaches it",
            Self::NotMet => "NOT met",
        })
    }
}

/// The loads in the order they run, with the figures that each gives.
pub(super) const LOADS: [(Load, &[Figure]); 6] = [
    (
        Load::Stream { connections: 1 },
        &[Figure::Tcp1, Figure::CpuPerGb],
    ),
    (Load::Stream { connections: 8 }, &[Figure::Tcp8]),
    (
        Load::RoundTrip { bytes: 1 },
        &[Figure::Trip1P50, Figure::Trip1P99],
    ),
    (
        Load::RoundTrip { bytes: 1024 },
        &[Figure::Trip1kP50, Figure::Trip1kP99],
    ),
    (Load::Connect, &[Figure::Connects]),
    (
        Load::Datagrams { bytes: 32 },
        &[Figure::Datagrams, Figure::CpuPerPacket],
    ),
];

impl Figure {
    /// All figures in the order of the report.
    pub(super) const ALL: [Self; 10] = [
        Self::Tcp1,
        Self::Tcp8,
        Self::Trip1P50,
        Self::Trip1P99,
        Self::Trip1kP50,
        Self::Trip1kP99,
        Self::Connects,
        Self::Datagrams,
        Self::CpuPerGb,
        Self::CpuPerPacket,
    ];

    /// Name and unit.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP 1 stream, Gbit/s",
            Self::Tcp8 => "TCP 8 streams, Gbit/s",
            Self::Trip1P50 => "round trip 1 B p50, µs",
            Self::Trip1P99 => "round trip 1 B p99, µs",
            Self::Trip1kP50 => "round trip 1 KiB p50, µs",
            Self::Trip1kP99 => "round trip 1 KiB p99, µs",
            Self::Connects => "connect+request+close, 1/s",
            Self::Datagrams => "UDP 32 B arriving, 1/s",
            Self::CpuPerGb => "CPU per GB (TCP 1 stream), ms",
            Self::CpuPerPacket => "CPU per UDP packet, µs",
        }
    }

    /// Whether more is better.
    pub(super) fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Tcp1 | Self::Tcp8 | Self::Connects | Self::Datagrams
        )
    }

    /// The figure out of a run of its load.
    pub(super) fn of(self, run: &Measured) -> f64 {
        let outcome = &run.outcome;
        let nanos = run.cpu_nanos as f64;
        let per_unit = nanos / outcome.units.max(1) as f64;
        match self {
            Self::Tcp1 | Self::Tcp8 => outcome.rate() * 8.0 / 1e9,
            Self::Trip1P50 | Self::Trip1kP50 => outcome.p50_us.unwrap_or(f64::NAN),
            Self::Trip1P99 | Self::Trip1kP99 => outcome.p99_us.unwrap_or(f64::NAN),
            Self::Connects | Self::Datagrams => outcome.rate(),
            // Nanoseconds per byte are seconds per GB.
            Self::CpuPerGb => per_unit * 1e3,
            Self::CpuPerPacket => per_unit / 1e3,
        }
    }

    /// The bound that the ratio to the limit is to keep, where there is an aim.
    pub(super) fn aim(self, place: Place) -> Option<f64> {
        let (trip, rate) = match place {
            Place::SameNode => (1.05, 0.95),
            Place::OtherNode => (1.08, 0.92),
        };
        match self {
            Self::Trip1P50 => Some(trip),
            Self::Connects | Self::Datagrams => Some(rate),
            // "No worse than the limit within the interval".
            Self::Tcp1 | Self::Tcp8 | Self::CpuPerGb => Some(1.0),
            _ => None,
        }
    }

    /// What a ratio to the limit means for the aim.
    pub(super) fn verdict(self, place: Place, ratio: &Estimate) -> Option<Verdict> {
        let bound = self.aim(place)?;
        // The end of the interval that is nearer to better, the other end, and the estimate, all
        // turned so that less is better.
        let (best, worst, value, bound) = match self.more_is_better() {
            true => (-ratio.high, -ratio.low, -ratio.value, -bound),
            false => (ratio.low, ratio.high, ratio.value, bound),
        };
        Some(match () {
            () if worst <= bound => Verdict::Met,
            // The aim of these is that no loss is shown.
            () if best <= bound && self.aim(place) == Some(1.0) => Verdict::NoDifference,
            () if best <= bound => Verdict::Open {
                within: value <= bound,
            },
            () => Verdict::NotMet,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(low: f64, value: f64, high: f64) -> Estimate {
        Estimate { value, low, high }
    }

    #[test]
    fn every_figure_comes_from_one_load() {
        let mut given: Vec<_> = LOADS
            .iter()
            .flat_map(|(_, figures)| figures.iter())
            .collect();
        given.sort_unstable();
        assert_eq!(given, Figure::ALL.iter().collect::<Vec<_>>());
    }

    #[test]
    fn an_aim_is_met_only_by_the_whole_interval() {
        let same = |figure: Figure, low, value, high| {
            figure
                .verdict(Place::SameNode, &estimate(low, value, high))
                .unwrap()
        };
        assert_eq!(same(Figure::Trip1P50, 1.01, 1.02, 1.04), Verdict::Met);
        assert_eq!(
            same(Figure::Trip1P50, 1.01, 1.04, 1.09),
            Verdict::Open { within: true }
        );
        assert_eq!(same(Figure::Trip1P50, 1.06, 1.07, 1.09), Verdict::NotMet);
        assert_eq!(same(Figure::Connects, 0.96, 0.97, 0.99), Verdict::Met);
        assert_eq!(
            same(Figure::Connects, 0.90, 0.94, 0.96),
            Verdict::Open { within: false }
        );
        assert_eq!(same(Figure::Connects, 0.80, 0.83, 0.90), Verdict::NotMet);
        assert_eq!(same(Figure::Tcp1, 0.90, 0.97, 1.05), Verdict::NoDifference);
        assert_eq!(same(Figure::Tcp1, 1.01, 1.03, 1.05), Verdict::Met);
        assert_eq!(same(Figure::Tcp1, 0.90, 0.93, 0.97), Verdict::NotMet);
        assert_eq!(same(Figure::CpuPerGb, 1.01, 1.05, 1.09), Verdict::NotMet);
        assert_eq!(Figure::Trip1P99.aim(Place::SameNode), None);
    }
}
