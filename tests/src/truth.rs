//! What a workload says it did, cut to the window of a capture.

use std::path::Path;

use anyhow::{Context, Result};
use profiler_proto::Capture;
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::Deserialize;

/// What a workload recorded.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    /// Its process id.
    pub pid: u32,
    threads: Vec<ThreadTruth>,
}

#[derive(Clone, Debug, Deserialize)]
struct ThreadTruth {
    tid: u32,
    comm: String,
    spans: Vec<Span>,
}

/// One piece of work or one wait.
#[derive(Clone, Debug, Deserialize)]
struct Span {
    name: String,
    start_ns: u64,
    end_ns: u64,
    cpu_ns: u64,
    runnable_ns: u64,
    bytes: u64,
}

/// A stretch of time, nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its begin.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
}

/// Spans of one name in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// How many lie in the window whole.
    pub whole: u64,
    /// Bytes of those that end in the window.
    pub bytes: u64,
    /// How long they took, nanoseconds; spans on the edge in part.
    pub wall_ns: f64,
    /// CPU time in them.
    pub cpu_ns: f64,
    /// Waiting for a CPU in them.
    pub runnable_ns: f64,
}

impl Sum {
    /// Neither running nor waiting for a CPU, nanoseconds.
    pub fn blocked_ns(&self) -> f64 {
        self.wall_ns - self.cpu_ns - self.runnable_ns
    }
}

impl Window {
    /// The window of a capture. Captures are in UTC, workloads in CLOCK_MONOTONIC: read soon after the
    /// capture, before the clocks drift apart.
    pub fn of(capture: &Capture) -> Self {
        let utc = nanoseconds(clock_gettime(ClockId::Realtime));
        let monotonic = nanoseconds(clock_gettime(ClockId::Monotonic));
        let to_monotonic = |ns: u64| ns.saturating_sub(utc.saturating_sub(monotonic));
        Self {
            start_ns: to_monotonic(capture.facts.start_ns),
            end_ns: to_monotonic(capture.facts.end_ns),
        }
    }

    /// Now, on the clock of windows.
    pub fn now_ns() -> u64 {
        nanoseconds(clock_gettime(ClockId::Monotonic))
    }

    /// Its length.
    pub fn length_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    /// The part of a span that lies in the window, 0 to 1.
    fn part_of(&self, span: &Span) -> f64 {
        let length = span.end_ns.saturating_sub(span.start_ns);
        let end = self.end_ns.min(span.end_ns);
        let inside = end.saturating_sub(self.start_ns.max(span.start_ns));
        if length == 0 {
            0.0
        } else {
            inside as f64 / length as f64
        }
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

impl Truth {
    /// Reads the file that a workload wrote.
    ///
    /// # Errors
    /// Fails where it is not there or cannot be understood.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the workload wrote no {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The thread id of the thread with a name.
    ///
    /// # Errors
    /// Fails where there is none.
    pub fn tid(&self, comm: &str) -> Result<u32> {
        let thread = self.threads.iter().find(|thread| thread.comm == comm);
        Ok(thread.with_context(|| format!("no thread {comm}"))?.tid)
    }

    /// What all spans with a name come to in a window, whichever thread they are of.
    pub fn sum(&self, name: &str, window: Window) -> Sum {
        let spans = self.threads.iter().flat_map(|thread| &thread.spans);
        sum(spans.filter(|span| span.name == name), window)
    }

    /// What all spans of the thread with a name come to in a window.
    pub fn thread_sum(&self, comm: &str, window: Window) -> Sum {
        let threads = self.threads.iter().filter(|thread| thread.comm == comm);
        sum(threads.flat_map(|thread| &thread.spans), window)
    }
}

fn sum<'a>(spans: impl Iterator<Item = &'a Span>, window: Window) -> Sum {
    let mut sum = Sum::default();
    for span in spans {
        let part = window.part_of(span);
        let length = span.end_ns.saturating_sub(span.start_ns);
        sum.whole += u64::from(part >= 1.0);
        sum.wall_ns += part * length as f64;
        sum.cpu_ns += part * span.cpu_ns as f64;
        sum.runnable_ns += part * span.runnable_ns as f64;
        if part > 0.0 && span.end_ns <= window.end_ns {
            sum.bytes += span.bytes;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: &str = r#"{"pid": 7, "threads": [{"tid": 8, "comm": "one", "spans": [
        {"name": "a", "start_ns": 100, "end_ns": 200, "cpu_ns": 20, "runnable_ns": 10, "bytes": 5},
        {"name": "a", "start_ns": 300, "end_ns": 500, "cpu_ns": 40, "runnable_ns": 0, "bytes": 7},
        {"name": "b", "start_ns": 500, "end_ns": 600, "cpu_ns": 100, "runnable_ns": 0, "bytes": 0}]}]}"#;

    #[test]
    fn spans_on_the_edge_count_in_part() {
        let truth: Truth = serde_json::from_str(TRUTH).unwrap();
        let window = Window {
            start_ns: 150,
            end_ns: 1000,
        };
        let sum = truth.sum("a", window);
        assert_eq!((sum.whole, sum.bytes), (1, 12));
        assert_eq!(
            (sum.wall_ns, sum.cpu_ns, sum.runnable_ns),
            (250.0, 50.0, 5.0)
        );
        assert_eq!(sum.blocked_ns(), 195.0);
        assert_eq!(truth.thread_sum("one", window).wall_ns, 350.0);
        assert_eq!(truth.tid("one").unwrap(), 8);
        truth.tid("two").unwrap_err();
    }

    #[test]
    fn a_span_that_is_not_over_has_no_bytes_yet() {
        let truth: Truth = serde_json::from_str(TRUTH).unwrap();
        let window = Window {
            start_ns: 0,
            end_ns: 400,
        };
        assert_eq!(truth.sum("a", window).bytes, 5);
        assert_eq!(truth.sum("b", window), Sum::default());
    }
}
