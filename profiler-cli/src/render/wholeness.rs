//! How far the user stacks of an event reach, and how they were walked, in sentences.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use profiler_proto::{EventLedger, StackEnd, UnwindMethod};

use crate::text::{clean, percent, share};
use crate::view::View;

/// More stacks than this that are not whole are worth a sentence.
const TOLERATED_PERCENT: f64 = 1.0;

/// Reasons told in one sentence.
const REASONS: usize = 3;

/// What a walk that ended like this says of the stack.
#[derive(PartialEq, Eq)]
enum Reach {
    /// Nothing: there was nothing to walk, or no telling.
    Unsaid,
    /// It is whole, or nothing speaks against it.
    Whole,
    /// It is not, which lies in the nature of the stack or in chance.
    Short,
    /// It is not, which the code of the process explains.
    Stopped,
}

fn reach(end: StackEnd, tells: bool) -> Reach {
    match end {
        StackEnd::None | StackEnd::NotRunning | StackEnd::Unknown => Reach::Unsaid,
        StackEnd::Whole => Reach::Whole,
        // All that an agent could say that knew no other way.
        StackEnd::FramePointers if !tells => Reach::Whole,
        StackEnd::Cut | StackEnd::Lost => Reach::Short,
        StackEnd::FramePointers
        | StackEnd::Unreadable
        | StackEnd::NoRule
        | StackEnd::NoMapping
        | StackEnd::NoTable
        | StackEnd::Unsupported
        | StackEnd::Compat
        | StackEnd::NoProgress => Reach::Stopped,
    }
}

/// Whether the agent said how it walked stacks, as those do that know more ways than one.
fn tells_methods(ledger: &EventLedger) -> bool {
    ledger
        .user_methods
        .keys()
        .any(|method| *method != UnwindMethod::Unknown)
}

/// Counts that are not 0, the most frequent first, with the part of `all` that each is.
fn ranked<K: Ord + Copy>(counts: &BTreeMap<K, u64>, all: u64) -> Vec<(K, String)> {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(name, count)| (Reverse(**count), **name));
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| (*name, share(percent(*count, all))))
        .collect()
}

fn sum<K>(counts: &BTreeMap<K, u64>) -> u64 {
    counts.values().copied().fold(0, u64::saturating_add)
}

/// How walks ended, as parts of all of them; nothing where there were none.
pub(crate) fn ends(ends: &BTreeMap<StackEnd, u64>) -> Option<String> {
    let mut ends = ends.clone();
    ends.remove(&StackEnd::None);
    list_ends(&ends, sum(&ends), usize::MAX)
}

fn list_ends(ends: &BTreeMap<StackEnd, u64>, all: u64, limit: usize) -> Option<String> {
    let ranked = ranked(ends, all);
    let mut parts: Vec<_> = ranked
        .iter()
        .map(|(end, part)| format!("{part} {end}"))
        .collect();
    if parts.len() > limit {
        parts.truncate(limit);
        parts.push("others".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The ways in which user stacks were walked, where the agent says.
pub(crate) fn methods(ledger: &EventLedger) -> Option<String> {
    let mut methods = ledger.user_methods.clone();
    methods.retain(|method, _| !matches!(method, UnwindMethod::None | UnwindMethod::Unknown));
    let ranked = ranked(&methods, sum(&methods)).into_iter();
    let parts: Vec<_> = ranked
        .map(|(method, part)| format!("{method} {part}"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Stacks that are not whole, and the number of all that could be.
fn not_whole(ledger: &EventLedger) -> (BTreeMap<StackEnd, u64>, u64) {
    let tells = tells_methods(ledger);
    let mut ends = ledger.user_stacks.clone();
    ends.retain(|end, _| reach(*end, tells) != Reach::Unsaid);
    let all = sum(&ends);
    ends.retain(|end, _| reach(*end, tells) != Reach::Whole);
    (ends, all)
}

/// A line on all user stacks: how many are whole, and how they were walked. None where there are none, or
/// where the agent does not say.
pub(crate) fn line(view: &View<'_>) -> Option<String> {
    let ledger = view.capture.ledger.event(view.event)?;
    let methods = methods(ledger)?;
    let (missing, all) = not_whole(ledger);
    let whole = share(percent(all.saturating_sub(sum(&missing)), all));
    (all > 0).then(|| format!("user stacks: {whole} whole; walked by {methods}"))
}

/// The part of user stacks that are not whole, where they are so many that it matters.
fn missing(view: &View<'_>) -> Option<String> {
    let (ends, all) = not_whole(view.capture.ledger.event(view.event)?);
    let missing = percent(sum(&ends), all);
    (missing > TOLERATED_PERCENT).then(|| share(missing))
}

/// That many user stacks are not whole, in the few words that a picture has room for.
pub(crate) fn short(view: &View<'_>) -> Option<String> {
    Some(format!("{} of stacks not whole", missing(view)?))
}

/// The same as a sentence, with the reasons and what tells more.
pub(crate) fn sentence(view: &View<'_>) -> Option<String> {
    let missing = missing(view)?;
    let ledger = view.capture.ledger.event(view.event)?;
    let (ends, all) = not_whole(ledger);
    let reasons = list_ends(&ends, all, REASONS)?;
    let advice = worst_process(view, tells_methods(ledger))
        .map_or_else(String::new, |(pid, comm)| {
            format!("; `profiler doctor --pid {pid}` shows why ({comm} has the most)")
        });
    Some(format!(
        "{missing} of user stacks are not whole: {reasons}{advice}"
    ))
}

/// The process with the most stacks that its code explains.
fn worst_process(view: &View<'_>, tells: bool) -> Option<(u32, String)> {
    let dictionary = &view.capture.dictionary;
    let mut counts: HashMap<u32, (u64, &str)> = HashMap::new();
    for sample in view.samples() {
        let end = dictionary.stack(sample.stack).user_end;
        if reach(end, tells) == Reach::Stopped {
            let process = dictionary.process(dictionary.thread(sample.thread).process);
            let comm = dictionary.string(process.comm);
            counts.entry(process.pid).or_insert((0, comm)).0 += sample.count;
        }
    }
    let worst = counts
        .into_iter()
        .max_by_key(|(pid, (count, _))| (*count, Reverse(*pid)));
    worst.map(|(pid, (_, comm))| (pid, clean(comm)))
}

#[cfg(test)]
mod tests {
    use profiler_proto::{Capture, Event};

    use super::*;
    use crate::sample_capture;

    fn cpu(capture: &Capture) -> (Option<String>, Option<String>) {
        let view = View::new(capture, Event::Cpu, false).unwrap();
        (line(&view), sentence(&view))
    }

    #[test]
    fn what_is_missing_is_said_with_its_reasons() {
        let (line, sentence) = cpu(&sample_capture::languages());
        assert_eq!(
            line.unwrap(),
            "user stacks: 93.0 % whole; walked by unwind tables 48.0 %, tables and frame pointers \
             48.0 %, copy of the stack 4.0 %"
        );
        assert_eq!(
            sentence.unwrap(),
            "7.0 % of user stacks are not whole: 3.0 % no unwind rule, 2.0 % cut at the depth limit, \
             2.0 % address outside of all code; `profiler doctor --pid 100` shows why (app has the most)"
        );
    }

    #[test]
    fn up_to_one_percent_takes_no_sentence() {
        let mut capture = sample_capture::languages();
        for (short, says) in [(10, false), (11, true)] {
            let cpu_ledger = &mut capture.ledger.events[0];
            cpu_ledger.user_stacks = BTreeMap::from([
                (StackEnd::Whole, 1000 - short),
                (StackEnd::Lost, short),
                // Neither whole nor not: there was nothing to walk.
                (StackEnd::None, 5000),
                (StackEnd::NotRunning, 5000),
            ]);
            assert_eq!(cpu(&capture).1.is_some(), says, "{short}");
        }
    }

    #[test]
    fn the_end_of_the_frame_pointers_is_whole_only_where_that_is_all_there_is() {
        let mut capture = sample_capture::languages();
        let ledger = &mut capture.ledger.events[0];
        ledger.user_stacks = BTreeMap::from([(StackEnd::FramePointers, 100)]);
        ledger.user_methods = BTreeMap::from([(UnwindMethod::FramePointers, 100)]);
        let (line, sentence) = cpu(&capture);
        assert!(
            line.unwrap()
                .starts_with("user stacks: 0.00 % whole; walked by frame pointers")
        );
        assert!(
            sentence
                .unwrap()
                .contains("100.0 % end of the frame pointers")
        );
        // An agent that knew nothing else.
        let ledger = &mut capture.ledger.events[0];
        ledger.user_methods.clear();
        ledger.user_stacks.insert(StackEnd::Cut, 1);
        assert_eq!(cpu(&capture), (None, None));
    }

    #[test]
    fn more_reasons_than_a_sentence_holds_are_others() {
        let mut capture = sample_capture::languages();
        capture.ledger.events[0].user_stacks = [
            StackEnd::NoRule,
            StackEnd::NoTable,
            StackEnd::Compat,
            StackEnd::Unsupported,
        ]
        .map(|end| (end, 25))
        .into();
        let sentence = cpu(&capture).1.unwrap();
        assert!(
            sentence.contains("rule not supported, others; "),
            "{sentence}"
        );
    }
}
