//! Putting an interpreter's frames in their places among the native ones: each
//! call of the function that runs interpreted code stands for one or more of
//! them.

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
    /// is not whole they stand at its root, else beside those of the nearest call.
    pub frames_left: usize,
    /// Why there are no more of the interpreter's frames: a
    /// [`frame_note`], [`frame_note::NOTHING`] where there are none.
    pub note: u32,
}

/// The frames that belong to one call: `runtime[start..end]`.
#[derive(Clone, Copy)]
struct Call {
    start: usize,
    end: usize,
}

/// Puts the frames of an interpreter (leaf first, as the kernel programs send
/// them) in the places of the calls that ran them. `is_whole` says that the
/// native frames (leaf first) end with the thread's outermost one.
///
/// Calls and frames are paired from the outermost one inwards, because a call
/// that has only begun has no frame yet; where one of both sides lacks its
/// outermost part, they are paired from the innermost one outwards.
pub fn merge(native: &[Place], is_whole: bool, runtime: &[RuntimeFrame]) -> Merge {
    let note = note_of(runtime);
    let calls = calls(runtime);
    let evaluations = native
        .iter()
        .filter(|place| **place == Place::Interpreter)
        .count();
    let from_root = is_whole && note == frame_note::NOTHING;
    let (skip_calls, skip_evaluations) = if from_root {
        (
            calls.len().saturating_sub(evaluations),
            evaluations.saturating_sub(calls.len()),
        )
    } else {
        (0, 0)
    };
    let (extra, paired) = calls.split_at(skip_calls);
    let mut merging = Merging {
        merge: Merge {
            note,
            ..Merge::default()
        },
        waiting: extra.iter(),
    };
    let mut paired = paired.iter();
    let mut seen = 0;
    for (index, place) in native.iter().enumerate() {
        let call = match place {
            Place::Native => {
                merging.merge.frames.push(Merged::Native(index));
                continue;
            }
            Place::Interpreter if seen < skip_evaluations => None,
            Place::Interpreter => paired.next(),
        };
        seen += 1;
        merging.evaluation(index, call.copied());
    }
    merging.leftover();
    merging.waiting = paired.as_slice().iter();
    merging.leftover();
    merging.merge
}

struct Merging<'a> {
    merge: Merge,
    /// Calls without a native frame that come before the next one that has one.
    waiting: std::slice::Iter<'a, Call>,
}

impl Merging<'_> {
    /// Puts the frames of `call` in the place of native frame `index`.
    fn evaluation(&mut self, index: usize, call: Option<Call>) {
        if call.is_some() {
            self.leftover();
        }
        match call {
            Some(call) if call.start < call.end => self.push(call),
            _ => {
                self.merge.frames.push(Merged::Native(index));
                self.merge.calls_left += 1;
            }
        }
    }

    /// Puts the calls that wait here.
    fn leftover(&mut self) {
        for call in std::mem::take(&mut self.waiting) {
            self.merge.frames_left += call.end - call.start;
            self.push(*call);
        }
    }

    fn push(&mut self, call: Call) {
        let frames = (call.start..call.end).map(Merged::Runtime);
        self.merge.frames.extend(frames);
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

/// The frames by call. What stands for no frame is left out.
fn calls(runtime: &[RuntimeFrame]) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut start = 0;
    for (index, frame) in runtime.iter().enumerate() {
        let is_frame = frame.code != 0;
        let end = index + usize::from(is_frame);
        let is_last = index + 1 == runtime.len();
        if frame.place & RuntimeFrame::ENTRY != 0 || (is_last && start < end) {
            calls.push(Call { start, end });
            start = index + 1;
        }
    }
    calls
}

#[cfg(test)]
mod tests;
