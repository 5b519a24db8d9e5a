//! Rows from call frame information: `.eh_frame` and `.debug_frame`.
//!
//! A section is read once from begin to end in windows, and each function's
//! entry is put behind its common one into a small section of its own, which
//! is then decoded. Order and completeness of `.eh_frame_hdr` do not matter.

mod rule;
mod state;

use std::{collections::HashMap, ops::Range};

use gimli::{BaseAddresses, DebugFrame, EhFrame, LittleEndian, UnwindSection, Vendor};

pub(super) use self::rule::{END, signal};
use self::{
    rule::convert,
    state::{Bytes, Malformed, Program, Registers, Step},
};
use super::{
    build::Builder,
    elf::{Machine, Place, ReadAt},
    rows::CodeRow,
    table::{BuildError, Source, Unsupported},
    window::Window,
};

/// Largest entry that is read: that of a function with 10,000 rows is 100 KB.
const MAX_ENTRY: u64 = 1 << 20;

/// Common entries that are kept. Linkers merge equal ones.
const MAX_COMMON: usize = 256;

/// Entries between two looks at the clock.
const ENTRIES_PER_LOOK: u64 = 256;

/// Which of the two formats a section has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    EhFrame,
    DebugFrame,
}

/// Where an entry is in its section, and what its begin says.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    /// Bytes of the length and the entry.
    size: u64,
    /// Where the identifier or pointer is in the entry, and its bytes.
    id_at: usize,
    id_size: usize,
    /// The common entry's offset; none: it is one.
    common: Option<u64>,
}

/// Reads one section.
pub(super) struct Reader<'b, 'a> {
    builder: &'b mut Builder<'a>,
    format: Format,
    section: Place,
    bases: BaseAddresses,
    /// Where the section ends is known from nothing else.
    ends_at_terminator: bool,
    program: Program,
    common: HashMap<u64, Vec<u8>>,
    /// The section of two entries.
    pair: Vec<u8>,
    rows: Vec<CodeRow>,
}

impl<'b, 'a> Reader<'b, 'a> {
    /// `section` is a place in what [`Reader::read`] is given.
    pub(super) fn new(builder: &'b mut Builder<'a>, format: Format, section: Place) -> Self {
        let image = &builder.image;
        let address = |name| image.section(name).map_or(0, |section| section.address);
        Self {
            bases: BaseAddresses::default()
                .set_text(address(".text"))
                .set_got(address(".got")),
            ends_at_terminator: image.section(".eh_frame").is_none(),
            program: Program::new(Registers::of(image.machine)),
            builder,
            format,
            section,
            common: HashMap::new(),
            pair: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Adds the rows of all functions that the section describes.
    pub(super) fn read(mut self, file: &dyn ReadAt) -> Result<(), BuildError> {
        let mut window = Window::new(file, self.section);
        let (mut offset, mut entries) = (0, 0_u64);
        while let Some(head) = window.get(offset, HEAD).map_err(|e| self.failed(e))? {
            entries += 1;
            if entries % ENTRIES_PER_LOOK == 0 {
                self.builder.check_time()?;
            }
            let Some(entry) = self.entry(offset, head) else {
                if self.ends_at_terminator {
                    break;
                }
                // What a linker put behind it is still used.
                offset += 4;
                continue;
            };
            offset = match offset.checked_add(entry.size) {
                Some(next) if next <= self.section.size => next,
                _ => {
                    self.builder.report.malformed += 1;
                    return Ok(());
                }
            };
            if entry.common.is_none() {
                continue;
            }
            if entry.size > MAX_ENTRY {
                self.builder.report.malformed += 1;
                continue;
            }
            let bytes = window.get(entry.offset, entry.size as usize);
            let bytes = bytes.map_err(|e| self.failed(e))?.unwrap_or_default();
            self.function(file, entry, bytes)?;
        }
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> BuildError {
        BuildError::Read {
            what: match self.format {
                Format::EhFrame => ".eh_frame",
                Format::DebugFrame => ".debug_frame",
            },
            error,
        }
    }

    /// What an entry begins with: 4 bytes of length, or 12 in 64-bit DWARF, and
    /// what tells common entries and functions apart. None for a terminator.
    fn entry(&self, offset: u64, head: &[u8]) -> Option<Entry> {
        const EXTENDED: u64 = 0xffff_ffff;
        let number = |at: usize, size: usize| {
            let mut bytes = [0; 8];
            let there = head.get(at..).unwrap_or_default();
            let size = size.min(there.len());
            bytes[..size].copy_from_slice(&there[..size]);
            u64::from_le_bytes(bytes)
        };
        let (length, id_at) = match number(0, 4) {
            0 => return None,
            EXTENDED => (number(4, 8), 12),
            length => (length, 4),
        };
        let id_size = match (self.format, id_at) {
            (Format::DebugFrame, 12) => 8,
            _ => 4,
        };
        let id = number(id_at, id_size);
        let common = match self.format {
            Format::EhFrame if id == 0 => None,
            // Counted back from where it stands.
            Format::EhFrame => Some(offset.wrapping_add(id_at as u64).wrapping_sub(id)),
            Format::DebugFrame if id == u64::MAX >> (64 - 8 * id_size) => None,
            Format::DebugFrame => Some(id),
        };
        Some(Entry {
            offset,
            size: length.saturating_add(id_at as u64),
            id_at,
            id_size,
            common,
        })
    }

    /// Adds the rows of one function.
    fn function(
        &mut self,
        file: &dyn ReadAt,
        entry: Entry,
        bytes: &[u8],
    ) -> Result<(), BuildError> {
        let common = entry.common.unwrap_or_default();
        if bytes.len() < entry.id_at + entry.id_size || !self.load_common(file, common) {
            self.builder.report.malformed += 1;
            return Ok(());
        }
        let common_size = self.pair.len();
        self.pair.extend_from_slice(bytes);
        // The common entry is at 0 now.
        let id_at = common_size + entry.id_at;
        let id = match self.format {
            Format::EhFrame => id_at as u64,
            Format::DebugFrame => 0,
        };
        self.pair[id_at..id_at + entry.id_size].copy_from_slice(&id.to_le_bytes()[..entry.id_size]);
        let address = self.section.address.wrapping_add(entry.offset);
        self.bases.eh_frame.section = Some(address.wrapping_sub(common_size as u64));
        let pair = std::mem::take(&mut self.pair);
        let vendor = match self.builder.image.machine {
            Machine::X86_64 => Vendor::Default,
            Machine::Aarch64 => Vendor::AArch64,
        };
        let result = match self.format {
            Format::EhFrame => {
                let mut section = EhFrame::new(&pair, LittleEndian);
                section.set_vendor(vendor);
                self.decode(&section, common_size)
            }
            Format::DebugFrame => {
                let mut section = DebugFrame::new(&pair, LittleEndian);
                section.set_vendor(vendor);
                self.decode(&section, common_size)
            }
        };
        self.pair = pair;
        result
    }

    /// Puts a common entry into `pair`; false where there is none.
    fn load_common(&mut self, file: &dyn ReadAt, offset: u64) -> bool {
        self.pair.clear();
        if let Some(bytes) = self.common.get(&offset) {
            self.pair.extend_from_slice(bytes);
            return true;
        }
        let Some(bytes) = self.read_common(file, offset) else {
            return false;
        };
        if self.common.len() >= MAX_COMMON {
            self.common.clear();
        }
        self.pair.extend_from_slice(&bytes);
        self.common.insert(offset, bytes);
        true
    }

    fn read_common(&self, file: &dyn ReadAt, offset: u64) -> Option<Vec<u8>> {
        const MAX_SIZE: u64 = 4096;
        let left = self.section.size.checked_sub(offset)?;
        let mut head = [0; HEAD];
        let there = left.min(HEAD as u64) as usize;
        let at = self.section.offset.checked_add(offset)?;
        file.read_exact_at(&mut head[..there], at).ok()?;
        let entry = self.entry(offset, &head[..there])?;
        if entry.common.is_some() || entry.size > left.min(MAX_SIZE) {
            return None;
        }
        let mut bytes = vec![0; entry.size as usize];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    /// Decodes the function that stands at `at` in a section of two entries.
    fn decode<'s, S: UnwindSection<Bytes<'s>>>(
        &mut self,
        section: &S,
        at: usize,
    ) -> Result<(), BuildError> {
        let bases = self.bases.clone();
        let function = section.fde_from_offset(&bases, at.into(), S::cie_from_offset);
        let Ok(function) = function else {
            self.builder.report.malformed += 1;
            return Ok(());
        };
        let (start, size) = (function.initial_address(), function.len());
        // Linkers leave entries of functions that they dropped, at address 0
        // in .debug_frame.
        let dropped = start == 0 && self.format == Format::DebugFrame;
        let Some(range) = self.builder.code_range(start, size).filter(|_| !dropped) else {
            return Ok(());
        };
        if self.format == Format::DebugFrame && self.builder.covers(&range) {
            return Ok(());
        }
        let common = function.cie();
        self.program.reset(
            common.code_alignment_factor(),
            common.data_alignment_factor(),
        );
        let mut run = Run {
            reader: self,
            is_signal: common.is_signal_trampoline(),
            at: start,
            end: range.end,
        };
        run.reader.rows.clear();
        let done = run.common(common.instructions(section, &bases), section);
        let done =
            done.and_then(|()| run.function(function.instructions(section, &bases), section));
        if done.is_err() {
            run.malformed();
        }
        self.add(range)
    }

    fn add(&mut self, range: Range<u64>) -> Result<(), BuildError> {
        let source = match self.format {
            Format::EhFrame => Source::EhFrame,
            Format::DebugFrame => Source::DebugFrame,
        };
        let mut rows = std::mem::take(&mut self.rows);
        let result = self.builder.add(source, range, &mut rows);
        self.rows = rows;
        result
    }
}

/// Bytes that [`Reader::entry`] needs at most.
const HEAD: usize = 20;

/// The execution of one function's instructions.
struct Run<'r, 'b, 'a> {
    reader: &'r mut Reader<'b, 'a>,
    is_signal: bool,
    at: u64,
    end: u64,
}

type Instructions<'i, 's> = gimli::CallFrameInstructionIter<'i, Bytes<'s>>;

impl Run<'_, '_, '_> {
    fn common<'s, S: UnwindSection<Bytes<'s>>>(
        &mut self,
        mut instructions: Instructions<'_, 's>,
        section: &S,
    ) -> Result<(), Malformed> {
        while let Some(instruction) = instructions.next().map_err(|_| Malformed)? {
            match self.reader.program.execute(instruction, section)? {
                Step::Stay => {}
                Step::By(_) | Step::To(_) => return Err(Malformed),
            }
        }
        self.reader.program.begin_function();
        Ok(())
    }

    fn function<'s, S: UnwindSection<Bytes<'s>>>(
        &mut self,
        mut instructions: Instructions<'_, 's>,
        section: &S,
    ) -> Result<(), Malformed> {
        while let Some(instruction) = instructions.next().map_err(|_| Malformed)? {
            let next = match self.reader.program.execute(instruction, section)? {
                Step::Stay => continue,
                Step::By(delta) => self.at.checked_add(delta).ok_or(Malformed)?,
                Step::To(address) => address,
            };
            if next < self.at {
                return Err(Malformed);
            }
            if next > self.at {
                self.row();
                self.at = next;
            }
            if self.at >= self.end {
                return Ok(());
            }
        }
        self.row();
        Ok(())
    }

    /// What was executed until now holds from here on.
    fn row(&mut self) {
        let reader = &mut *self.reader;
        let machine = reader.builder.image.machine;
        let rule = convert(reader.program.state(), machine, self.is_signal);
        let row = match rule {
            Ok(converted) => {
                reader.builder.report.frame_pointers_lost +=
                    u64::from(converted.frame_pointer_lost);
                reader.builder.row(self.at, converted.rule)
            }
            Err(reason) => reader.builder.unsupported(self.at, reason),
        };
        reader.rows.push(row);
    }

    /// Nothing is known from here on.
    fn malformed(&mut self) {
        let row = self
            .reader
            .builder
            .unsupported(self.at, Unsupported::Malformed);
        self.reader.rows.push(row);
    }
}
