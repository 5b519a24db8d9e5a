//! Whether a capture is what was asked for.

use profiler_proto::{Capture, EndReason};

use crate::error::exit;
use crate::text;

/// The share lost above which a capture is partial.
const TOLERATED_LOSS: f64 = 0.01;

/// What the exit code and the summary say about a whole capture.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Of what was counted for an event, how much was delivered; of the worst event, which has 0 if it
    /// was not measured.
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
        let lost = capture.ledger.lost_share();
        if lost > TOLERATED_LOSS {
            let percent = text::share(100.0 * lost);
            reasons.push(format!(
                "partial: {percent} of an event was lost, see the ledger"
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
                Some(ledger) if available && ledger.counted > 0 => {
                    text::percent(ledger.delivered, ledger.counted)
                }
                _ if available => 100.0,
                _ => 0.0,
            }
        })
        .fold(100.0, f64::min)
}

#[cfg(test)]
mod tests {
    use profiler_proto::{Event, LossReason};

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
}
