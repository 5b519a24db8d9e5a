//! Histograms of latencies.

/// Counts by powers of two: bucket `i` holds values in `[2^i, 2^(i+1))`, bucket 0 also holds 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Histogram {
    /// The counts; trailing empty buckets may be missing. At most [`Histogram::MAX_BUCKETS`].
    pub buckets: Vec<u64>,
}

impl Histogram {
    /// One bucket for each bit of a `u64`.
    pub const MAX_BUCKETS: usize = 64;

    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        let bucket = value.checked_ilog2().unwrap_or(0) as usize;
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().copied().fold(0, u64::saturating_add)
    }

    /// The bucket that holds the `q`-quantile, as `[low, high)`. None where nothing was counted or
    /// `q` is not in `0..=1`.
    pub fn quantile(&self, q: f64) -> Option<(u64, u64)> {
        if !(0.0..=1.0).contains(&q) {
            return None;
        }
        let total: u128 = self.buckets.iter().map(|&count| u128::from(count)).sum();
        // The rank of the value asked for, from 1.
        let rank = ((q * total as f64).ceil() as u128).clamp(1, total.max(1));
        let mut seen = 0_u128;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            seen += u128::from(count);
            if seen >= rank {
                return Some(bounds(bucket));
            }
        }
        None
    }
}

fn bounds(bucket: usize) -> (u64, u64) {
    let power = |exponent: usize| {
        u32::try_from(exponent)
            .ok()
            .and_then(|exponent| 1_u64.checked_shl(exponent))
            .unwrap_or(u64::MAX)
    };
    let low = if bucket == 0 { 0 } else { power(bucket) };
    (low, power(bucket.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_powers_of_two() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 1023, 1024, u64::MAX] {
            histogram.add(value);
        }
        assert_eq!(histogram.buckets[..3], [2, 2, 1]);
        assert_eq!((histogram.buckets[9], histogram.buckets[10]), (1, 1));
        assert_eq!(histogram.buckets.len(), Histogram::MAX_BUCKETS);
        assert_eq!(histogram.total(), 8);
    }

    #[test]
    fn quantiles_are_buckets() {
        let histogram = Histogram {
            buckets: vec![0, 0, 90, 9, 1],
        };
        assert_eq!(histogram.quantile(0.0), Some((4, 8)));
        assert_eq!(histogram.quantile(0.5), Some((4, 8)));
        assert_eq!(histogram.quantile(0.9), Some((4, 8)));
        assert_eq!(histogram.quantile(0.99), Some((8, 16)));
        assert_eq!(histogram.quantile(1.0), Some((16, 32)));
        assert_eq!(histogram.quantile(1.1), None);
        assert_eq!(histogram.quantile(f64::NAN), None);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn huge_counts_do_not_overflow() {
        let mut histogram = Histogram {
            buckets: vec![u64::MAX; Histogram::MAX_BUCKETS],
        };
        histogram.merge(&histogram.clone());
        assert_eq!(histogram.total(), u64::MAX);
        assert_eq!(histogram.quantile(1.0), Some((1 << 63, u64::MAX)));
    }
}
