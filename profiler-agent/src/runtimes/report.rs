//! What is to be said of a session's interpreted frames.

use profiler_abi::{MAX_RUNTIME_FRAMES, python::frame_note};

use super::merge::Merge;

/// Counts of different stacks and frames, not of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeReport {
    cut: u64,
    unreadable: u64,
    without_thread: u64,
    frames_left: u64,
    unnamed: u64,
}

impl RuntimeReport {
    /// Counts a stack that was merged.
    pub fn merged(&mut self, merge: &Merge) {
        // A thread that runs no interpreted code is none of the interpreter's.
        let lacks_frames = merge.calls_left > 0;
        match merge.note {
            frame_note::CUT => self.cut += 1,
            frame_note::UNREADABLE => self.unreadable += 1,
            frame_note::NO_THREAD if lacks_frames => self.without_thread += 1,
            _ => {}
        }
        self.frames_left += merge.frames_left as u64;
    }

    /// Counts a frame whose code object was not told, or not kept.
    pub fn unnamed(&mut self) {
        self.unnamed += 1;
    }

    /// In sentences.
    pub fn warnings(&self) -> Vec<String> {
        let Self {
            cut,
            unreadable,
            without_thread,
            frames_left,
            unnamed,
        } = self;
        [
            (
                cut,
                format!(
                    "stacks lack their outermost interpreted functions: no more than {} are kept",
                    MAX_RUNTIME_FRAMES - 1
                ),
            ),
            (
                unreadable,
                "stacks lack interpreted functions: the interpreter's memory could not be read".into(),
            ),
            (
                without_thread,
                "stacks lack their interpreted functions: the interpreter does not know the thread"
                    .into(),
            ),
            (
                frames_left,
                "interpreted functions stand beside the frames they belong to: the native stacks do not show them all"
                    .into(),
            ),
            (
                unnamed,
                "interpreted functions have no names: the ring buffer or the table of names was full"
                    .into(),
            ),
        ]
        .into_iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, sentence)| format!("{count} {sentence}"))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(note: u32, calls_left: usize, frames_left: usize) -> Merge {
        Merge {
            note,
            calls_left,
            frames_left,
            ..Merge::default()
        }
    }

    #[test]
    fn what_is_as_it_should_be_needs_no_words() {
        let mut report = RuntimeReport::default();
        report.merged(&merge(frame_note::NOTHING, 1, 0));
        report.merged(&merge(frame_note::NO_THREAD, 0, 0));
        assert_eq!(report.warnings(), [] as [String; 0]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let mut report = RuntimeReport::default();
        report.merged(&merge(frame_note::CUT, 0, 0));
        report.merged(&merge(frame_note::CUT, 0, 3));
        report.merged(&merge(frame_note::UNREADABLE, 1, 0));
        report.merged(&merge(frame_note::NO_THREAD, 1, 0));
        report.unnamed();
        let warnings = report.warnings();
        let counts: Vec<&str> = warnings.iter().map(|warning| &warning[..2]).collect();
        assert_eq!(counts, ["2 ", "1 ", "1 ", "3 ", "1 "]);
    }
}
