//! Whether a capture is what was asked for.

use profiler_proto::{Capture, EndReason, EventLedger};

use crate::error::exit;
use crate::text;

/// The share missing above which an event, and so the capture, is partial.
const TOLERATED: f64 = 0.01;

/// Fewer measurements than this may be missing of a short capture whatever their share is: the clock that tells
/// how many ticks to expect and the one that makes them are not the same.
const TOLERATED_COUNT: u64 = 10;

/// What the exit code and the summary say about a whole capture.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Of what there was to measure of an event, how much was delivered; of the worst event, which has 0 if
    /// it was not measured.
    pub(crate) coverage_percent: f64,
    /// One sentence for each reason why it is not complete.
    pub(crate) reasons: Vec<String>,
    below_coverage: bool,
}

impl Verdict {
    /// Judges a capture.
    pub(crate) fn of(capture: &Capture, min_coverage: Option<f64>) -> Self {
        let mut reasons = Vec::new();
        let missing = missing_events(capture);
        if !missing.is_empty() {
            reasons.push(format!(
                "partial: {} could not be measured",
                missing.join(" and ")
            ));
        }
        for ledger in capture.ledger.events.iter().filter(|l| falls_short(l)) {
            let percent = text::share(100.0 * ledger.missing_share());
            reasons.push(format!(
                "partial: {percent} of {} was lost or left out, see the ledger",
                ledger.event
            ));
        }
        if capture.facts.end_reason == EndReason::Shutdown {
            reasons.push("partial: the agent was shut down before the end".to_owned());
        }
        let coverage_percent = coverage(capture);
        let wanted = min_coverage.filter(|wanted| coverage_percent < *wanted);
        if let Some(wanted) = wanted {
            let coverage = text::share(coverage_percent);
            reasons.push(format!(
                "coverage is {coverage}, below the {wanted} % asked for"
            ));
        }
        Self {
            coverage_percent,
            reasons,
            below_coverage: wanted.is_some(),
        }
    }

    /// For programs.
    pub(crate) fn name(&self) -> &'static str {
        match self.exit_code() {
            exit::COMPLETE => "complete",
            exit::PARTIAL => "partial",
            _ => "below-coverage",
        }
    }

    /// As `profiler --help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.below_coverage {
            exit::BELOW_COVERAGE
        } else if self.reasons.is_empty() {
            exit::COMPLETE
        } else {
            exit::PARTIAL
        }
    }
}

/// Whether so much of an event is missing that it is partial: more than 1 % was lost, or, counting what the
/// kernel left out too, more than 1 % and at least 10.
pub(crate) fn falls_short(ledger: &EventLedger) -> bool {
    let missing = ledger.lost().saturating_add(ledger.left_out());
    ledger.lost_share() > TOLERATED
        || ledger.missing_share() > TOLERATED && missing >= TOLERATED_COUNT
}

fn missing_events(capture: &Capture) -> Vec<&'static str> {
    let events = capture.facts.spec.events.iter();
    events
        .filter(|event| !capture.facts.event(**event).is_some_and(|f| f.available))
        .map(|event| event.name())
        .collect()
}

fn coverage(capture: &Capture) -> f64 {
    let events = capture.facts.spec.events.iter();
    events
        .map(|event| {
            let available = capture.facts.event(*event).is_some_and(|f| f.available);
            match capture.ledger.event(*event) {
                Some(ledger) if available => 100.0 * (1.0 - ledger.missing_share()),
                _ if available => 100.0,
                _ => 0.0,
            }
        })
        .fold(100.0, f64::min)
}

#[cfg(test)]
mod tests {
    use profiler_proto::{Event, LossReason, SkipReason};

    use super::*;
    use crate::sample_capture;

    #[test]
    fn a_whole_capture_is_complete() {
        let verdict = Verdict::of(&sample_capture::capture(), Some(100.0));
        assert_eq!(verdict.exit_code(), exit::COMPLETE, "{verdict:?}");
        assert_eq!(verdict.name(), "complete");
    }

    #[test]
    fn a_missing_event_is_partial_and_has_no_coverage() {
        let capture = sample_capture::lossy();
        assert_eq!(Verdict::of(&capture, None).exit_code(), exit::PARTIAL);
        let verdict = Verdict::of(&capture, Some(1.0));
        assert_eq!(verdict.exit_code(), exit::BELOW_COVERAGE);
        assert_eq!(verdict.coverage_percent, 0.0);
    }

    #[test]
    fn one_percent_is_tolerated_and_no_more() {
        for (lost, code) in [(10, exit::COMPLETE), (11, exit::PARTIAL)] {
            let mut capture = sample_capture::capture();
            let ledgers = &mut capture.ledger.events;
            let cpu = ledgers.iter_mut().find(|l| l.event == Event::Cpu).unwrap();
            cpu.delivered = 1000 - lost;
            cpu.counted = 1000;
            cpu.losses.insert(LossReason::RingBufferFull, lost);
            assert_eq!(Verdict::of(&capture, None).exit_code(), code);
        }
    }

    #[test]
    fn what_the_kernel_left_out_counts_unless_it_is_little() {
        for (skipped, observed, code) in [
            (9, 100, exit::COMPLETE),
            (10, 100, exit::PARTIAL),
            (10, 1000, exit::COMPLETE),
            (11, 1000, exit::PARTIAL),
            (-100, 1000, exit::COMPLETE),
        ] {
            let mut capture = sample_capture::capture();
            let ledgers = &mut capture.ledger.events;
            let cpu = ledgers.iter_mut().find(|l| l.event == Event::Cpu).unwrap();
            cpu.observed = observed;
            cpu.skipped.insert(SkipReason::Throttled, skipped);
            let verdict = Verdict::of(&capture, None);
            assert_eq!(verdict.exit_code(), code, "{skipped}: {verdict:?}");
            assert_eq!(verdict.coverage_percent < 100.0, skipped > 0);
        }
    }

    #[test]
    fn ticks_that_an_idle_cpu_slept_through_are_not_missing() {
        let mut capture = sample_capture::capture();
        let ledgers = &mut capture.ledger.events;
        let cpu = ledgers.iter_mut().find(|l| l.event == Event::Cpu).unwrap();
        cpu.skipped.insert(SkipReason::TickMissing, 1_000_000);
        assert_eq!(Verdict::of(&capture, None).exit_code(), exit::COMPLETE);
    }
}
