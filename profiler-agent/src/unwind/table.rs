//! The unwind table of a file, as the heap holds it.

use std::{io, time::Duration};

use profiler_abi::unwind::{
    GRANULE_BITS, GRANULES, NO_RULE, PAGE_BITS, PageHead, Row, Rule, TableHead, cfa,
};
use zerocopy::FromBytes;

use super::{
    build::Builder,
    elf::{ElfError, ReadAt},
};

/// What building a table may take.
#[derive(Clone, Copy, Debug)]
pub struct BuildLimits {
    /// Most bytes of the table.
    pub bytes: usize,
    /// Most CPU time of the thread.
    pub time: Duration,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            time: Duration::from_secs(10),
        }
    }
}

/// Why there is no table of a file.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It is not a file that could have one.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// It says nothing of how to unwind its code.
    #[error("it has no unwind information")]
    NoRules,
    /// There is more than allowed, or its addresses span more than 4 GiB.
    #[error("its unwind table is larger than {0} bytes")]
    TooLarge(usize),
    /// It takes longer than allowed.
    #[error("its unwind table takes more than {0:?} to build")]
    TooSlow(Duration),
    /// It cannot be read.
    #[error("its {what} cannot be read: {error}")]
    Read {
        /// Which part.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
}

/// Where most functions of a table come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// From no table: there is only code that is recognised by what it does.
    #[default]
    None,
    /// From `.eh_frame`.
    EhFrame,
    /// From `.debug_frame`.
    DebugFrame,
    /// From the stack-delta tables of Go.
    Go,
}

impl Source {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::None, Self::EhFrame, Self::DebugFrame, Self::Go];
}

/// Why a row's frame cannot be followed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Unsupported {
    /// The frame address is computed in an unknown way.
    FrameAddress,
    /// The return address is not where it is expected.
    ReturnAddress,
    /// The caller's stack pointer is not the frame address.
    StackPointer,
    /// A number is too large for a rule.
    Range,
    /// The table has more different rules than can be numbered.
    Rules,
    /// The instructions are not valid from there on.
    Malformed,
    /// The function moves the stack pointer in ways that are written nowhere.
    StackSwitch,
}

impl Unsupported {
    /// All of them, in the order of [`TableReport::unsupported`].
    pub const ALL: [Self; 7] = [
        Self::FrameAddress,
        Self::ReturnAddress,
        Self::StackPointer,
        Self::Range,
        Self::Rules,
        Self::Malformed,
        Self::StackSwitch,
    ];

    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::FrameAddress => "frame address computed in an unknown way",
            Self::ReturnAddress => "return address not below the frame",
            Self::StackPointer => "caller's stack pointer is not the frame address",
            Self::Range => "number too large for a rule",
            Self::Rules => "too many different rules",
            Self::Malformed => "malformed instructions",
            Self::StackSwitch => "stack pointer moved in an unknown way",
        }
    }
}

/// What there is in a table, and what could not be put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableReport {
    /// Where most functions come from.
    pub source: Source,
    /// Functions, or parts of functions, with rows.
    pub functions: u64,
    /// Rows of all pages.
    pub rows: u64,
    /// Rows that cannot be followed, before equal neighbours were merged, by
    /// reason as in [`Unsupported::ALL`].
    pub unsupported: [u64; Unsupported::ALL.len()],
    /// Rows whose frame can be followed, but the caller's frame pointer is lost:
    /// it is in another register, or computed in an unknown way.
    pub frame_pointers_lost: u64,
    /// Entries that could not be read and were stepped over.
    pub malformed: u64,
    /// Pages that have more rows than fit.
    pub crowded_pages: u64,
}

/// An unwind table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Address, before relocation, of the first page; a multiple of 64 KiB.
    pub base: u64,
    /// Pages of 64 KiB of addresses each, where they have rules: a `PageHead`
    /// and its rows, padded to a multiple of 8 bytes.
    pub pages: Vec<Option<Vec<u8>>>,
    /// What rows name by index.
    pub rules: Vec<Rule>,
    /// What there is in it.
    pub report: TableReport,
}

impl Table {
    /// Bytes it takes in the heap.
    pub fn bytes(&self) -> usize {
        let pages = self.pages.iter().flatten().map(Vec::len).sum::<usize>();
        let directory = (self.pages.len() * size_of::<u32>()).next_multiple_of(8);
        size_of::<TableHead>() + directory + size_of_val(self.rules.as_slice()) + pages
    }

    /// The rule for an address before relocation, found as the kernel programs find it.
    pub fn rule(&self, address: u64) -> Option<Rule> {
        let relative = address.checked_sub(self.base)?;
        let page = usize::try_from(relative >> PAGE_BITS).ok()?;
        let bytes = self.pages.get(page)?.as_ref()?;
        let (head, rows) = PageHead::read_from_prefix(bytes).ok()?;
        let pc = relative as u16;
        let granule = usize::from(pc >> GRANULE_BITS).min(GRANULES - 1);
        let first = usize::from(head.granules[granule]);
        let last = usize::from(head.granules[granule + 1]);
        let rows = rows.get(first * size_of::<Row>()..(last + 1) * size_of::<Row>())?;
        let rows = <[Row]>::ref_from_bytes(rows).ok()?;
        let row = rows[rows.partition_point(|row| row.pc <= pc).checked_sub(1)?];
        match row.rule {
            NO_RULE => None,
            rule => self.rules.get(usize::from(rule)).copied(),
        }
    }

    /// All rows in order: from its address on a rule holds, or none does, up to
    /// the next row.
    pub fn rows(&self) -> impl Iterator<Item = (u64, Option<Rule>)> {
        let addresses = (self.base..).step_by(1 << PAGE_BITS);
        self.pages
            .iter()
            .zip(addresses)
            .flat_map(move |(page, address)| {
                let rows = page.as_deref().and_then(page_rows);
                let rows = rows.unwrap_or(&[NO_ROW]);
                rows.iter().map(move |row| {
                    let rule = self.rules.get(usize::from(row.rule)).copied();
                    (address + u64::from(row.pc), rule)
                })
            })
    }

    /// Whether the kernel programs can follow the frame of an address.
    pub fn can_unwind(&self, address: u64) -> bool {
        self.rule(address)
            .is_some_and(|rule| rule.cfa != cfa::UNSUPPORTED)
    }
}

/// The only row of a page without rules.
const NO_ROW: Row = Row {
    pc: 0,
    rule: NO_RULE,
};

/// The rows of a page.
fn page_rows(bytes: &[u8]) -> Option<&[Row]> {
    let (head, rows) = PageHead::read_from_prefix(bytes).ok()?;
    let count = usize::from(head.granules[GRANULES]) + 1;
    <[Row]>::ref_from_bytes(rows.get(..count * size_of::<Row>())?).ok()
}

/// Builds the table of a file.
///
/// # Errors
/// Fails where the file is not ELF, cannot be read, says nothing of how to
/// unwind, or needs more than the limits allow.
pub fn build(file: &dyn ReadAt, limits: &BuildLimits) -> Result<Table, BuildError> {
    Builder::new(file, limits)?.build()
}
