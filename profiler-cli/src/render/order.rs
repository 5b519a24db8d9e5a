//! No renderer changes the order of frames, leaves one out or makes one up: captures of every shape are
//! written, read back and compared with what was put in.

use std::collections::BTreeMap;

use profiler_proto::{
    Capture, Event, Frame, FrameId, FrameKind, Line, Mapping, MappingId, Profile, Sample, Stack,
    StackEnd, ThreadId, UnwindMethod,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Format, folded, svg};
use crate::sample_capture;
use crate::view::View;

/// A function as it goes in.
pub(super) struct Function {
    /// Its name, or what it is called without one.
    pub(super) function: &'static str,
    /// What folded stacks add to it.
    pub(super) folded: &'static str,
    /// What flame graphs add to it.
    pub(super) drawn: &'static str,
}

const fn function(function: &'static str, folded: &'static str, drawn: &'static str) -> Function {
    Function {
        function,
        folded,
        drawn,
    }
}

const fn plain(name: &'static str) -> Function {
    function(name, "", "")
}

const INNER: Function = function("inner", "_[i]", " (inlined)");
const MIDDLE: Function = function("middle", "_[i]", " (inlined)");

/// User frames: kind, path of the mapping, address, and the functions, root first.
const USER: [(FrameKind, &str, u64, &[Function]); 9] = [
    (FrameKind::User, "/bin/a", 1, &[plain("main")]),
    (
        FrameKind::User,
        "/bin/a",
        2,
        &[plain("outer"), MIDDLE, INNER],
    ),
    (FrameKind::User, "/lib/b.so", 0x20, &[plain("b.so+0x20")]),
    (FrameKind::User, "", 0x3000, &[plain("0x3000")]),
    (
        FrameKind::Interpreted,
        "",
        0,
        &[function("handle", " (app.py)", " (app.py)")],
    ),
    (FrameKind::User, "[jit]", 5, &[function("tick", "_[j]", "")]),
    (FrameKind::User, "", 0x5000, &[function("tock", "_[j]", "")]),
    (FrameKind::User, "/bin/a", 6, &[plain("inner")]),
    (FrameKind::User, "/bin/a", 7, &[plain("main")]),
];

/// The same of the kernel.
const KERNEL: [(FrameKind, &str, u64, &[Function]); 2] = [
    (
        FrameKind::Kernel,
        "[kernel]",
        8,
        &[function("schedule", "_[k]", "")],
    ),
    (
        FrameKind::Kernel,
        "[kernel]",
        0x90,
        &[function("[kernel]+0x90", "_[k]", "")],
    ),
];

/// How user parts end, and the markers.
const ENDS: [(StackEnd, &[Function]); 4] = [
    (StackEnd::Whole, &[]),
    (StackEnd::FramePointers, &[plain("[end of frame pointers]")]),
    (StackEnd::Cut, &[plain("[cut]")]),
    (StackEnd::NoRule, &[plain("[no unwind rule]")]),
];

const THREADS: [&str; 2] = ["main", "pool"];

/// A stack as it goes in: indices into the tables above, root first, and how many samples it has.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    thread: usize,
    user: Vec<usize>,
    end: usize,
    kernel: Vec<usize>,
    count: u64,
}

/// Any stacks.
pub(super) fn stacks() -> impl Strategy<Value = Vec<Taken>> {
    let taken = (
        0..THREADS.len(),
        vec(0..USER.len(), 0..6),
        0..ENDS.len(),
        vec(0..KERNEL.len(), 0..3),
        1..5_u64,
    );
    let taken = taken.prop_map(|(thread, user, end, kernel, count)| Taken {
        thread,
        user,
        end,
        kernel,
        count,
    });
    vec(taken, 1..12)
}

/// A capture with these stacks.
pub(super) fn capture(stacks: &[Taken]) -> Capture {
    let mut capture = sample_capture::capture();
    let threads: Vec<_> = THREADS
        .iter()
        .zip(1..)
        .map(|(comm, tid)| thread(&mut capture, comm, tid))
        .collect();
    let samples = stacks.iter().map(|taken| {
        let frames = |capture: &mut Capture, table: &[_], frames: &[usize]| {
            let leaf_first = frames.iter().rev();
            leaf_first.map(|at| frame(capture, &table[*at])).collect()
        };
        let stack = Stack {
            user: frames(&mut capture, &USER, &taken.user),
            user_end: ENDS[taken.end].0,
            user_method: UnwindMethod::Tables,
            kernel: frames(&mut capture, &KERNEL, &taken.kernel),
            kernel_end: StackEnd::Whole,
        };
        Sample {
            thread: threads[taken.thread],
            stack: capture.dictionary.intern_stack(stack),
            weight: taken.count,
            count: taken.count,
            ..Sample::default()
        }
    });
    let samples = samples.collect();
    capture.profiles = vec![Profile {
        event: Event::Cpu,
        samples,
    }];
    capture
}

fn thread(capture: &mut Capture, comm: &str, tid: u32) -> ThreadId {
    let comm = capture.dictionary.intern_string(comm);
    capture.dictionary.intern_thread(profiler_proto::Thread {
        tid,
        comm,
        ..profiler_proto::Thread::default()
    })
}

fn frame(
    capture: &mut Capture,
    (kind, path, address, functions): &(FrameKind, &str, u64, &[Function]),
) -> FrameId {
    let dictionary = &mut capture.dictionary;
    let mapping = match *path {
        "" => MappingId::NONE,
        path => {
            let path = dictionary.intern_string(path);
            dictionary.intern_mapping(Mapping {
                path,
                build_id: Vec::new(),
            })
        }
    };
    let named = functions
        .iter()
        .rev()
        .filter(|one| !one.function.contains("0x"));
    let file = match kind {
        FrameKind::Interpreted => dictionary.intern_string("/srv/app.py"),
        _ => Default::default(),
    };
    let lines = named.map(|one| Line {
        function: dictionary.intern_string(one.function),
        file,
        line: 7,
    });
    let lines = lines.collect();
    dictionary.intern_frame(Frame {
        kind: *kind,
        mapping,
        address: *address,
        lines,
    })
}

/// What must come out: samples by thread and frames, root first, in the words of a format.
pub(super) fn expected(
    stacks: &[Taken],
    words: impl Fn(&str, &[&Function]) -> Vec<String>,
) -> BTreeMap<Vec<String>, u64> {
    let mut sums = BTreeMap::new();
    for taken in stacks {
        let marker = ENDS[taken.end].1.iter();
        let user = taken.user.iter().flat_map(|at| USER[*at].3);
        let kernel = taken.kernel.iter().flat_map(|at| KERNEL[*at].3);
        let frames: Vec<_> = marker.chain(user).chain(kernel).collect();
        let words = words(THREADS[taken.thread], &frames);
        *sums.entry(words).or_default() += taken.count;
    }
    sums
}

fn written(capture: &Capture, format: &Format) -> String {
    let view = View::new(capture, Event::Cpu, false).unwrap();
    let mut out = Vec::new();
    (format.write)(&view, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn folded_stacks(text: &str) -> BTreeMap<Vec<String>, u64> {
    let lines = text.lines().map(|line| {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        let frames = stack.split(';').map(str::to_owned).collect();
        (frames, count.parse().unwrap())
    });
    lines.collect()
}

/// One box of a flame graph.
#[derive(Clone, Debug)]
struct Drawn {
    name: String,
    /// Pixels from the top.
    y: u64,
    /// Samples to its left.
    x: u64,
    /// Samples in it.
    width: u64,
}

fn boxes(svg: &str) -> Vec<Drawn> {
    let (_, frames) = svg.split_once("<svg id=\"frames\"").unwrap();
    let drawn = frames.split("<title>").skip(1).map(|part| {
        let (title, rest) = part.split_once("</title>").unwrap();
        let number = |name: &str| {
            let (_, value) = rest.split_once(&format!(" {name}=\"")).unwrap();
            value.split_once('"').unwrap().0.parse().unwrap()
        };
        Drawn {
            // `name (3 samples, 12.00%)`
            name: title.rsplit_once(" (").unwrap().0.to_owned(),
            y: number("y"),
            x: number("fg:x"),
            width: number("fg:w"),
        }
    });
    drawn.collect()
}

/// The stacks of a picture: what each box has beside what stands on it.
fn drawn_stacks(svg: &str) -> BTreeMap<Vec<String>, u64> {
    let boxes = boxes(svg);
    let bottom = boxes.iter().map(|drawn| drawn.y).max().unwrap();
    let height = boxes
        .iter()
        .map(|drawn| drawn.y)
        .filter(|y| *y < bottom)
        .max();
    let height = bottom - height.unwrap();
    let holds = |lower: &Drawn, upper: &Drawn| {
        lower.x <= upper.x && upper.x + upper.width <= lower.x + lower.width
    };
    let mut stacks = BTreeMap::new();
    for leaf in &boxes {
        let above = boxes
            .iter()
            .filter(|upper| upper.y + height == leaf.y && holds(leaf, upper));
        let own = leaf.width - above.map(|upper| upper.width).sum::<u64>();
        let mut below: Vec<_> = boxes
            .iter()
            .filter(|lower| lower.y > leaf.y && holds(lower, leaf))
            .collect();
        below.sort_by_key(|lower| std::cmp::Reverse(lower.y));
        if own > 0 {
            // The lowest is `all`.
            let frames = below.into_iter().chain([leaf]).skip(1);
            let frames = frames.map(|drawn| drawn.name.clone()).collect();
            *stacks.entry(frames).or_default() += own;
        }
    }
    stacks
}

proptest! {
    #[test]
    fn folded_stacks_hold_every_frame_in_its_place(taken in stacks()) {
        let text = written(&capture(&taken), &folded::FORMAT);
        let expected = expected(&taken, |thread, frames| {
            let frames = frames.iter().map(|one| format!("{}{}", one.function, one.folded));
            std::iter::once(thread.to_owned()).chain(frames).collect()
        });
        prop_assert_eq!(folded_stacks(&text), expected);
    }

    #[test]
    fn pictures_hold_every_frame_in_its_place(taken in stacks()) {
        let svg = written(&capture(&taken), &svg::FORMAT);
        let expected = expected(&taken, |thread, frames| {
            let frames = frames.iter().map(|one| format!("{}{}", one.function, one.drawn));
            std::iter::once(thread.to_owned()).chain(frames).collect()
        });
        prop_assert_eq!(drawn_stacks(&svg), expected);
    }
}
