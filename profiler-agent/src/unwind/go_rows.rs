//! Rows from the tables that Go's own runtime unwinds by: they are in every
//! program that Go makes, even where nothing else is.
//!
//! Each function has a table of how far its stack pointer is below the return
//! address (`pcsp` in src/runtime/symtab.go). What a function does to the frame
//! pointer stands nowhere but in its code, so its first instructions are
//! looked at (`obj6.go` and `obj7.go` of cmd/internal/obj).
//!
//! The runtime switches stacks in a few functions, which Go marks `SPWRITE`:
//! `systemstack`, `asmcgocall`, `cgocallback` and calls of the vDSO. Since Go
//! 1.21 these keep the frame pointer of the stack they came from, which leads
//! back there; where they clear it (`mcall`, `morestack`) the stack ends.

mod function;
mod prologue;
mod shapes;

use std::ops::Range;

use profiler_abi::unwind::Rule;

use self::{
    function::{Delta, Function, Functions},
    prologue::Prologue,
    shapes::Shapes,
};
use super::{
    build::Builder,
    cfi::END,
    known_code::trampoline_at,
    rows::CodeRow,
    table::{BuildError, Source, Unsupported},
};
use crate::symbols::gopclntab::{GoLayout, GoNames};

/// Functions between two looks at the clock.
const FUNCTIONS_PER_LOOK: u64 = 64;

/// Largest function that is searched for where it clears the frame pointer:
/// those of the runtime's assembly have 200 bytes.
const MAX_SEARCHED: u64 = 4096;

/// Functions that the kernel calls when a signal comes. To Go they are the
/// begin of a stack, but what was interrupted can be found.
const SIGNAL_HANDLERS: [&str; 3] = [
    "runtime.sigtramp",
    "runtime.cgoSigtramp",
    "runtime.sigprofNonGoWrapper",
];

/// Adds the rows of all functions of a Go program.
pub(super) fn read(builder: &mut Builder<'_>) -> Result<(), BuildError> {
    let Ok(names) = GoNames::find(builder.file, builder.image.clone()) else {
        return Ok(());
    };
    let layout = names.layout();
    let file = builder.file;
    let mut rows = Vec::new();
    for (index, function) in (0..).zip(Functions::new(file, layout)) {
        if index % FUNCTIONS_PER_LOOK == 0 {
            builder.check_time()?;
        }
        let Some(range) = builder.code_range(function.start, function.end - function.start) else {
            builder.report.malformed += 1;
            continue;
        };
        rows.clear();
        let mut reader = Reader {
            builder,
            layout,
            function: &function,
            rows: &mut rows,
        };
        let range = reader.read(range);
        builder.add(Source::Go, range, &mut rows)?;
    }
    Ok(())
}

/// Makes the rows of one function.
struct Reader<'r, 'a> {
    builder: &'r mut Builder<'a>,
    layout: GoLayout,
    function: &'r Function,
    rows: &'r mut Vec<CodeRow>,
}

impl Reader<'_, '_> {
    /// Adds rows for a range, and says for which one they are.
    fn read(&mut self, range: Range<u64>) -> Range<u64> {
        if let Some((rule, start)) = trampoline_at(self.builder, range.start) {
            self.push(start, Ok(rule));
            return start..range.end;
        }
        if self.function.is_top && !self.is_signal_handler() {
            self.push(range.start, Ok(END));
            return range;
        }
        let Some(deltas) = self.function.deltas(self.builder.file, &self.layout) else {
            self.builder.report.malformed += 1;
            self.push(range.start, Err(Unsupported::Malformed));
            return range;
        };
        let prologue = Prologue::find(self.builder, &deltas);
        let starts = deltas.steps.iter().map(|delta| delta.start);
        let ends = starts.skip(1).chain([deltas.end]);
        for (delta, end) in deltas.steps.iter().zip(ends) {
            self.delta(*delta, end, prologue);
        }
        if self.function.writes_stack_pointer {
            self.end_where_cleared(&range);
        }
        range.start..range.end.min(deltas.end)
    }

    fn is_signal_handler(&self) -> bool {
        let name = self.function.name(self.builder.file, &self.layout);
        SIGNAL_HANDLERS
            .iter()
            .any(|handler| name == handler.as_bytes())
    }

    /// Rows from one stack delta on, up to the next one.
    fn delta(&mut self, delta: Delta, end: u64, prologue: Prologue) {
        let Some(shapes) = Shapes::of(self.builder.image.machine, delta.value) else {
            return self.push(delta.start, Err(Unsupported::Range));
        };
        let switches = self.function.writes_stack_pointer;
        let rule = match (delta.value, prologue) {
            (_, Prologue::Unknown) if switches => Err(Unsupported::StackSwitch),
            (0, _) => Ok(shapes.outside),
            (_, Prologue::Unknown) => shapes.lost.ok_or(Unsupported::FrameAddress),
            (_, Prologue::Saved { from, own }) => {
                let at_last = if switches {
                    shapes.switched
                } else {
                    shapes.saved
                };
                let parts = [
                    (delta.start..from, shapes.unsaved),
                    (from..own, shapes.saved),
                    (own..u64::MAX, at_last),
                ];
                for (part, rule) in parts {
                    let start = part.start.max(delta.start);
                    if start < part.end.min(end) {
                        self.push(start, Ok(rule));
                    }
                }
                return;
            }
        };
        self.push(delta.start, rule);
    }

    fn push(&mut self, at: u64, rule: Result<Rule, Unsupported>) {
        let row = match rule {
            Ok(rule) => self.builder.row(at, rule),
            Err(reason) => self.builder.unsupported(at, reason),
        };
        self.rows.push(row);
    }

    /// The stack ends where a function that switches stacks has cleared the
    /// frame pointer, so that nobody can follow it.
    fn end_where_cleared(&mut self, range: &Range<u64>) {
        let size = range.end - range.start;
        if size > MAX_SEARCHED {
            return;
        }
        let mut code = vec![0; size as usize];
        if !self.builder.read_code(range.start, &mut code) {
            return;
        }
        if let Some(cleared) = prologue::cleared(self.builder.image.machine, &code) {
            let at = range.start + cleared as u64;
            self.rows.retain(|row| row.address < at);
            self.push(at, Ok(END));
        }
    }
}
