//! Flame graphs, drawn by inferno.
//!
//! Colour tells user, kernel, JIT and script frames apart, and in an off-CPU graph blocked from runnable time;
//! a legend above the graph says which is which. Inlined functions are paler than their callers and named as
//! such. The same capture always gives the same bytes.

mod paint;

use std::collections::BTreeMap;
use std::io::{self, Write};

use inferno::flamegraph::{self, Options, TextTruncateDirection, color};
use profiler_proto::Event;

use self::paint::{GREY, Paint, legend_svg, rgb, shade};
use super::folded::fold;
use super::{Format, summary, wholeness};
use crate::naming::{Inlining, NamedFrame, Role};
use crate::text;
use crate::view::{Total, View};

/// Frames narrower than this are not drawn: less than a pixel, and many of them make a picture that is all
/// height and megabytes.
const MIN_WIDTH_PERCENT: f64 = 0.05;

/// Characters of the subtitle that a picture of 1200 pixels has room for, less two separators.
const SUBTITLE_CHARS: usize = 154;

/// What the subject always has of them.
const SUBJECT_CHARS: usize = 12;

/// `*.svg`.
pub(crate) static FORMAT: Format = Format {
    ending: "svg",
    write,
};

/// A picture before inferno draws it.
struct Drawing {
    /// Folded lines, in the reverse of the order in which they are drawn, as inferno's flame chart wants
    /// them.
    lines: Vec<String>,
    /// What each name in the lines is.
    paints: BTreeMap<String, Paint>,
}

fn write(view: &View<'_>, out: &mut dyn Write) -> io::Result<()> {
    let Drawing { lines, paints } = draw(view);
    if lines.is_empty() {
        return write_empty(view, out);
    }
    let mut palette = palette(view.event, &paints);
    let mut options = options(view);
    options.palette_map = Some(&mut palette);
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    let (head, frames) = split_at_frames(&svg);
    let drawn = paints.into_values().collect();
    out.write_all(head)?;
    out.write_all(legend_svg(view.event, &drawn, options.font_size).as_bytes())?;
    out.write_all(frames)
}

fn options<'a>(view: &View<'_>) -> Options<'a> {
    let mut options = Options::default();
    options.title = title(view);
    options.subtitle = Some(subtitle(view));
    options.count_name = match view.event {
        Event::Cpu => "samples".to_owned(),
        Event::OffCpu | Event::Io => "µs".to_owned(),
    };
    options.bgcolors = Some(color::BackgroundColor::Flat(rgb(250, 250, 247)));
    options.font_type = "monospace".to_owned();
    options.frame_height = 17;
    options.min_width = MIN_WIDTH_PERCENT;
    options.text_truncate_direction = TextTruncateDirection::Right;
    // Keeps the order of our lines. inferno's own sorts whole lines, which draws `a` and `a;b` as two
    // boxes when there is an `a(int)` as well.
    options.flame_chart = true;
    options
}

/// Stacks by thread name, blocked before runnable, then by name.
fn draw(view: &View<'_>) -> Drawing {
    let mut sums: BTreeMap<(String, bool, Vec<String>), Total> = BTreeMap::new();
    let mut paints = BTreeMap::new();
    let mut note = |name: &str, paint: Paint| {
        // Of two of one name, in every picture the same.
        let known = paints.entry(name.to_owned()).or_insert(paint);
        *known = paint.min(*known);
    };
    for stack in fold(view, Inlining::Marked) {
        let runnable = view.event == Event::OffCpu && stack.class == "runnable";
        note(&drawn_thread(&stack.thread), Paint::Thread);
        let mut frames = Vec::with_capacity(stack.frames.len());
        for frame in &stack.frames {
            let role = frame.role;
            let paint = Paint::Frame { role, runnable };
            let name = drawn_name(frame) + paint.annotation();
            note(&name, paint);
            frames.push(name);
        }
        sums.entry((stack.thread, runnable, frames))
            .or_default()
            .add_total(stack.total);
    }
    let lines = sums.into_iter().rev();
    let lines = lines.filter_map(|((thread, _, frames), total)| {
        let value = total.folded(view.event);
        let stack = std::iter::once(drawn_thread(&thread))
            .chain(frames)
            .collect::<Vec<_>>();
        (value > 0).then(|| format!("{} {value}", stack.join(";")))
    });
    Drawing {
        lines: lines.collect(),
        paints,
    }
}

fn drawn_thread(name: &str) -> String {
    format!("{name}{}", Paint::Thread.annotation())
}

/// Inlined functions are named so: a lighter colour alone does not say what it means.
fn drawn_name(frame: &NamedFrame) -> String {
    match frame.role {
        Role::Inlined => format!("{} (inlined)", frame.shown),
        _ => frame.shown.clone(),
    }
}

fn palette(event: Event, paints: &BTreeMap<String, Paint>) -> color::PaletteMap {
    let mut palette = color::PaletteMap::default();
    for (name, paint) in paints {
        palette.insert(name, shade(paint.tint(event), name));
    }
    // inferno calls its root frame by the empty name.
    palette.insert("", shade(GREY, ""));
    palette
}

fn title(view: &View<'_>) -> String {
    let what = match view.event {
        Event::Cpu => "CPU time",
        Event::OffCpu => "Off-CPU time",
        Event::Io => "Disk I/O latency",
    };
    format!("{what} · {}", text::clean(&view.capture.facts.host))
}

fn subtitle(view: &View<'_>) -> String {
    let facts = &view.capture.facts;
    let total = view.total();
    let waited = |noun: &str| {
        let (time, count) = (
            text::duration(total.weight_ns),
            text::plural(total.count, noun),
        );
        format!("{time} in {count}")
    };
    let amount = match view.event {
        Event::Cpu => {
            let samples = text::plural(total.count, "sample");
            format!("{} Hz · {samples}", facts.spec.frequency.get())
        }
        Event::OffCpu => waited("wait"),
        Event::Io => waited("request"),
    };
    let mut parts = vec![amount, summary::losses(view.capture, view.event)];
    parts.extend(wholeness::short(view));
    if view.left_out.threads > 0 {
        parts.push(format!(
            "{} that did not run left out ({})",
            text::plural(view.left_out.threads, "thread"),
            text::duration(view.left_out.wait_ns)
        ));
    }
    let (window, parts) = (summary::window(facts), parts.join(" · "));
    // What is left of the width is for the subject, which may be a long command line.
    let room = SUBTITLE_CHARS.saturating_sub(window.chars().count() + parts.chars().count());
    let subject = text::elide(&summary::subject(facts), room.max(SUBJECT_CHARS));
    format!("{window} · {subject} · {parts}")
}

/// Splits before the element that holds the frames.
fn split_at_frames(svg: &[u8]) -> (&[u8], &[u8]) {
    const FRAMES: &[u8] = b"<svg id=\"frames\"";
    let at = svg.windows(FRAMES.len()).position(|part| part == FRAMES);
    svg.split_at(at.unwrap_or(svg.len()))
}

/// A picture that says that there is nothing to draw.
fn write_empty(view: &View<'_>, out: &mut dyn Write) -> io::Result<()> {
    let escape = |text: String| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    write!(
        out,
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"1200\" height=\"110\" viewBox=\"0 0 1200 110\" \
         xmlns=\"http://www.w3.org/2000/svg\" font-family=\"monospace\" text-anchor=\"middle\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"rgb(250,250,247)\"/>\n\
         <text x=\"50%\" y=\"24\" font-size=\"17\">{}</text>\n\
         <text x=\"50%\" y=\"48\" font-size=\"12\">{}</text>\n\
         <text x=\"50%\" y=\"86\" font-size=\"14\">No {} samples in this window</text>\n\
         </svg>\n",
        escape(title(view)),
        escape(subtitle(view)),
        view.event
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_capture;

    fn svg(capture: &profiler_proto::Capture, event: Event) -> String {
        let view = View::new(capture, event, false).unwrap();
        let mut out = Vec::new();
        write(&view, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Without the script and the style sheet, which are inferno's.
    fn picture(event: Event) -> String {
        let svg = svg(&sample_capture::capture(), event);
        let (head, rest) = svg.split_once("<style").unwrap();
        let (_, body) = rest.split_once("</script>").unwrap();
        format!("{head}{body}").replace("><", ">\n<")
    }

    #[test]
    fn cpu() {
        insta::assert_snapshot!(picture(Event::Cpu));
    }

    #[test]
    fn offcpu_in_two_colours() {
        insta::assert_snapshot!(picture(Event::OffCpu));
    }

    #[test]
    fn io() {
        insta::assert_snapshot!(picture(Event::Io));
    }

    #[test]
    fn frames_of_different_kinds_have_different_colours() {
        let colour = |svg: &str, name: &str| {
            let (_, rest) = svg.split_once(&format!("<title>{name} (")).unwrap();
            let (_, rest) = rest.split_once("fill=\"").unwrap();
            rest.split_once('"').unwrap().0.to_owned()
        };
        let capture = sample_capture::languages();
        let picture = svg(&capture, Event::Cpu);
        for (name, role) in [
            ("main", Role::User),
            ("PyUnicode_READ (inlined)", Role::Inlined),
            ("handle (app.py)", Role::Interpreted),
            ("LazyCompile:~tick", Role::Jit),
            ("[cut]", Role::Gap { kernel: false }),
        ] {
            let paint = Paint::Frame {
                role,
                runnable: false,
            };
            let drawn = name.to_owned() + paint.annotation();
            let color::Color { r, g, b } = shade(paint.tint(Event::Cpu), &drawn);
            assert_eq!(
                colour(&picture, name),
                format!("rgb({r},{g},{b})"),
                "{name}"
            );
        }
        let waits = svg(&capture, Event::OffCpu);
        let titles: Vec<_> = waits.match_indices("<title>handle (app.py) (").collect();
        let [blocked, runnable] = titles.as_slice() else {
            panic!("{} boxes", titles.len());
        };
        let of = |at: &(usize, &str)| colour(&waits[at.0..], "handle (app.py)");
        assert_ne!(of(blocked), of(runnable));
    }

    #[test]
    fn the_legend_explains_what_is_drawn() {
        let picture = svg(&sample_capture::languages(), Event::Cpu);
        for meaning in ["user", "inlined", "JIT", "script", "kernel"] {
            assert!(picture.contains(&format!(">{meaning}</text>")), "{meaning}");
        }
        let plain = svg(&sample_capture::capture(), Event::Cpu);
        for meaning in ["JIT", "script"] {
            assert!(!plain.contains(&format!(">{meaning}</text>")), "{meaning}");
        }
    }

    #[test]
    fn hostile_names_are_only_text() {
        let svg = svg(&sample_capture::hostile(), Event::Cpu);
        assert!(!svg.contains("<script>alert"), "{svg}");
        assert!(svg.contains("&lt;script&gt;alert"), "{svg}");
        assert!(!svg.contains('\u{1b}') && !svg.contains('\u{7}'), "{svg}");
        // Seven samples are seven samples: none was read as a weight or a second column.
        assert!(svg.contains("all (7 samples, 100%)"), "{svg}");
    }

    #[test]
    fn a_long_command_line_leaves_room_for_the_rest() {
        let mut capture = sample_capture::lossy();
        capture.facts.command = Some(profiler_proto::CommandResult {
            argv: vec!["x".repeat(300), "end".to_owned()],
            exit_code: 0,
        });
        for event in [Event::Cpu, Event::OffCpu] {
            let subtitle = subtitle(&View::new(&capture, event, false).unwrap());
            assert!(subtitle.chars().count() <= 160, "{subtitle}");
            assert!(subtitle.starts_with("2026-11-20"), "{subtitle}");
            assert!(
                subtitle.contains("... end") || subtitle.contains("x end"),
                "{subtitle}"
            );
            assert!(subtitle.contains("lost"), "{subtitle}");
        }
    }

    #[test]
    fn without_samples_it_says_so() {
        let mut capture = sample_capture::capture();
        capture
            .profiles
            .retain(|profile| profile.event != Event::Io);
        let svg = svg(&capture, Event::Io);
        assert!(svg.contains("No io samples in this window"), "{svg}");
    }

    #[test]
    fn a_caller_is_one_box_beside_a_longer_name() {
        let line = |line: &str| line.to_owned();
        let mut options = Options::default();
        options.flame_chart = true;
        let lines = [line("t;a(int) 1"), line("t;a;b 1"), line("t;a 1")];
        let mut out = Vec::new();
        let drawn = lines.iter().map(String::as_str);
        flamegraph::from_lines(&mut options, drawn, &mut out).unwrap();
        let svg = String::from_utf8(out).unwrap();
        assert_eq!(svg.matches("<title>a (").count(), 1, "{svg}");
        assert!(svg.contains("<title>a (2 samples"), "{svg}");
    }
}
