//! Where the table is, and what its header says (`pcHeader` of
//! src/runtime/symtab.go).

use crate::unwind::elf::{ElfImage, Place, ReadAt, u32_at, u64_at};

use super::{GoError, MAX_SEARCHED};

/// Bytes of the longest header.
const HEADER: usize = 72;

/// Sections that hold the table and nothing else; the second one in
/// position-independent programs up to Go 1.25.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];

/// What another linker than Go's own has put the second one into.
const MERGED: &str = ".data.rel.ro";

/// Sections that only programs made by Go have.
const MARKS: [&str; 2] = [".go.buildinfo", ".note.go.buildid"];

/// Bytes read at a time while the table is searched.
const WINDOW: u64 = 64 << 10;

/// The formats there have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Go 1.16 and 1.17.
    V116,
    /// Go 1.18 and 1.19: offsets of functions instead of addresses.
    V118,
    /// Go 1.20 and later: first lines of functions, smaller inlining trees.
    V120,
}

/// Begin of the table.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) format: Format,
    /// Least length of an instruction, bytes.
    pub(super) quantum: u64,
    /// How many functions.
    pub(super) count: u64,
    /// Where the code begins, as far as the table says so.
    pub(super) text: u64,
    // Where parts of the table begin, from its begin.
    pub(super) names: u64,
    pub(super) units: u64,
    pub(super) files: u64,
    pub(super) values: u64,
    pub(super) functions: u64,
}

/// Finds the table of a program.
pub(super) fn find(file: &dyn ReadAt, image: &ElfImage) -> Result<(Place, Header), GoError> {
    if let Some(section) = SECTIONS.iter().find_map(|name| image.section(name)) {
        let table = Place::from(section);
        return Ok((table, Header::read(file, table)?));
    }
    let is_go = MARKS.iter().any(|name| image.section(name).is_some());
    image
        .section(MERGED)
        .filter(|_| is_go)
        .and_then(|section| search(file, section.into()))
        .ok_or(GoError::NotGo)
}

/// Looks for a header in a section that holds more than the table.
fn search(file: &dyn ReadAt, place: Place) -> Option<(Place, Header)> {
    /// What both magic numbers of programs that are linked so end with.
    const MAGIC_TAIL: [u8; 5] = [0xff, 0xff, 0xff, 0, 0];
    let size = place.size.min(MAX_SEARCHED);
    let mut buffer = vec![0; WINDOW as usize];
    for at in (0..size).step_by(WINDOW as usize) {
        let buffer = &mut buffer[..(size - at).min(WINDOW) as usize];
        file.read_exact_at(buffer, place.offset.checked_add(at)?)
            .ok()?;
        for (index, word) in buffer.chunks_exact(8).enumerate() {
            if word[1..6] != MAGIC_TAIL {
                continue;
            }
            let skipped = at + 8 * index as u64;
            let table = Place {
                offset: place.offset.checked_add(skipped)?,
                address: place.address.checked_add(skipped)?,
                size: place.size - skipped,
            };
            if let Ok(header) = Header::read(file, table) {
                return Some((table, header));
            }
        }
    }
    None
}

impl Header {
    fn read(file: &dyn ReadAt, table: Place) -> Result<Self, GoError> {
        let mut bytes = [0; HEADER];
        if table.size < HEADER as u64 || file.read_exact_at(&mut bytes, table.offset).is_err() {
            return Err(GoError::Damaged);
        }
        let format = match u32_at(&bytes, 0) {
            0xffff_fffa => Format::V116,
            0xffff_fff0 => Format::V118,
            0xffff_fff1 => Format::V120,
            other => return Err(GoError::Format(other)),
        };
        // Padding, least length of an instruction, bytes of a pointer.
        let [_, _, _, _, 0, 0, quantum @ (1 | 2 | 4), 8, ..] = bytes else {
            return Err(GoError::Damaged);
        };
        // With 1.18 came the begin of the code, behind the two counts.
        let (text, parts) = match format {
            Format::V116 => (0, 24),
            Format::V118 | Format::V120 => (u64_at(&bytes, 24), 32),
        };
        let part = |index: usize| u64_at(&bytes, parts + 8 * index);
        let header = Self {
            format,
            quantum: quantum.into(),
            count: u64_at(&bytes, 8),
            text,
            names: part(0),
            units: part(1),
            files: part(2),
            values: part(3),
            functions: part(4),
        };
        let is_inside = header.count > 0
            && header.count.saturating_mul(8) < table.size
            && (0..5).all(|index| part(index) < table.size);
        is_inside.then_some(header).ok_or(GoError::Damaged)
    }
}
