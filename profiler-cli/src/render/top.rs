//! The table of functions: time of their own, and with what they call.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::rc::Rc;

use profiler_proto::Event;
use serde_json::{Value, json};

use super::folded::fold;
use super::{json as json_output, ledger, summary};
use crate::naming::{Inlining, NamedFrame, Role};
use crate::text;
use crate::view::{Total, View};

/// Kernel functions at the leaf that are there in every wait or every request and name no cause. Time is
/// put down to the frame that called them.
fn is_plumbing(event: Event, frame: &NamedFrame) -> bool {
    let prefixes: &[&str] = match event {
        Event::Cpu => return false,
        Event::OffCpu => &[
            "__schedule",
            "schedule",
            "preempt_schedule",
            "io_schedule",
            "finish_task_switch",
            "__traceiter_",
            "bpf_",
            "__bpf_",
        ],
        Event::Io => &[
            "blk_",
            "__blk_",
            "submit_bio",
            "__submit_bio",
            "__traceiter_",
            "bpf_",
            "__bpf_",
        ],
    };
    frame.role.is_kernel() && prefixes.iter().any(|prefix| frame.name.starts_with(prefix))
}

/// One function.
pub(crate) struct Row {
    /// The function, or a marker.
    pub(crate) frame: Rc<NamedFrame>,
    /// Time at the leaf.
    pub(crate) own: Total,
    /// Time anywhere in the stack, once per stack.
    pub(crate) total: Total,
}

/// Functions by their own time, largest first.
pub(crate) struct Table {
    /// All of them.
    pub(crate) rows: Vec<Row>,
    /// The sum of all samples.
    pub(crate) whole: Total,
}

/// Ranks the functions of a view.
pub(crate) fn table(view: &View<'_>) -> Table {
    let no_stack = Rc::new(NamedFrame::marker("[no stack]", false));
    let mut sums: HashMap<Rc<NamedFrame>, (Total, Total)> = HashMap::new();
    let mut whole = Total::default();
    for stack in fold(view, Inlining::Ignored) {
        whole.add_total(stack.total);
        let leaf = leaf(view.event, &stack.frames).unwrap_or(&no_stack);
        sums.entry(leaf.clone())
            .or_default()
            .0
            .add_total(stack.total);
        let distinct: HashSet<_> = stack.frames.iter().chain([leaf]).collect();
        for frame in distinct {
            sums.entry(frame.clone())
                .or_default()
                .1
                .add_total(stack.total);
        }
    }
    let mut rows: Vec<_> = sums
        .into_iter()
        .map(|(frame, (own, total))| Row { frame, own, total })
        .collect();
    rows.sort_by(|a, b| {
        let rank = |row: &Row| (row.own.rank(view.event), row.total.rank(view.event));
        rank(b).cmp(&rank(a)).then_with(|| a.frame.cmp(&b.frame))
    });
    Table { rows, whole }
}

fn leaf(event: Event, frames: &[Rc<NamedFrame>]) -> Option<&Rc<NamedFrame>> {
    let cause = frames.iter().rev().find(|frame| !is_plumbing(event, frame));
    cause.or(frames.last())
}

impl Row {
    /// Name, module and place as tables print them; no module where the name says it already.
    pub(crate) fn label(&self) -> String {
        let NamedFrame {
            name,
            shown: _,
            module,
            place,
            role,
        } = self.frame.as_ref();
        let says_it = *role == Role::Interpreted
            || (role.is_kernel() || *role == Role::Jit) && module.starts_with('[')
            || name.starts_with(&format!("{module}+0x"));
        if module.is_empty() || says_it {
            return self.frame.folded();
        }
        match place {
            Some(place) => format!("{name} ({module}, {})", text::clean(&place.short())),
            None => format!("{} ({module})", self.frame.folded()),
        }
    }
}

/// An amount as the event's tables print it: samples, or a length of time.
pub(crate) fn amount(event: Event, total: Total) -> String {
    match event {
        Event::Cpu => text::count(total.count),
        Event::OffCpu | Event::Io => text::duration(total.weight_ns),
    }
}

/// Writes the first `limit` functions as text.
pub(crate) fn write_text(view: &View<'_>, limit: usize, out: &mut dyn Write) -> io::Result<()> {
    let table = table(view);
    writeln!(out, "{}", summary::heading(view.capture))?;
    writeln!(out, "{}", summary::event_line(view))?;
    for sentence in summary::stack_sentences(view) {
        writeln!(out, "        {sentence}")?;
    }
    writeln!(out)?;
    let unit = match view.event {
        Event::Cpu => "samples",
        Event::OffCpu | Event::Io => "time",
    };
    writeln!(
        out,
        "{:>8} {:>10}  {:>8} {:>10}  function",
        "self", unit, "total", unit
    )?;
    for row in table.rows.iter().take(limit) {
        let percent =
            |part: Total| text::percent(part.rank(view.event), table.whole.rank(view.event));
        writeln!(
            out,
            "{:>7.2}% {:>10}  {:>7.2}% {:>10}  {}",
            percent(row.own),
            amount(view.event, row.own),
            percent(row.total),
            amount(view.event, row.total),
            row.label()
        )?;
    }
    let hidden = table.rows.len().saturating_sub(limit);
    if hidden > 0 {
        let hidden = text::plural(hidden as u64, "more function");
        writeln!(out, "{:>31}  {hidden}", "")?;
    }
    if ledger::is_due(view.capture) {
        writeln!(out)?;
        ledger::write_for(view.event, view.capture, out)?;
    }
    Ok(())
}

/// The first `limit` functions as JSON.
pub(crate) fn json(view: &View<'_>, limit: usize) -> Value {
    let table = table(view);
    json!({
        "host": view.capture.facts.host,
        "event": view.event.name(),
        "start_ns": view.capture.facts.start_ns,
        "end_ns": view.capture.facts.end_ns,
        "samples": table.whole.count,
        "weight_ns": table.whole.weight_ns,
        "function_count": table.rows.len(),
        "functions": functions(view.event, &table, limit),
        "left_out": json_output::left_out(view.left_out),
        "unavailable": json_output::unavailable(view.capture),
        "ledger": json_output::ledger(&view.capture.ledger),
    })
}

/// The rows of a table as JSON.
pub(crate) fn functions(event: Event, table: &Table, limit: usize) -> Vec<Value> {
    let whole = table.whole.rank(event);
    let rows = table.rows.iter().take(limit).map(|row| {
        let mut object = json!({
            "function": row.frame.name,
            "module": row.frame.module,
            "kernel": row.frame.role.is_kernel(),
            "kind": row.frame.role.name(),
            "self_samples": row.own.count,
            "self_ns": row.own.weight_ns,
            "self_percent": text::percent(row.own.rank(event), whole),
            "total_samples": row.total.count,
            "total_ns": row.total.weight_ns,
            "total_percent": text::percent(row.total.rank(event), whole),
        });
        if let Some(place) = &row.frame.place {
            object["file"] = json!(place.file);
            object["line"] = json!(place.line);
        }
        object
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_capture;

    fn text_of(event: Event) -> String {
        let capture = sample_capture::capture();
        let view = View::new(&capture, event, false).unwrap();
        let mut out = Vec::new();
        write_text(&view, 5, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tables() {
        insta::assert_snapshot!(text_of(Event::Cpu));
        insta::assert_snapshot!(text_of(Event::OffCpu));
        insta::assert_snapshot!(text_of(Event::Io));
    }

    #[test]
    fn json_table() {
        let capture = sample_capture::capture();
        let view = View::new(&capture, Event::Cpu, false).unwrap();
        let text = serde_json::to_string_pretty(&json(&view, 2)).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_recursive_function_counts_once() {
        let capture = sample_capture::capture();
        let view = View::new(&capture, Event::Cpu, false).unwrap();
        let table = table(&view);
        for row in &table.rows {
            assert!(row.total.count <= table.whole.count, "{}", row.frame.name);
            assert!(row.own.count <= row.total.count, "{}", row.frame.name);
        }
    }
}
