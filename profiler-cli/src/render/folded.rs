//! Folded stacks: one line per stack, root first, `;` between frames, then a weight.
//!
//! The first frame is the command name of the thread. Kernel frames end in `_[k]`, functions that were
//! inlined in `_[i]`, those of a JIT compiler in `_[j]`, as the stackcollapse scripts mark them; a function of
//! a script is followed by its file, `handle (app.py)`. Weights are samples for cpu and microseconds for offcpu
//! and io.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::rc::Rc;

use super::Format;
use crate::naming::{Inlining, NamedFrame, Namer};
use crate::view::{Total, View};

/// `*.folded`.
pub(crate) static FORMAT: Format = Format {
    ending: "folded",
    write,
};

/// Samples with the same thread name, stack and wait class, summed up.
pub(crate) struct FoldedStack {
    /// Command name of the thread.
    pub(crate) thread: String,
    /// Root first.
    pub(crate) frames: Vec<Rc<NamedFrame>>,
    /// "blocked" or "runnable" for a wait, else empty.
    pub(crate) class: String,
    /// Sum of the samples.
    pub(crate) total: Total,
}

/// The stacks of a view, in no particular order.
pub(crate) fn fold(view: &View<'_>, inlining: Inlining) -> Vec<FoldedStack> {
    // Ids first and names after: a name is built once per stack instead of once per sample.
    let mut sums = HashMap::new();
    for sample in view.samples() {
        let comm = view.capture.dictionary.thread(sample.thread).comm;
        let class = view.wait_class(sample.attributes);
        let key = (comm, sample.stack, class);
        sums.entry(key)
            .or_insert((Total::default(), sample.thread))
            .0
            .add(sample);
    }
    let mut namer = Namer::new(view, inlining);
    sums.into_iter()
        .map(|((_, stack, class), (total, thread))| FoldedStack {
            thread: view.thread_name(thread),
            frames: namer.stack(stack),
            class: class.to_owned(),
            total,
        })
        .collect()
}

/// Writes the lines, sorted.
fn write(view: &View<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut lines: BTreeMap<String, Total> = BTreeMap::new();
    for stack in fold(view, Inlining::Marked) {
        let mut line = stack.thread;
        for frame in &stack.frames {
            line.push(';');
            line.push_str(&frame.folded());
        }
        lines.entry(line).or_default().add_total(stack.total);
    }
    for (line, total) in lines {
        writeln!(out, "{line} {}", total.folded(view.event))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use profiler_proto::Event;

    use crate::sample_capture;
    use crate::view::View;

    fn folded(event: Event, all: bool) -> String {
        let capture = sample_capture::capture();
        let view = View::new(&capture, event, all).unwrap();
        let mut out = Vec::new();
        super::write(&view, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cpu() {
        insta::assert_snapshot!(folded(Event::Cpu, false));
    }

    #[test]
    fn offcpu_without_and_with_idle_threads() {
        insta::assert_snapshot!(folded(Event::OffCpu, false));
        insta::assert_snapshot!(folded(Event::OffCpu, true));
    }

    #[test]
    fn io() {
        insta::assert_snapshot!(folded(Event::Io, false));
    }

    #[test]
    fn a_hostile_name_forges_no_frame_and_no_line() {
        let capture = sample_capture::hostile();
        let view = View::new(&capture, Event::Cpu, false).unwrap();
        let mut out = Vec::new();
        super::write(&view, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in text.lines() {
            let (stack, weight) = line.rsplit_once(' ').unwrap();
            assert!(weight.parse::<u64>().is_ok(), "{line:?}");
            assert_eq!(stack.split(';').count(), 3, "{line:?}");
            assert!(!line.contains("_[k]"), "{line:?}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        assert_eq!(text.lines().count(), sample_capture::HOSTILE_NAMES.len());
    }
}
