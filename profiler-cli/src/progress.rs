//! The progress bar: on a terminal only, and never over the output of a profiled command.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use profiler_proto::pb::{self, Phase};

use crate::text;

/// A bar on standard error, or nothing.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Shows a bar if `wanted` and standard error is a terminal.
    pub(crate) fn new(wanted: bool) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(0);
        // Not the bar's own clock: it runs while the programs are loaded, too.
        let template = "{msg:<11} {bar:30} {prefix}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// Shows how far the capture is.
    pub(crate) fn update(&self, progress: &pb::Progress) {
        let Some(bar) = &self.0 else { return };
        let duration = Duration::from_nanos(progress.duration_ns);
        bar.set_length(progress.duration_ns / 1_000_000);
        bar.set_position(progress.elapsed_ns / 1_000_000);
        bar.set_prefix(format!(
            "{} of {} s · {}{}",
            text::duration(progress.elapsed_ns),
            duration.as_secs_f64(),
            text::plural(progress.samples, "sample"),
            lost(progress.lost)
        ));
        bar.set_message(match progress.phase() {
            Phase::Unspecified | Phase::Arming => "attaching",
            Phase::Armed | Phase::Capturing => "capturing",
            Phase::Finishing => "naming",
        });
    }

    /// Says a line above the bar. Without a bar it is not said: the summary will.
    pub(crate) fn note(&self, line: &str) {
        if let Some(bar) = &self.0 {
            bar.println(line);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn lost(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" · {} lost", text::count(count)),
    }
}
