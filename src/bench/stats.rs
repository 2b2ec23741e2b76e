//! Statistics of repetitions, without a guess about how they are distributed: the median with an interval from order
//! statistics, and the rank test of Mann and Whitney for two sets.

use serde::{Deserialize, Serialize};
use sterna_cpu::machine::median;

/// Repetitions of one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The middle value; of an even number of values, the upper of the two.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// Number of values.
    pub n: usize,
    /// Where the median of all possible repetitions lies.
    pub interval: Interval,
    /// The values.
    pub samples: Vec<f64>,
}

/// A confidence interval of a median between two of the sorted values: the narrowest that holds it with a probability of 95 %
/// at least, or all of the range where there are too few values (below six) for that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The probability that the median lies between them: exact for any distribution, if the repetitions are independent.
    pub level: f64,
}

/// What intervals should hold.
const LEVEL: f64 = 0.95;

impl Rate {
    /// Of at least one value.
    pub(super) fn of(samples: &[f64]) -> Rate {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Rate {
            median: median(samples.iter().copied()),
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            n: sorted.len(),
            interval: interval(&sorted),
            samples: samples.to_vec(),
        }
    }
}

/// The interval of the median of sorted values. With `k` values cut off at each end, it misses the median if at most `k` of
/// `n` values lie on one side: a sum of binomial probabilities.
fn interval(sorted: &[f64]) -> Interval {
    let n = sorted.len();
    let mut tail = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut term = tail;
    let mut best = Interval { low: sorted[0], high: sorted[n - 1], level: (1.0 - 2.0 * tail).max(0.0) };
    for k in 1..n.div_ceil(2) {
        term *= (n - k + 1) as f64 / k as f64;
        tail += term;
        if 1.0 - 2.0 * tail < LEVEL {
            break;
        }
        best = Interval { low: sorted[k], high: sorted[n - 1 - k], level: 1.0 - 2.0 * tail };
    }
    best
}

/// Sets of up to so many pairs are compared exactly.
const EXACT_PAIRS: usize = 2500;

/// The two-sided p-value of the rank test of Mann and Whitney: how probable ranks as uneven as these are if both sets come from
/// one distribution. Exact for small sets without ties, else by the normal approximation, corrected for ties and continuity.
/// 1 if a set is empty.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let pairs = a.len() * b.len();
    if pairs == 0 {
        return 1.0;
    }
    let wins = |x: f64| b.iter().map(|&y| if x > y { 1.0 } else { f64::from(u8::from(x == y)) / 2.0 }).sum::<f64>();
    let u: f64 = a.iter().map(|&x| wins(x)).sum();
    let mut all: Vec<f64> = a.iter().chain(b).copied().collect();
    all.sort_by(f64::total_cmp);
    let ties: Vec<usize> = all.chunk_by(|x, y| x == y).map(<[f64]>::len).filter(|&len| len > 1).collect();
    if ties.is_empty() && pairs <= EXACT_PAIRS {
        return exact(a.len(), b.len(), u.min(pairs as f64 - u) as usize);
    }
    let n = all.len() as f64;
    let tied: f64 = ties.iter().map(|&t| (t as f64).powi(3) - t as f64).sum();
    let variance = pairs as f64 / 12.0 * (n + 1.0 - tied / (n * (n - 1.0)));
    let distance = ((u - pairs as f64 / 2.0).abs() - 0.5).max(0.0);
    if variance <= 0.0 { 1.0 } else { libm::erfc(distance / (2.0 * variance).sqrt()) }
}

/// Twice the probability that the smaller of the two counts is at most `u`, by counting all orders of `m` and `n` values.
fn exact(m: usize, n: usize, u: usize) -> f64 {
    // Number of ways that `i` values of the first set and `j` of the second give each count: the largest of all is of the
    // first set and beats all `j`, or is of the second. Divided by the number of orders as it grows, to stay in range.
    let width = m * n + 1;
    let mut rows: Vec<Vec<f64>> = vec![vec![0.0; width]; n + 1];
    rows.iter_mut().for_each(|row| row[0] = 1.0);
    for i in 1..=m {
        let mut next: Vec<Vec<f64>> = vec![vec![0.0; width]; n + 1];
        next[0][0] = 1.0;
        for j in 1..=n {
            let share = i as f64 / (i + j) as f64;
            for count in 0..=i * j {
                let first = if count >= j { rows[j][count - j] } else { 0.0 };
                next[j][count] = share * first + (1.0 - share) * next[j - 1][count];
            }
        }
        rows = next;
    }
    (2.0 * rows[n][..=u].iter().sum::<f64>()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_binomial_distribution() {
        let rate = Rate::of(&[3.0, 1.0, 2.0]);
        assert_eq!((rate.median, rate.min, rate.max, rate.n), (2.0, 1.0, 3.0, 3));
        assert_eq!(rate.interval, Interval { low: 1.0, high: 3.0, level: 0.75 });
        assert_eq!(rate.samples, [3.0, 1.0, 2.0]);
        assert_eq!(Rate::of(&[7.0]).interval, Interval { low: 7.0, high: 7.0, level: 0.0 });
        // Tables of the sign test: of 6 values the range, of 10 the second to the ninth, of 20 the sixth to the fifteenth.
        let of = |n: i32| Rate::of(&(1..=n).map(f64::from).collect::<Vec<_>>()).interval;
        assert_eq!(of(6), Interval { low: 1.0, high: 6.0, level: 0.96875 });
        assert_eq!((of(10).low, of(10).high), (2.0, 9.0));
        assert!((of(10).level - 0.978_515_625).abs() < 1e-12);
        assert_eq!((of(20).low, of(20).high), (6.0, 15.0));
    }

    #[test]
    fn p_values_are_those_of_other_software() {
        // scipy.stats.mannwhitneyu, method="exact".
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
        near(mann_whitney(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]), 2.0 / 252.0);
        near(mann_whitney(&[1.0, 3.0, 5.0], &[2.0, 4.0, 6.0]), 0.7);
        near(mann_whitney(&[1.0, 2.0, 4.0, 9.0], &[3.0, 5.0, 6.0, 7.0, 8.0, 10.0]), 0.257_142_857);
        // method="asymptotic", with ties.
        near(mann_whitney(&[1.0, 2.0, 2.0, 3.0, 4.0], &[2.0, 5.0, 6.0, 6.0, 7.0]), 0.056_237_804);
        assert_eq!(mann_whitney(&[], &[1.0]), 1.0);
        assert_eq!(mann_whitney(&[2.0, 2.0], &[2.0, 2.0]), 1.0);
    }
}
