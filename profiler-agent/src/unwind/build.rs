//! From a file to its table, source by source.

use std::time::Duration;

use profiler_abi::unwind::{Rule, runtime_kind};
use rustix::time::{ClockId, clock_gettime};

use super::{
    elf::{ElfImage, ReadAt},
    rows::{CodeRow, Full, Rows, Rules, UNSUPPORTED},
    table::{BuildError, BuildLimits, Source, Table, TableReport, Unsupported},
};

/// What all sources of rows work with.
pub(super) struct Builder<'a> {
    pub(super) file: &'a dyn ReadAt,
    pub(super) image: ElfImage,
    pub(super) report: TableReport,
    limits: BuildLimits,
    deadline: Duration,
    rules: Rules,
    rows: Rows,
}

impl<'a> Builder<'a> {
    pub(super) fn new(file: &'a dyn ReadAt, limits: &BuildLimits) -> Result<Self, BuildError> {
        let image = ElfImage::read(file)?;
        let start = image.code().map(|segment| segment.address).min();
        let end = image.code().map(|segment| segment.end()).max();
        let addresses = start.unwrap_or(0)..end.unwrap_or(0);
        Ok(Self {
            file,
            image,
            report: TableReport::default(),
            limits: *limits,
            deadline: cpu_time().saturating_add(limits.time),
            rules: Rules::new(),
            rows: Rows::new(addresses, limits.bytes).map_err(|Full| too_large(limits))?,
        })
    }

    pub(super) fn build(mut self) -> Result<Table, BuildError> {
        if self.report.functions == 0 {
            return Err(BuildError::NoRules);
        }
        let base = self.rows.base();
        let packed = self.rows.pack();
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

fn too_large(limits: &BuildLimits) -> BuildError {
    BuildError::TooLarge(limits.bytes)
}

/// CPU time that this thread has had.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}
