//! Text for people: making foreign names harmless, and numbers, times and sizes readable.

use std::time::Duration;

/// Shown where a thread has no command name.
const NO_NAME: &str = "[no name]";

/// Replaces what could steer a terminal, break a line or be no valid XML by U+FFFD.
///
/// Command names and symbols come from the processes that were profiled and may hold anything.
pub(crate) fn clean(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}')
            // Direction overrides make a line read differently from what it is.
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if harmful(c) { '\u{fffd}' } else { c })
        .collect()
}

/// A name that is safe as one frame of a folded stack, whoever chose it.
///
/// `;` would start another frame, spaces at the ends would be trimmed by readers, a number after the
/// last space or a leading `# ` would be read as a weight or a comment, and a final `_[k]` (or one of the
/// other annotations that flame graphs know) would turn a user frame into a kernel frame.
pub(crate) fn frame_name(name: &str) -> String {
    let mut name = clean(name).replace(';', ":");
    if name.is_empty() {
        return NO_NAME.to_owned();
    }
    let core = name.trim();
    if core.len() != name.len() {
        let start = name.len() - name.trim_start().len();
        let blanks = |count: usize| "_".repeat(count);
        let before = name[..start].chars().count();
        let after = name.chars().count() - before - core.chars().count();
        name = blanks(before) + core + &blanks(after);
    }
    if let Some(space) = name.rfind(' ') {
        let tail = &name[space + 1..];
        if tail.chars().all(|c| c.is_ascii_digit() || c == '.') {
            name.replace_range(space..=space, "_");
        }
    }
    if name.starts_with("# ") {
        name.replace_range(1..2, "_");
    }
    if let Some(stem) = name.strip_suffix(']')
        && stem.len() >= 3
        && stem.is_char_boundary(stem.len() - 3)
        && stem[stem.len() - 3..].starts_with("_[")
    {
        let at = name.len() - 4;
        name.replace_range(at..=at, "-");
    }
    name
}

/// The beginning of a text that is longer than `limit` characters.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The beginning and the end of a text that is longer than `limit` characters.
pub(crate) fn elide(text: &str, limit: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= limit {
        return text.to_owned();
    }
    let kept = limit.saturating_sub(3);
    let (head, tail) = (kept - kept / 2, kept / 2);
    let part = |chars: &[char]| chars.iter().collect::<String>();
    format!(
        "{}...{}",
        part(&chars[..head]),
        part(&chars[chars.len() - tail..])
    )
}

/// The words of a text in lines of at most `width` characters. A word that is longer is elided.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let word = elide(word, width);
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines.retain(|line| !line.trim().is_empty());
    lines
}

/// A count with a comma between each three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 thread", "2 threads": the count and its noun.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

/// A length of time in the unit that leaves three significant digits.
pub(crate) fn duration(ns: u64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs")];
    if ns >= 120 * 1_000_000_000 {
        let seconds = Duration::from_nanos(ns).as_secs();
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        return if hours > 0 {
            format!("{} h {minutes:02} min", count(hours))
        } else {
            format!("{minutes} min {:02} s", seconds % 60)
        };
    }
    UNITS
        .iter()
        .find(|(size, _)| ns as f64 >= *size)
        .map_or_else(
            || format!("{ns} ns"),
            |(size, unit)| format!("{} {unit}", significant(ns as f64 / size)),
        )
}

/// A size in binary units.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    UNITS.iter().find(|(unit, _)| size >= *unit).map_or_else(
        || format!("{size} B"),
        |(unit, name)| format!("{} {name}", significant(size as f64 / *unit as f64)),
    )
}

/// Part of a whole in percent; 0 where there is no whole.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}

/// A share in percent that never rounds a loss to nothing or a gap to the whole.
pub(crate) fn share(percent: f64) -> String {
    match percent {
        p if p > 0.0 && p < 0.01 => "< 0.01 %".to_owned(),
        p if p < 100.0 && p > 99.99 => "> 99.99 %".to_owned(),
        p if p < 1.0 => format!("{p:.2} %"),
        p => format!("{p:.1} %"),
    }
}

fn significant(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// UTC as people write it: `2026-11-20 13:55:01`.
pub(crate) fn utc(ns: u64) -> String {
    let (date, time) = civil(ns);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        date.0, date.1, date.2, time.0, time.1, time.2
    )
}

/// UTC for file names: `20261120T135501Z`.
pub(crate) fn utc_compact(ns: u64) -> String {
    utc(ns).replace(['-', ':'], "").replace(' ', "T") + "Z"
}

/// The time of day alone: `13:55:01`.
pub(crate) fn utc_time(ns: u64) -> String {
    utc(ns).split_off("2026-11-20 ".len())
}

/// Year, month, day and hour, minute, second of a UTC time, in the Gregorian calendar.
///
/// Counts from 1 March of the year 0, so that the leap day is the last day of a year:
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn civil(ns: u64) -> ((u64, u64, u64), (u64, u64, u64)) {
    const DAYS_FROM_0000_03_01_TO_1970: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let seconds = ns / 1_000_000_000;
    let days = seconds / 86_400 + DAYS_FROM_0000_03_01_TO_1970;
    let era = days / DAYS_PER_400_YEARS;
    let day_of_era = days % DAYS_PER_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = match month_from_march {
        m if m < 10 => (m + 3, 0),
        m => (m - 9, 1),
    };
    let second_of_day = seconds % 86_400;
    (
        (era * 400 + year_of_era + next_year, month, day),
        (
            second_of_day / 3600,
            second_of_day / 60 % 60,
            second_of_day % 60,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_one_frame() {
        for hostile in [
            "a;b",
            "a\nb 5",
            " leading",
            "trailing ",
            "worker 12",
            "x 1.5",
            "# comment",
            "forged_[k]",
            "esc\u{1b}[31m",
            "rtl\u{202e}",
            "\u{a0}",
            "",
        ] {
            let name = frame_name(hostile);
            let line = format!("{name} 7");
            assert!(
                !name.is_empty() && !name.contains([';', '\n', '\u{1b}']),
                "{name:?}"
            );
            assert_eq!(line.trim(), line, "{name:?}");
            assert!(!line.starts_with("# "), "{name:?}");
            assert!(!name.ends_with("_[k]"), "{name:?}");
            let rest = line.rsplit_once(' ').unwrap().0;
            let second = rest.rsplit_once(' ').map(|(_, tail)| tail);
            assert!(
                second.is_none_or(|tail| tail.parse::<f64>().is_err()),
                "{name:?}"
            );
        }
    }

    #[test]
    fn an_ordinary_name_is_not_touched() {
        for name in [
            "main",
            "core::ops::Fn::call",
            "operator new",
            "foo(int, char*)",
            "[u8]",
        ] {
            assert_eq!(frame_name(name), name);
        }
    }

    #[test]
    fn utc_knows_leap_days_and_new_year() {
        let at = |seconds: u64| utc(seconds * 1_000_000_000);
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59:59");
        assert_eq!(at(1_798_761_600), "2027-01-01 00:00:00");
        assert_eq!(utc_compact(1_795_182_901_000_000_000), "20261120T135501Z");
        assert_eq!(utc_time(1_795_182_901_000_000_000), "13:55:01");
    }

    #[test]
    fn lines_are_no_longer_than_asked_for() {
        let text = format!("one two  three {} four", "x".repeat(500));
        let lines = wrapped(&text, 9);
        assert_eq!(lines, ["one two ", "three", "xxx...xxx", "four"]);
        assert!(wrapped("", 9).is_empty());
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(shorten("größer", 3), "grö...");
        assert_eq!(shorten("größer", 6), "größer");
        assert_eq!(elide("größer als", 8), "grö...ls");
        assert_eq!(elide("größer", 6), "größer");
        assert_eq!(elide("größer", 0), "...");
        assert_eq!(plural(1, "thread"), "1 thread");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(1_500_000), "1.50 ms");
        assert_eq!(duration(83_000_000_000), "83.0 s");
        assert_eq!(duration(150_000_000_000), "2 min 30 s");
        assert_eq!(duration(7_260_000_000_000), "2 h 01 min");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(share(0.001), "< 0.01 %");
        assert_eq!(share(99.999), "> 99.99 %");
        assert_eq!(share(0.5), "0.50 %");
    }
}
