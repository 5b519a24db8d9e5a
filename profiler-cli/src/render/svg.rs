//! Flame graphs, drawn by inferno.
//!
//! Colour tells user from kernel frames, and in an off-CPU graph blocked from runnable time; a legend above
//! the graph says which is which. The same capture always gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use inferno::flamegraph::{self, Options, TextTruncateDirection, color};
use profiler_proto::Event;

use super::folded::{FoldedStack, fold};
use super::{Format, summary};
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

/// A range of colours; names are spread over it so that neighbours can be told apart.
struct Tint {
    from: color::Color,
    to: color::Color,
}

const fn rgb(r: u8, g: u8, b: u8) -> color::Color {
    color::Color { r, g, b }
}

/// Command names and markers.
const GREY: Tint = Tint {
    from: rgb(206, 206, 202),
    to: rgb(224, 224, 220),
};
const AMBER: Tint = Tint {
    from: rgb(240, 140, 60),
    to: rgb(250, 205, 95),
};
const RED: Tint = Tint {
    from: rgb(222, 100, 78),
    to: rgb(240, 140, 118),
};
const BLUE: Tint = Tint {
    from: rgb(120, 172, 228),
    to: rgb(168, 208, 245),
};
const DEEP_BLUE: Tint = Tint {
    from: rgb(98, 136, 210),
    to: rgb(130, 164, 226),
};
const GREEN: Tint = Tint {
    from: rgb(122, 196, 128),
    to: rgb(178, 224, 150),
};
const TEAL: Tint = Tint {
    from: rgb(84, 176, 170),
    to: rgb(124, 204, 190),
};

/// What a frame is drawn as. inferno colours by name and hides an annotation `_[k]`, `_[i]`, `_[j]` or
/// `_[w]` at the end of one, so the annotation carries the role.
#[derive(Clone, Copy)]
enum Role {
    Thread,
    User,
    Kernel,
    RunnableUser,
    RunnableKernel,
}

impl Role {
    const ALL: [Self; 5] = [
        Self::Thread,
        Self::Kernel,
        Self::RunnableUser,
        Self::RunnableKernel,
        // Last, because every name ends in its annotation, which is empty.
        Self::User,
    ];

    fn annotation(self) -> &'static str {
        match self {
            Self::Thread => "_[i]",
            Self::User => "",
            Self::Kernel => "_[k]",
            Self::RunnableUser => "_[w]",
            Self::RunnableKernel => "_[j]",
        }
    }

    fn of_frame(kernel: bool, runnable: bool) -> Self {
        match (kernel, runnable) {
            (false, false) => Self::User,
            (true, false) => Self::Kernel,
            (false, true) => Self::RunnableUser,
            (true, true) => Self::RunnableKernel,
        }
    }

    fn of_name(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|role| name.ends_with(role.annotation()))
            .unwrap_or(Self::User)
    }

    fn tint(self, event: Event) -> &'static Tint {
        match (self, event) {
            (Self::Thread, _) => &GREY,
            (Self::User, Event::Cpu) | (Self::RunnableUser, _) => &AMBER,
            (Self::Kernel, Event::Cpu) | (Self::RunnableKernel, _) => &RED,
            (Self::User, Event::OffCpu) => &BLUE,
            (Self::Kernel, Event::OffCpu) => &DEEP_BLUE,
            (Self::User, Event::Io) => &GREEN,
            (Self::Kernel, Event::Io) => &TEAL,
        }
    }
}

/// What the legend says, with the roles whose colours stand before it.
fn legend(event: Event) -> &'static [(&'static [Role], &'static str)] {
    match event {
        Event::Cpu | Event::Io => &[(&[Role::User], "user"), (&[Role::Kernel], "kernel")],
        Event::OffCpu => &[
            (&[Role::User, Role::Kernel], "blocked"),
            (&[Role::RunnableUser, Role::RunnableKernel], "runnable"),
        ],
    }
}

fn write(view: &View<'_>, out: &mut dyn Write) -> io::Result<()> {
    let lines = lines(view);
    if lines.is_empty() {
        return write_empty(view, out);
    }
    let mut palette = palette(view.event, &lines);
    let mut options = options(view);
    options.palette_map = Some(&mut palette);
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    let (head, frames) = split_at_frames(&svg);
    out.write_all(head)?;
    out.write_all(legend_svg(view.event, options.font_size).as_bytes())?;
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

/// Folded lines with roles, in the reverse of the order in which they are drawn, as inferno's flame chart
/// wants them: by thread name, blocked before runnable, then by name.
fn lines(view: &View<'_>) -> Vec<String> {
    let mut sums: BTreeMap<(String, bool, Vec<String>), Total> = BTreeMap::new();
    for stack in fold(view) {
        let runnable = view.event == Event::OffCpu && stack.class == "runnable";
        let frames = drawn_frames(&stack, runnable);
        sums.entry((stack.thread, runnable, frames))
            .or_default()
            .add_total(stack.total);
    }
    sums.into_iter()
        .rev()
        .filter_map(|((thread, _, frames), total)| {
            let value = total.folded(view.event);
            let thread = thread + Role::Thread.annotation();
            let stack = std::iter::once(thread).chain(frames).collect::<Vec<_>>();
            (value > 0).then(|| format!("{} {value}", stack.join(";")))
        })
        .collect()
}

fn drawn_frames(stack: &FoldedStack, runnable: bool) -> Vec<String> {
    stack
        .frames
        .iter()
        .map(|frame| {
            let role = Role::of_frame(frame.kernel, runnable);
            format!("{}{}", frame.name, role.annotation())
        })
        .collect()
}

fn palette(event: Event, lines: &[String]) -> color::PaletteMap {
    let names: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.rsplit_once(' '))
        .flat_map(|(stack, _)| stack.split(';'))
        .collect();
    let mut palette = color::PaletteMap::default();
    // inferno calls its root frame by the empty name.
    for name in names.into_iter().chain([""]) {
        let tint = if name.is_empty() || name.starts_with('[') && !name.contains("]+0x") {
            &GREY
        } else {
            Role::of_name(name).tint(event)
        };
        palette.insert(name, shade(tint, name));
    }
    palette
}

/// The colour of a name: the same one in every graph.
fn shade(tint: &Tint, name: &str) -> color::Color {
    // FNV-1a: https://datatracker.ietf.org/doc/html/draft-eastlake-fnv
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let position = i32::from((hash >> 24) as u8);
    let mix = |from: u8, to: u8| {
        let value = i32::from(from) + (i32::from(to) - i32::from(from)) * position / 255;
        u8::try_from(value).unwrap_or(to)
    };
    rgb(
        mix(tint.from.r, tint.to.r),
        mix(tint.from.g, tint.to.g),
        mix(tint.from.b, tint.to.b),
    )
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

/// Coloured squares with their meaning, to the left of the title.
fn legend_svg(event: Event, font_size: usize) -> String {
    const SQUARE: usize = 11;
    // Right of "Reset Zoom", which appears in the corner.
    let mut x = 100;
    let baseline = font_size * 2;
    let top = baseline + 1 - SQUARE;
    // inferno draws the search button almost invisible.
    let mut svg = String::from("<style>#search { opacity:0.5 }</style><g id=\"legend\">");
    for (roles, meaning) in legend(event) {
        for role in *roles {
            let color::Color { r, g, b } = shade(role.tint(event), "");
            svg += &format!(
                "<rect x=\"{x}\" y=\"{top}\" width=\"{SQUARE}\" height=\"{SQUARE}\" fill=\"rgb({r},{g},{b})\"/>"
            );
            x += SQUARE + 1;
        }
        x += 4;
        svg += &format!("<text x=\"{x}\" y=\"{baseline}\">{meaning}</text>");
        x += (meaning.len() + 2) * font_size * 6 / 10;
    }
    svg + "</g>"
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
