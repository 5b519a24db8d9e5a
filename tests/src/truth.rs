//! What a workload says it did, cut to the window of a capture.

use std::collections::{BTreeMap, BTreeSet};
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
    bytes: u64,
    start: Clocks,
    end: Clocks,
}

/// A thread's clocks at one moment, nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Clocks {
    /// CLOCK_MONOTONIC.
    time_ns: u64,
    /// CPU time so far.
    cpu_ns: u64,
    /// Time spent waiting for a CPU so far.
    delay_ns: u64,
}

/// A stretch of time, nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its begin.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
}

/// What a thread did in a window, or in its spans of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// Spans that lie in the window whole.
    pub whole: u64,
    /// Bytes of those that end in the window.
    pub bytes: u64,
    /// How long it took, nanoseconds; spans on the edge in part.
    pub wall_ns: f64,
    /// CPU time in it.
    pub cpu_ns: f64,
    /// Waiting for a CPU in it.
    pub runnable_ns: f64,
}

impl Sum {
    /// Neither running nor waiting for a CPU, nanoseconds.
    pub fn blocked_ns(&self) -> f64 {
        self.wall_ns - self.cpu_ns - self.runnable_ns
    }
}

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), |a, b| Self {
            whole: a.whole + b.whole,
            bytes: a.bytes + b.bytes,
            wall_ns: a.wall_ns + b.wall_ns,
            cpu_ns: a.cpu_ns + b.cpu_ns,
            runnable_ns: a.runnable_ns + b.runnable_ns,
        })
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
        let (start_ns, end_ns) = (span.start.time_ns, span.end.time_ns);
        let inside = self
            .end_ns
            .min(end_ns)
            .saturating_sub(self.start_ns.max(start_ns));
        if end_ns <= start_ns {
            0.0
        } else {
            inside as f64 / (end_ns - start_ns) as f64
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
        let mut sum = Sum::default();
        let spans = self.threads.iter().flat_map(|thread| &thread.spans);
        for span in spans.filter(|span| span.name == name) {
            let part = window.part_of(span);
            let passed = |clock: fn(&Clocks) -> u64| {
                part * clock(&span.end).saturating_sub(clock(&span.start)) as f64
            };
            sum.whole += u64::from(part >= 1.0);
            sum.wall_ns += passed(|clocks| clocks.time_ns);
            sum.cpu_ns += passed(|clocks| clocks.cpu_ns);
            sum.runnable_ns += passed(|clocks| clocks.delay_ns);
            if part > 0.0 && span.end.time_ns <= window.end_ns {
                sum.bytes += span.bytes;
            }
        }
        sum
    }

    /// What all spans come to in a window, by name.
    pub fn sums(&self, window: Window) -> BTreeMap<String, Sum> {
        let spans = self.threads.iter().flat_map(|thread| &thread.spans);
        let names: BTreeSet<_> = spans.map(|span| &span.name).collect();
        let sum = |name: &String| (name.clone(), self.sum(name, window));
        names.into_iter().map(sum).collect()
    }

    /// CPU time of all threads in a window, in their spans and between them, nanoseconds. A thread that tells
    /// nothing of an edge of the window counts from its first or to its last span.
    pub fn cpu_ns(&self, window: Window) -> f64 {
        let of_thread = |thread: &ThreadTruth| {
            let ends = thread.spans.iter().flat_map(|span| [span.start, span.end]);
            let clocks: Vec<_> = ends.collect();
            let (Some(first), Some(last)) = (clocks.first(), clocks.last()) else {
                return 0.0;
            };
            let at = |time_ns, or: &Clocks| {
                interpolate(&clocks, time_ns).map_or(or.cpu_ns as f64, |(cpu_ns, _)| cpu_ns)
            };
            at(window.end_ns, last) - at(window.start_ns, first)
        };
        self.threads.iter().map(of_thread).sum()
    }

    /// What the thread with a name did in a window, in its spans and between them.
    ///
    /// # Errors
    /// Fails where its spans do not cover the window.
    pub fn thread(&self, comm: &str, window: Window) -> Result<Sum> {
        let clocks = self.clocks(comm);
        let at = |time_ns| {
            interpolate(&clocks, time_ns).with_context(|| {
                format!("the spans of {comm} do not reach both ends of the window {window:?}")
            })
        };
        let (start, end) = (at(window.start_ns)?, at(window.end_ns)?);
        Ok(Sum {
            whole: 0,
            bytes: 0,
            wall_ns: window.length_ns() as f64,
            cpu_ns: end.0 - start.0,
            runnable_ns: end.1 - start.1,
        })
    }

    /// How long the thread with a name waited for a CPU in a window, nanoseconds: at least and at most. The
    /// thread's clocks are known at both ends of each span, and what happened between them may lie inside the
    /// window or outside.
    ///
    /// # Errors
    /// Fails where its spans do not cover the window.
    pub fn runnable_bounds(&self, comm: &str, window: Window) -> Result<(u64, u64)> {
        let clocks = self.clocks(comm);
        let edge = |time_ns| around(&clocks, time_ns).context("the spans do not cover the window");
        let ((before, start), (end, after)) = (edge(window.start_ns)?, edge(window.end_ns)?);
        Ok((
            end.delay_ns.saturating_sub(start.delay_ns),
            after.delay_ns.saturating_sub(before.delay_ns),
        ))
    }

    /// All readings of a thread's clocks, in order.
    fn clocks(&self, comm: &str) -> Vec<Clocks> {
        let threads = self.threads.iter().filter(|thread| thread.comm == comm);
        let spans = threads.flat_map(|thread| &thread.spans);
        spans.flat_map(|span| [span.start, span.end]).collect()
    }
}

/// The readings just before and just after a moment.
fn around(clocks: &[Clocks], time_ns: u64) -> Option<(Clocks, Clocks)> {
    let after = clocks.partition_point(|clocks| clocks.time_ns <= time_ns);
    Some((*clocks.get(after.checked_sub(1)?)?, *clocks.get(after)?))
}

/// CPU time and run delay at a moment between two readings of the clocks, which are in order.
fn interpolate(clocks: &[Clocks], time_ns: u64) -> Option<(f64, f64)> {
    let (before, after) = around(clocks, time_ns)?;
    let passed = (time_ns - before.time_ns) as f64 / (after.time_ns - before.time_ns) as f64;
    let between = |from: u64, to: u64| from as f64 + passed * to.saturating_sub(from) as f64;
    Some((
        between(before.cpu_ns, after.cpu_ns),
        between(before.delay_ns, after.delay_ns),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: &str = r#"{"pid": 7, "threads": [{"tid": 8, "comm": "one", "spans": [
        {"name": "a", "bytes": 5, "start": {"time_ns": 100, "cpu_ns": 10, "delay_ns": 0},
            "end": {"time_ns": 200, "cpu_ns": 30, "delay_ns": 10}},
        {"name": "a", "bytes": 7, "start": {"time_ns": 300, "cpu_ns": 30, "delay_ns": 60},
            "end": {"time_ns": 500, "cpu_ns": 70, "delay_ns": 60}},
        {"name": "b", "bytes": 0, "start": {"time_ns": 500, "cpu_ns": 70, "delay_ns": 60},
            "end": {"time_ns": 600, "cpu_ns": 170, "delay_ns": 60}}]}]}"#;

    fn truth() -> Truth {
        serde_json::from_str(TRUTH).unwrap()
    }

    fn window(start_ns: u64, end_ns: u64) -> Window {
        Window { start_ns, end_ns }
    }

    #[test]
    fn spans_on_the_edge_count_in_part() {
        let sum = truth().sum("a", window(150, 1000));
        assert_eq!((sum.whole, sum.bytes), (1, 12));
        assert_eq!(
            (sum.wall_ns, sum.cpu_ns, sum.runnable_ns),
            (250.0, 50.0, 5.0)
        );
        assert_eq!(sum.blocked_ns(), 195.0);
    }

    #[test]
    fn a_span_that_is_not_over_has_no_bytes_yet() {
        assert_eq!(truth().sum("a", window(0, 400)).bytes, 5);
        assert_eq!(truth().sum("b", window(0, 400)), Sum::default());
    }

    #[test]
    fn all_names_and_all_threads() {
        let sums = truth().sums(window(150, 1000));
        assert_eq!(sums.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(sums["a"], truth().sum("a", window(150, 1000)));
        assert_eq!(truth().cpu_ns(window(150, 450)), 40.0);
        assert_eq!(truth().cpu_ns(window(0, 1000)), 160.0);
    }

    #[test]
    fn a_thread_counts_between_its_spans_too() {
        let sum = truth().thread("one", window(150, 450)).unwrap();
        assert_eq!(
            (sum.wall_ns, sum.cpu_ns, sum.runnable_ns),
            (300.0, 40.0, 55.0)
        );
        truth().thread("one", window(50, 450)).unwrap_err();
        let bounds = truth().runnable_bounds("one", window(150, 350)).unwrap();
        assert_eq!(bounds, (50, 60));
        truth().thread("one", window(150, 601)).unwrap_err();
        assert_eq!(truth().tid("one").unwrap(), 8);
        truth().tid("two").unwrap_err();
    }
}
