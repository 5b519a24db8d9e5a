//! How much CPU time building tables may take.

use std::time::{Duration, Instant};

/// A share of every minute, which can be used at once, and may be overdrawn by
/// the last table that began within it.
#[derive(Debug)]
pub(in crate::unwind) struct CpuBudget {
    per_minute: Duration,
    left: Duration,
    overdrawn: Duration,
    at: Instant,
}

impl CpuBudget {
    pub(in crate::unwind) fn new(per_minute: Duration, now: Instant) -> Self {
        Self {
            per_minute,
            left: per_minute,
            overdrawn: Duration::ZERO,
            at: now,
        }
    }

    /// Whether there is any left.
    pub(in crate::unwind) fn allows(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let share = passed.as_secs_f64().min(60.0) / 60.0;
        let earned = self.per_minute.mul_f64(share);
        let repaid = earned.min(self.overdrawn);
        self.overdrawn -= repaid;
        self.left = (self.left + (earned - repaid)).min(self.per_minute);
        !self.left.is_zero()
    }

    /// Takes off what was used.
    pub(in crate::unwind) fn spend(&mut self, used: Duration, now: Instant) {
        self.allows(now);
        self.overdrawn += used.saturating_sub(self.left);
        self.left = self.left.saturating_sub(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_overdrawn_is_paid_back_first() {
        let seconds = Duration::from_secs;
        let start = Instant::now();
        let mut budget = CpuBudget::new(seconds(20), start);
        budget.spend(seconds(19), start);
        assert!(budget.allows(start));
        budget.spend(seconds(11), start);
        assert!(!budget.allows(start + seconds(29)));
        assert!(budget.allows(start + seconds(31)));
        // A long rest earns one minute's share.
        budget.spend(seconds(21), start + seconds(1000));
        assert!(!budget.allows(start + seconds(1002)));
        assert!(budget.allows(start + seconds(1004)));
    }
}
