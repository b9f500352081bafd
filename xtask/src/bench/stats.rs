//! Medians, percentiles, and ratios with a bootstrap interval.

use std::fmt;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 5_000;

/// An estimate with its 95 % interval.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Estimate {
    /// Whether the interval of a ratio contains 1: then no difference is shown.
    pub(crate) fn contains_one(&self) -> bool {
        self.low <= 1.0 && 1.0 <= self.high
    }
}

/// The value and its interval, with three digits or as many as the format asks for.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, low, high } = self;
        let digits = f.precision().unwrap_or(3);
        write!(f, "{value:.digits$} ({low:.digits$}–{high:.digits$})")
    }
}

/// The value that `percent` of the values do not exceed; NaN of nothing.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = last as f64 * percent / 100.0;
    match (
        sorted.get(at.floor() as usize),
        sorted.get(at.ceil() as usize),
    ) {
        (Some(below), Some(above)) => below + (above - below) * at.fract(),
        _ => f64::NAN,
    }
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The median of the ratios of values measured side by side, one pair a round; the rounds are
/// resampled. Noise that lasts longer than a round falls out of each ratio.
pub(crate) fn paired_ratio(values: &[f64], reference: &[f64]) -> Estimate {
    let ratios: Vec<_> = values.iter().zip(reference).map(|(a, b)| a / b).collect();
    let mut random = Random::new();
    bootstrap(median(&ratios), || median(&random.resample(&ratios)))
}

/// The ratio of one percentile of two sets of values that were measured in turns, a block of each at
/// a time. Values of one block share its noise (and those of calls made together each other's), so
/// whole blocks are resampled, both sides' together.
pub(crate) fn percentile_ratio(
    blocks: &[Vec<f64>],
    reference: &[Vec<f64>],
    percent: f64,
) -> Estimate {
    let pairs: Vec<_> = blocks.iter().zip(reference).collect();
    let ratio = |pairs: &[(&Vec<f64>, &Vec<f64>)]| {
        let ours: Vec<_> = pairs.iter().flat_map(|(a, _)| a.iter().copied()).collect();
        let theirs: Vec<_> = pairs.iter().flat_map(|(_, b)| b.iter().copied()).collect();
        percentile(&ours, percent) / percentile(&theirs, percent)
    };
    let mut random = Random::new();
    bootstrap(ratio(&pairs), || ratio(&random.resample(&pairs)))
}

fn bootstrap(value: f64, mut draw: impl FnMut() -> f64) -> Estimate {
    let draws: Vec<_> = (0..RESAMPLES).map(|_| draw()).collect();
    Estimate {
        value,
        low: percentile(&draws, 2.5),
        high: percentile(&draws, 97.5),
    }
}

/// A small generator with a fixed seed: the same figures give the same interval.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }

    /// Xorshift*, ample for choosing rounds.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn resample<T: Copy>(&mut self, values: &[T]) -> Vec<T> {
        (0..values.len())
            .map(|_| values[self.next() as usize % values.len()])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_shown_with_as_many_digits_as_are_asked_for() {
        let [value, low, high] = [0.9876, 0.9, 1.0514];
        let estimate = Estimate { value, low, high };
        assert_eq!(estimate.to_string(), "0.988 (0.900–1.051)");
        assert_eq!(format!("{estimate:.2}"), "0.99 (0.90–1.05)");
    }

    #[test]
    fn percentiles_lie_between_the_values() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&values), 2.5);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&values, 100.0), 4.0);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn a_clear_difference_excludes_one_and_pure_noise_contains_it() {
        let mut random = Random::new();
        let mut noisy = |scale: f64| -> Vec<f64> {
            (0..20)
                .map(|_| scale * (1.0 + (random.next() % 100) as f64 / 1000.0))
                .collect()
        };
        let (a, b, c) = (noisy(1.0), noisy(1.0), noisy(1.5));
        assert!(paired_ratio(&a, &b).contains_one());
        let clear = paired_ratio(&c, &b);
        assert!(clear.low > 1.3 && clear.high < 1.7, "{clear:?}");
        assert!(clear.low <= clear.value && clear.value <= clear.high);
        let blocks = |values: &[f64]| values.chunks(4).map(<[f64]>::to_vec).collect::<Vec<_>>();
        assert!(percentile_ratio(&blocks(&c), &blocks(&b), 99.0).low > 1.2);
    }

    #[test]
    fn one_bad_block_widens_the_interval_of_a_percentile() {
        let reference = vec![vec![10.0; 20]; 10];
        let mut ours = vec![vec![1.0; 20]; 10];
        ours[3] = vec![9.0; 20];
        let ratio = percentile_ratio(&ours, &reference, 99.0);
        assert!((ratio.value - 0.9).abs() < 1e-9, "{ratio:?}");
        // Without that block, which a third of the resamples lack, all is a tenth.
        assert!((ratio.low - 0.1).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn drift_common_to_a_round_falls_out() {
        let reference = [1.0, 5.0, 2.0, 9.0, 4.0];
        let values: Vec<_> = reference.iter().map(|value| value * 0.9).collect();
        let ratio = paired_ratio(&values, &reference);
        assert!((ratio.value - 0.9).abs() < 1e-9 && (ratio.high - ratio.low) < 1e-9);
    }
}
