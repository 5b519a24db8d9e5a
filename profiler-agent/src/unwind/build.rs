//! From a file to its table, source by source.

use std::{io, ops::Range, time::Duration};

use profiler_abi::unwind::{Rule, cfa, runtime_kind};
use rustix::time::{ClockId, clock_gettime};

use super::{
    cfi,
    elf::{ElfImage, Place, ReadAt},
    go_rows,
    interpreter::Interpreter,
    known_code, plt,
    rows::{CodeRow, Full, Rows, Rules, UNSUPPORTED},
    table::{BuildError, BuildLimits, Source, Table, TableReport, Unsupported},
};

/// Most bytes of a compressed `.debug_frame` once decompressed: that of Go
/// programs of 500 MB.
const MAX_DECOMPRESSED: u64 = 24 << 20;

/// What all sources of rows work with.
pub(super) struct Builder<'a> {
    pub(super) file: &'a dyn ReadAt,
    pub(super) image: ElfImage,
    pub(super) report: TableReport,
    limits: BuildLimits,
    deadline: Duration,
    rules: Rules,
    rows: Rows,
    /// By source.
    functions: [u64; Source::ALL.len()],
    interpreter: Interpreter,
}

impl<'a> Builder<'a> {
    pub(super) fn new(file: &'a dyn ReadAt, limits: &BuildLimits) -> Result<Self, BuildError> {
        let deadline = cpu_time().saturating_add(limits.time);
        let image = ElfImage::read(file)?;
        let interpreter = Interpreter::find(&Timed { file, deadline }, &image);
        check_time(deadline, limits)?;
        let start = image.code().map(|segment| segment.address).min();
        let end = image.code().map(|segment| segment.end()).max();
        let addresses = start.unwrap_or(0)..end.unwrap_or(0);
        Ok(Self {
            interpreter,
            file,
            image,
            report: TableReport::default(),
            limits: *limits,
            deadline,
            rules: Rules::new(),
            rows: Rows::new(addresses, limits.bytes).map_err(|Full| too_large(limits))?,
            functions: [0; Source::ALL.len()],
        })
    }

    pub(super) fn build(mut self) -> Result<Table, BuildError> {
        // The best source first: what one says is not changed by the next.
        known_code::read(&mut self)?;
        self.read_eh_frame()?;
        go_rows::read(&mut self)?;
        self.read_debug_frame()?;
        plt::read(&mut self)?;
        known_code::read_start(&mut self)?;
        self.report.functions = self.functions.iter().sum();
        if self.report.functions == 0 {
            return Err(BuildError::NoRules);
        }
        // One of the others wherever there is one: code that is recognised is a
        // few instructions at a time.
        let tables = Source::ALL.into_iter().filter(|s| *s != Source::None);
        let tables = tables.map(|source| (self.functions[source as usize], source));
        let most = tables.max_by_key(|(functions, _)| *functions);
        self.report.source = most
            .filter(|(n, _)| *n > 0)
            .map_or(Source::None, |(_, s)| s);
        let base = self.rows.base();
        let (rows, deadline) = (self.rows, self.deadline);
        let packed = rows.pack(|| check_time(deadline, &self.limits))?;
        self.report.rows = packed.rows;
        self.report.crowded_pages = packed.crowded;
        Ok(Table {
            base,
            pages: packed.pages,
            rules: self.rules.into_vec(),
            report: self.report,
        })
    }
}

impl Builder<'_> {
    fn read_eh_frame(&mut self) -> Result<(), BuildError> {
        let Some(section) = self.image.eh_frame(self.file) else {
            return Ok(());
        };
        let file = self.file;
        cfi::Reader::new(self, cfi::Format::EhFrame, section).read(file)
    }

    /// `.debug_frame`, for functions that `.eh_frame` lacks.
    fn read_debug_frame(&mut self) -> Result<(), BuildError> {
        let Some(section) = self.image.section(".debug_frame").cloned() else {
            return Ok(());
        };
        let format = cfi::Format::DebugFrame;
        if !section.is_compressed() {
            let file = self.file;
            return cfi::Reader::new(self, format, (&section).into()).read(file);
        }
        let contents = self.image.contents(self.file, &section, MAX_DECOMPRESSED);
        let Ok(contents) = contents else {
            self.report.malformed += 1;
            return Ok(());
        };
        let place = Place {
            offset: 0,
            address: 0,
            size: contents.len() as u64,
        };
        cfi::Reader::new(self, format, place).read(&contents)
    }

    /// The part of a function that is code of the file: from its start to the
    /// end of its segment at most.
    pub(super) fn code_range(&self, start: u64, size: u64) -> Option<Range<u64>> {
        let segment = self.image.code().find(|segment| segment.contains(start))?;
        let end = start.saturating_add(size).min(segment.end());
        (start < end).then_some(start..end)
    }

    /// Reads code at an address; false where it does not come from the file.
    pub(super) fn read_code(&self, address: u64, buffer: &mut [u8]) -> bool {
        let offset = self.image.offset_of(address);
        offset.is_some_and(|offset| self.file.read_exact_at(buffer, offset).is_ok())
    }

    /// A row with a rule.
    pub(super) fn row(&mut self, address: u64, rule: Rule) -> CodeRow {
        match self.rules.index(rule) {
            Some(rule) => CodeRow { address, rule },
            None => self.unsupported(address, Unsupported::Rules),
        }
    }

    /// A row that cannot be followed.
    pub(super) fn unsupported(&mut self, address: u64, reason: Unsupported) -> CodeRow {
        self.report.unsupported[reason as usize] += 1;
        CodeRow {
            address,
            rule: UNSUPPORTED,
        }
    }

    /// Adds the rows of a function, in ascending order, the first one at its start.
    pub(super) fn add(
        &mut self,
        source: Source,
        function: Range<u64>,
        rows: &mut [CodeRow],
    ) -> Result<(), BuildError> {
        self.functions[source as usize] += 1;
        let first = rows.first().map(|row| self.rules.get(row.rule));
        let is_entry = first.is_some_and(is_entry);
        if self.interpreter.holds(&function, is_entry) {
            self.mark_interpreter(rows);
        }
        self.rows
            .add(function, rows)
            .map_err(|Full| too_large(&self.limits))
    }

    fn mark_interpreter(&mut self, rows: &mut [CodeRow]) {
        for row in rows {
            let mut rule = self.rules.get(row.rule);
            rule.runtime = runtime_kind::PYTHON;
            if let Some(index) = self.rules.index(rule) {
                row.rule = index;
            }
        }
    }

    /// Whether both ends of a function have rules already.
    pub(super) fn covers(&self, function: &Range<u64>) -> bool {
        self.rows.covers(function)
    }

    /// Fails where the thread has had its time.
    pub(super) fn check_time(&self) -> Result<(), BuildError> {
        check_time(self.deadline, &self.limits)
    }
}

/// A file that can be read until the thread has had its time.
struct Timed<'a> {
    file: &'a dyn ReadAt,
    deadline: Duration,
}

impl ReadAt for Timed<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match cpu_time() > self.deadline {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => self.file.read_at(buffer, offset),
        }
    }

    fn len(&self) -> u64 {
        self.file.len()
    }
}

fn check_time(deadline: Duration, limits: &BuildLimits) -> Result<(), BuildError> {
    match cpu_time() > deadline {
        true => Err(BuildError::TooSlow(limits.time)),
        false => Ok(()),
    }
}

/// Whether a rule is that of a function that has just been called.
fn is_entry(rule: Rule) -> bool {
    rule.cfa == cfa::STACK_POINTER && matches!(rule.cfa_offset, 0 | 8)
}

fn too_large(limits: &BuildLimits) -> BuildError {
    BuildError::TooLarge(limits.bytes)
}

/// CPU time that this thread has had.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::binary::tests::own_program;

    #[test]
    fn without_time_nothing_is_read() {
        let program = own_program();
        let file = Timed {
            file: program.file(),
            deadline: Duration::ZERO,
        };
        assert!(file.read_exact_at(&mut [0], 0).is_err());
        let limits = BuildLimits {
            time: Duration::ZERO,
            ..BuildLimits::default()
        };
        let built = Builder::new(program.file(), &limits);
        assert!(matches!(built.err(), Some(BuildError::TooSlow(_))));
    }
}
