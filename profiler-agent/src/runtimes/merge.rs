//! Putting an interpreter's frames in their places among the native ones: each
//! call of the function that runs interpreted code stands for one or more of
//! them.

use std::ops::Range;

use profiler_abi::{RuntimeFrame, python::frame_note};

/// How a native frame is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is machine code of its own.
    Native,
    /// It is a call of the function that runs interpreted code.
    Interpreter,
}

/// One frame of the merged stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The native frame with this index.
    Native(usize),
    /// The interpreter's frame with this index.
    Runtime(usize),
}

/// A merged stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// Leaf first.
    pub frames: Vec<Merged>,
    /// Calls of the interpreter's function that stay as they are: the
    /// interpreter has no frame for them, or it was not read.
    pub calls_left: usize,
    /// The interpreter's frames without a native one: where the native stack
    /// is not whole they stand at its root, else beside the outermost call.
    pub frames_left: usize,
    /// Why there are no more of the interpreter's frames: a
    /// [`frame_note`], [`frame_note::NOTHING`] where there are none.
    pub note: u32,
}

/// Puts the frames of an interpreter (leaf first, as the kernel programs send
/// them) in the places of the calls that ran them. `is_whole` says that the
/// native frames (leaf first) end with the thread's outermost one.
///
/// A call that has only begun has no frame yet, so what calls there are more
/// than the interpreter tells of are the innermost ones; unless its outermost
/// frames were not read. What it tells of more is what the native stack lacks:
/// the outermost ones.
pub fn merge(native: &[Place], is_whole: bool, runtime: &[RuntimeFrame]) -> Merge {
    let note = note_of(runtime);
    let calls = calls(runtime);
    let evaluations = native
        .iter()
        .filter(|place| **place == Place::Interpreter)
        .count();
    let begun = match note {
        frame_note::NOTHING => evaluations.saturating_sub(calls.len()),
        _ => 0,
    };
    let (paired, extra) = calls.split_at(calls.len().min(evaluations));
    let mut merging = Merging {
        runtime,
        merge: Merge {
            note,
            ..Merge::default()
        },
    };
    let mut paired = paired.iter();
    let mut seen = 0;
    for (index, place) in native.iter().enumerate() {
        if *place == Place::Native {
            merging.merge.frames.push(Merged::Native(index));
            continue;
        }
        let call = if seen < begun { None } else { paired.next() };
        seen += 1;
        merging.evaluation(index, call);
        if seen == evaluations && is_whole {
            merging.leftover(extra);
        }
    }
    if evaluations == 0 || !is_whole {
        merging.leftover(extra);
    }
    merging.merge
}

struct Merging<'a> {
    runtime: &'a [RuntimeFrame],
    merge: Merge,
}

impl Merging<'_> {
    /// Puts the frames of `call` in the place of native frame `index`.
    fn evaluation(&mut self, index: usize, call: Option<&Call>) {
        if call.is_none_or(|call| self.push(call) == 0) {
            self.merge.frames.push(Merged::Native(index));
            self.merge.calls_left += 1;
        }
    }

    /// Puts frames here that have no native one.
    fn leftover(&mut self, calls: &[Call]) {
        for call in calls {
            self.merge.frames_left += self.push(call);
        }
    }

    /// Appends the frames of a call. Returns how many.
    fn push(&mut self, call: &Call) -> usize {
        let before = self.merge.frames.len();
        let frames = call.clone().filter(|index| self.runtime[*index].code != 0);
        self.merge.frames.extend(frames.map(Merged::Runtime));
        self.merge.frames.len() - before
    }
}

/// What the last frame says where it is none.
fn note_of(runtime: &[RuntimeFrame]) -> u32 {
    match runtime.last() {
        Some(last) if is_note(last) => last.place as u32,
        _ => frame_note::NOTHING,
    }
}

fn is_note(frame: &RuntimeFrame) -> bool {
    frame.code == 0 && frame.place & RuntimeFrame::ENTRY == 0
}

/// Indices of the frames of one call, and of what stands for none.
type Call = Range<usize>;

/// The frames by call.
fn calls(runtime: &[RuntimeFrame]) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut start = 0;
    for (index, frame) in runtime.iter().enumerate() {
        let is_last = index + 1 == runtime.len();
        let is_lone_note = start == index && is_note(frame);
        if frame.place & RuntimeFrame::ENTRY != 0 || (is_last && !is_lone_note) {
            calls.push(start..index + 1);
            start = index + 1;
        }
    }
    calls
}

#[cfg(test)]
mod tests;
