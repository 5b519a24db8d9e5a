//! What a capture holds, in one screen of text.

use std::io::{self, Write};

use profiler_proto::{Capture, DeviceStatistics, EndReason, Event, Facts, Histogram};

use super::{ledger, top, wholeness};
use crate::text::{
    bytes, clean, count, duration, elide, percent, plural, share, shorten, utc, utc_time,
};
use crate::view::View;

/// Functions shown of each event.
pub(crate) const FUNCTIONS: usize = 5;

/// A line of 100 columns; `top` prints names in full.
const NAME_CHARS: usize = 87;

/// A command line in the heading.
const SUBJECT_CHARS: usize = 80;

/// Above it, unnamed user frames are mentioned: up to here, few hot functions can be among them.
const UNNAMED_PERCENT: f64 = 5.0;

/// Devices shown of a capture with I/O.
const DEVICES: usize = 5;

/// Writes the summary of a capture.
pub(crate) fn write(capture: &Capture, all: bool, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", heading(capture))?;
    if let Some(ending) = ending(&capture.facts) {
        writeln!(out, "{ending}")?;
    }
    for event in &capture.facts.spec.events {
        writeln!(out)?;
        match View::new(capture, *event, all) {
            Some(view) => write_event(&view, out)?,
            None => write_missing(capture, *event, out)?,
        }
    }
    for warning in &capture.facts.warnings {
        writeln!(out, "\nnote: {}", clean(warning))?;
    }
    if ledger::is_due(capture) {
        writeln!(out)?;
        ledger::write_capture(capture, out)?;
    }
    Ok(())
}

/// Host, window and target in one line.
pub(crate) fn heading(capture: &Capture) -> String {
    let facts = &capture.facts;
    format!(
        "{} · {} · {}",
        clean(&facts.host),
        window(facts),
        elide(&subject(facts), SUBJECT_CHARS)
    )
}

/// What was captured: the command, or the target.
pub(crate) fn subject(facts: &Facts) -> String {
    match &facts.command {
        Some(command) => clean(&format!("command {}", command.argv.join(" "))),
        None => clean(&facts.spec.target.to_string()),
    }
}

/// Why the capture ended, in a few words.
pub(crate) fn end_reason(facts: &Facts) -> &'static str {
    match (facts.end_reason, &facts.command) {
        // The end of a command is seen by the client, which then stops the capture, or by the agent.
        (EndReason::Stopped | EndReason::TargetExited, Some(_)) => "command ended",
        (reason, _) => reason.as_str(),
    }
}

/// A sentence on an end before the time was over, and on how a command ended.
fn ending(facts: &Facts) -> Option<String> {
    let after = duration(facts.end_ns.saturating_sub(facts.start_ns));
    let early = !matches!(facts.end_reason, EndReason::Duration | EndReason::Unknown);
    let reason = end_reason(facts);
    match &facts.command {
        Some(command) => {
            let code = exit_code(command.exit_code);
            let reason = if early { reason } else { "command ended" };
            Some(format!("ended after {after}: {reason}, {code}"))
        }
        None => early.then(|| format!("ended after {after} of {}: {reason}", facts.spec.duration)),
    }
}

/// As shells report it: 128 and the number of a signal.
fn exit_code(code: i32) -> String {
    match code - 128 {
        signal @ 1..=64 => format!("exit code {code} (signal {signal})"),
        _ => format!("exit code {code}"),
    }
}

/// `2026-11-20 13:55:01 to 13:55:11 UTC (10.0 s)`
pub(crate) fn window(facts: &Facts) -> String {
    let (start, end) = (utc(facts.start_ns), utc(facts.end_ns));
    let same_day = start.split(' ').next() == end.split(' ').next();
    let end = if same_day {
        utc_time(facts.end_ns)
    } else {
        end
    };
    let length = facts.end_ns.saturating_sub(facts.start_ns);
    format!("{start} to {end} UTC ({})", duration(length))
}

/// What was lost and skipped of one event, in a few words. Timer ticks that did not come are told apart from what the
/// kernel left out: on a host with time to spare there are many, because an idle CPU sleeps through its ticks.
pub(crate) fn losses(capture: &Capture, event: Event) -> String {
    let Some(ledger) = capture.ledger.event(event) else {
        return "no ledger".to_owned();
    };
    let some = |number: u64, word: &str, part: f64| {
        (number > 0).then(|| format!("{} {word} ({})", count(number), share(100.0 * part)))
    };
    let lost = some(ledger.lost(), "lost", ledger.lost_share());
    let lost = lost.unwrap_or_else(|| "nothing lost".to_owned());
    let all = ledger.skipped().saturating_add(ledger.observed);
    let part = |number: u64| percent(number, all) / 100.0;
    let left_out = ledger.left_out();
    let ticks = ledger.skipped() - left_out;
    let parts = [
        Some(lost),
        some(left_out, "skipped", part(left_out)),
        some(ticks, "ticks did not come", part(ticks)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How good the stacks of an event are: how they were walked, and what of them is missing where that matters.
pub(crate) fn stack_sentences(view: &View<'_>) -> impl Iterator<Item = String> {
    let sentences = [
        wholeness::line(view),
        wholeness::sentence(view),
        unnamed(view.capture, view.event),
    ];
    sentences.into_iter().flatten()
}

/// That many user frames are addresses, where they are so many that it matters.
fn unnamed(capture: &Capture, event: Event) -> Option<String> {
    let ledger = capture.ledger.event(event)?;
    let unnamed = percent(ledger.unnamed_user_frames, ledger.user_frames);
    (unnamed > UNNAMED_PERCENT).then(|| format!("{} of user frames have no name", share(unnamed)))
}

/// Amount, mechanism and losses of one event in one line.
pub(crate) fn event_line(view: &View<'_>) -> String {
    let total = view.total();
    let amount = match view.event {
        Event::Cpu => format!(
            "{} = {} of CPU time",
            plural(total.count, "sample"),
            duration(total.weight_ns)
        ),
        Event::OffCpu => format!(
            "{} of waiting in {}",
            duration(total.weight_ns),
            plural(total.count, "sampled wait")
        ),
        Event::Io => format!(
            "{} of disk latency in {}",
            duration(total.weight_ns),
            plural(total.count, "sampled request")
        ),
    };
    let facts = view.capture.facts.event(view.event);
    let mechanism = facts.map_or(String::new(), |facts| clean(&facts.mechanism));
    let losses = losses(view.capture, view.event);
    let mut parts = vec![amount, mechanism, losses];
    parts.retain(|part| !part.is_empty());
    format!("{:<8}{}", view.event, parts.join(" · "))
}

fn write_event(view: &View<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", event_line(view))?;
    let table = top::table(view);
    for row in table.rows.iter().take(FUNCTIONS) {
        let own = row.own.rank(view.event);
        if own > 0 {
            let percent = percent(own, table.whole.rank(view.event));
            writeln!(
                out,
                "{percent:>7.1}%  {}",
                shorten(&row.label(), NAME_CHARS)
            )?;
        }
    }
    if view.event == Event::Io {
        write_devices(view.capture, out)?;
    }
    for sentence in stack_sentences(view) {
        writeln!(out, "        {sentence}")?;
    }
    if let Some(sentence) = view.left_out.sentence() {
        writeln!(out, "        {sentence}; --all shows them")?;
    }
    Ok(())
}

fn write_missing(capture: &Capture, event: Event, out: &mut dyn Write) -> io::Result<()> {
    let reason = capture.facts.event(event).map_or("", |facts| &facts.reason);
    let reason = if reason.is_empty() {
        "the agent sent no profile of it".to_owned()
    } else {
        clean(reason)
    };
    writeln!(out, "{event:<8}not measured: {reason}")
}

fn write_devices(capture: &Capture, out: &mut dyn Write) -> io::Result<()> {
    let mut devices: Vec<_> = capture.devices.iter().filter(|d| d.count > 0).collect();
    devices.sort_by_key(|d| {
        (
            std::cmp::Reverse(d.device_ns.saturating_add(d.queue_ns)),
            capture.dictionary.string(d.device),
            capture.dictionary.string(d.operation),
        )
    });
    for device in devices.iter().take(DEVICES) {
        write_device(capture, device, out)?;
    }
    if devices.len() > DEVICES {
        writeln!(
            out,
            "        {} more",
            plural((devices.len() - DEVICES) as u64, "row")
        )?;
    }
    Ok(())
}

fn write_device(
    capture: &Capture,
    device: &DeviceStatistics,
    out: &mut dyn Write,
) -> io::Result<()> {
    let name = |id| clean(capture.dictionary.string(id));
    let errors = match device.errors {
        0 => String::new(),
        errors => format!(", {}", plural(errors, "error")),
    };
    writeln!(
        out,
        "        {:<10} {:<8} {:>9}, {:>9}, device p50 {}, p99 {}{}{errors}",
        name(device.device),
        name(device.operation),
        plural(device.count, "request"),
        bytes(device.bytes),
        below(&device.device_histogram, 0.5),
        below(&device.device_histogram, 0.99),
        queueing(device),
    )
}

/// Mean time before the device, where there was any to speak of.
fn queueing(device: &DeviceStatistics) -> String {
    let mean = device.queue_ns / device.count.max(1);
    if mean < 1000 {
        return String::new();
    }
    format!(", queued {} on average", duration(mean))
}

/// A quantile of a histogram with buckets of powers of two: all that is known is its bucket.
fn below(histogram: &Histogram, quantile: f64) -> String {
    histogram.quantile(quantile).map_or_else(
        || "unknown".to_owned(),
        |(_, high)| format!("< {}", duration(high)),
    )
}

#[cfg(test)]
mod tests {
    use profiler_proto::{CommandResult, EndReason};

    use crate::sample_capture;

    fn text(capture: &profiler_proto::Capture, all: bool) -> String {
        let mut out = Vec::new();
        super::write(capture, all, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_whole_capture() {
        insta::assert_snapshot!(text(&sample_capture::capture(), false));
    }

    #[test]
    fn a_capture_with_losses_and_a_missing_event() {
        insta::assert_snapshot!(text(&sample_capture::lossy(), true));
    }

    #[test]
    fn how_it_ended_is_said_unless_as_planned() {
        let mut facts = sample_capture::capture().facts;
        facts.end_ns = facts.start_ns + 1_040_000_000;
        let mut ending = |reason, command: Option<i32>| {
            facts.end_reason = reason;
            facts.command = command.map(|exit_code| CommandResult {
                argv: vec!["make".to_owned(), "-j4".to_owned()],
                exit_code,
            });
            (
                super::subject(&facts),
                super::ending(&facts).unwrap_or_default(),
            )
        };
        assert_eq!(ending(EndReason::Duration, None).1, "");
        assert_eq!(
            ending(EndReason::TargetExited, None).1,
            "ended after 1.04 s of 10s: target exited"
        );
        let (subject, end) = ending(EndReason::Stopped, Some(2));
        assert_eq!(subject, "command make -j4");
        assert_eq!(end, "ended after 1.04 s: command ended, exit code 2");
        assert_eq!(
            ending(EndReason::Shutdown, Some(137)).1,
            "ended after 1.04 s: agent shut down, exit code 137 (signal 9)"
        );
    }

    #[test]
    fn nothing_in_it_can_steer_a_terminal() {
        let text = text(&sample_capture::hostile(), false);
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }
}
