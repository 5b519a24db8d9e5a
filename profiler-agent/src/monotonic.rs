//! The kernel programs' clock, CLOCK_MONOTONIC, and its way to UTC.

use rustix::time::{ClockId, clock_gettime};

fn read_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// CLOCK_MONOTONIC in ns, as `bpf_ktime_get_ns` gives it.
pub fn now_ns() -> u64 {
    read_ns(ClockId::Monotonic)
}

/// What to add to a CLOCK_MONOTONIC time to get UTC, fixed for one session so
/// that a clock that is set meanwhile does not tear the session apart.
#[derive(Clone, Copy, Debug)]
pub struct UtcOffset(i64);

impl UtcOffset {
    /// Measures the difference: the tightest of a few readings.
    pub fn measure() -> Self {
        let mut best = (u64::MAX, 0);
        for _ in 0..5 {
            let before = now_ns();
            let utc = read_ns(ClockId::Realtime);
            let after = now_ns();
            let middle = before.midpoint(after);
            best = best.min((after - before, utc.wrapping_sub(middle) as i64));
        }
        Self(best.1)
    }

    /// UTC ns since the epoch.
    pub fn to_utc_ns(self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_is_the_time_of_day() {
        let utc = UtcOffset::measure().to_utc_ns(now_ns());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64;
        assert!(utc.abs_diff(now) < 1_000_000_000, "{utc} against {now}");
    }
}
