//! The ledger for people: what was expected, taken and lost, and what became of the stacks.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Write};

use profiler_proto::{Capture, Event, EventLedger, Ledger, SkipReason, UnwindFacts};

use super::{summary, wholeness};
use crate::text::{bytes, clean, count, duration, percent, plural, share};
use crate::verdict;

/// Whether the reader of a result must see the ledger: something was lost or was not to be had, or more was
/// skipped than chance explains.
pub(crate) fn is_due(capture: &Capture) -> bool {
    capture.facts.events.iter().any(|event| !event.available)
        || capture.ledger.events.iter().any(lacks_something)
}

fn lacks_something(event: &EventLedger) -> bool {
    event.lost() > 0 || verdict::falls_short(event) || event.verify().is_err()
}

/// Writes the ledger of a capture, with the events that were not to be had.
pub(crate) fn write_capture(capture: &Capture, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "ledger")?;
    write_unavailable(capture, out)?;
    write_events(&capture.ledger, out)?;
    write_unwinding(&capture.facts.unwind, out)
}

/// Writes what unwinding by tables took; nothing where there were no tables.
pub(crate) fn write_unwinding(facts: &UnwindFacts, out: &mut dyn Write) -> io::Result<()> {
    for (i, line) in unwinding(facts).into_iter().enumerate() {
        let heading = if i == 0 { "unwind" } else { "" };
        writeln!(out, "  {heading:<8}{line}")?;
    }
    Ok(())
}

fn unwinding(facts: &UnwindFacts) -> Vec<String> {
    let UnwindFacts {
        tables_built,
        tables_refused,
        table_bytes,
        build_cpu_ns,
        processes_without_table,
        copies_taken,
        copies_lost,
    } = facts;
    let mut lines = Vec::new();
    if *tables_built > 0 || *table_bytes > 0 {
        lines.push(format!(
            "{} built in {} of CPU time, {} of memory",
            plural(*tables_built, "table"),
            duration(*build_cpu_ns),
            bytes(*table_bytes)
        ));
    }
    let refused = tables_refused.iter();
    lines.extend(refused.map(|(reason, files)| {
        format!(
            "{} without a table: {}",
            plural(*files, "file"),
            clean(reason)
        )
    }));
    if *processes_without_table > 0 {
        let processes = match processes_without_table {
            1 => "1 process".to_owned(),
            many => format!("{} processes", count(*many)),
        };
        lines.push(format!("{processes} without any table"));
    }
    if *copies_taken > 0 || *copies_lost > 0 {
        lines.push(format!(
            "{} copied, {} lost",
            plural(*copies_taken, "stack"),
            count(*copies_lost)
        ));
    }
    lines
}

/// Writes the ledger for a result that shows one event; of the others only what they lack, in a line each.
pub(crate) fn write_for(shown: Event, capture: &Capture, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "ledger")?;
    for event in capture.ledger.events.iter().filter(|e| lacks_something(e)) {
        if event.event == shown {
            write_event(event, out)?;
        } else {
            heading(event.event, out)?;
            writeln!(out, "{}", summary::losses(capture, event.event))?;
        }
    }
    write_unavailable(capture, out)?;
    write_imbalance(&capture.ledger, out)
}

/// Writes the ledgers of all events.
pub(crate) fn write_events(ledger: &Ledger, out: &mut dyn Write) -> io::Result<()> {
    for event in &ledger.events {
        write_event(event, out)?;
    }
    write_imbalance(ledger, out)
}

fn write_unavailable(capture: &Capture, out: &mut dyn Write) -> io::Result<()> {
    for facts in capture.facts.events.iter().filter(|f| !f.available) {
        heading(facts.event, out)?;
        writeln!(out, "not measured: {}", clean(&facts.reason))?;
    }
    Ok(())
}

fn write_imbalance(ledger: &Ledger, out: &mut dyn Write) -> io::Result<()> {
    match ledger.verify() {
        Ok(()) => Ok(()),
        Err(imbalance) => writeln!(out, "  {imbalance}; please report this"),
    }
}

fn write_event(event: &EventLedger, out: &mut dyn Write) -> io::Result<()> {
    heading(event.event, out)?;
    for (i, line) in lines(event).into_iter().enumerate() {
        let indent = if i == 0 { 0 } else { 10 };
        writeln!(out, "{:indent$}{line}", "")?;
    }
    Ok(())
}

fn heading(event: Event, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "  {event:<8}")
}

fn lines(event: &EventLedger) -> Vec<String> {
    let mut lines = Vec::new();
    if event.event == Event::Cpu {
        lines.push(format!(
            "{} expected, {} taken{}",
            count(event.expected),
            count(event.observed),
            skips(&event.skipped)
        ));
    }
    lines.push(format!(
        "{} taken = {} idle + {} of others + {} not sampled + {} counted",
        count(event.observed),
        count(event.idle),
        count(event.filtered),
        count(event.unsampled),
        count(event.counted)
    ));
    lines.push(format!(
        "{} counted = {} delivered{}",
        count(event.counted),
        count(event.delivered),
        losses(event)
    ));
    let ends = wholeness::ends;
    lines.extend(ends(&event.user_stacks).map(|ends| format!("user stacks: {ends}")));
    lines.extend(
        wholeness::methods(event).map(|methods| format!("user stacks walked by {methods}")),
    );
    lines.extend(ends(&event.kernel_stacks).map(|ends| format!("kernel stacks: {ends}")));
    if event.unnamed_user_frames > 0 {
        lines.push(format!(
            "{} of {} user frames have no name",
            count(event.unnamed_user_frames),
            count(event.user_frames)
        ));
    }
    lines.extend(exactness(event));
    lines
}

fn skips(skipped: &BTreeMap<SkipReason, i64>) -> String {
    skipped
        .iter()
        .filter(|(_, number)| **number != 0)
        .map(|(reason, number)| match number {
            n if *n > 0 => format!(", {} skipped ({reason})", count(n.unsigned_abs())),
            n => format!(", {} more than expected", count(n.unsigned_abs())),
        })
        .collect()
}

fn losses(event: &EventLedger) -> String {
    if event.lost() == 0 {
        return " + 0 lost".to_owned();
    }
    event
        .losses
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(reason, number)| format!(" + {} lost ({reason})", count(*number)))
        .collect()
}

/// How far the samples are from the exact sum.
fn exactness(event: &EventLedger) -> Option<String> {
    let (sampled, exact) = (event.sampled_weight, event.exact_weight);
    let off = || share(percent(sampled.abs_diff(exact), exact));
    let distance = match sampled.cmp(&exact) {
        Ordering::Less => format!("{} less than the kernel's sum", off()),
        Ordering::Equal => "exactly the kernel's sum".to_owned(),
        Ordering::Greater => format!("{} more than the kernel's sum", off()),
    };
    (exact > 0).then(|| format!("samples stand for {}, {distance}", duration(sampled)))
}

#[cfg(test)]
mod tests {
    use profiler_proto::Event;

    use crate::sample_capture;

    #[test]
    fn text() {
        let capture = sample_capture::lossy();
        assert!(super::is_due(&capture));
        let mut out = Vec::new();
        super::write_capture(&capture, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn what_unwinding_took() {
        let mut capture = sample_capture::languages();
        let text = |capture: &profiler_proto::Capture| {
            let mut out = Vec::new();
            super::write_capture(capture, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!(text(&capture));
        capture.facts.unwind = Default::default();
        assert!(!text(&capture).contains("unwinding"));
    }

    #[test]
    fn beside_one_event_the_others_take_a_line() {
        let capture = sample_capture::lossy();
        for event in [Event::Cpu, Event::OffCpu] {
            let mut out = Vec::new();
            super::write_for(event, &capture, &mut out).unwrap();
            insta::assert_snapshot!(String::from_utf8(out).unwrap());
        }
    }

    #[test]
    fn samples_that_add_up_to_the_kernel_s_sum_do_so_exactly() {
        let mut capture = sample_capture::lossy();
        let offcpu = &mut capture.ledger.events[1];
        offcpu.exact_weight = offcpu.sampled_weight;
        let text = super::exactness(offcpu).unwrap();
        assert_eq!(text, "samples stand for 18.0 s, exactly the kernel's sum");
    }
}
