//! A section read in order, piece by piece.

use std::io;

use super::elf::{Place, ReadAt};

/// Bytes read at a time.
const WINDOW: u64 = 256 << 10;

/// The part of a section that is in memory.
pub(super) struct Window<'f> {
    file: &'f dyn ReadAt,
    section: Place,
    /// Where in the section `bytes` are.
    start: u64,
    bytes: Vec<u8>,
}

impl<'f> Window<'f> {
    pub(super) fn new(file: &'f dyn ReadAt, section: Place) -> Self {
        Self {
            file,
            section,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// Up to `size` bytes at an offset in the section, fewer at its end, none
    /// behind it.
    pub(super) fn get(&mut self, offset: u64, size: usize) -> io::Result<Option<&[u8]>> {
        let left = self.section.size.saturating_sub(offset);
        if left == 0 {
            return Ok(None);
        }
        let size = left.min(size as u64);
        let there = self.start..self.start + self.bytes.len() as u64;
        if offset < there.start || offset + size > there.end {
            self.start = offset;
            self.bytes.clear();
            self.bytes.resize(left.min(WINDOW.max(size)) as usize, 0);
            let at = self.section.offset.saturating_add(offset);
            self.file.read_exact_at(&mut self.bytes, at)?;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + size as usize))
    }
}
