//! The binary search table of `.eh_frame_hdr`, read where the search goes.
//!
//! Format: Linux Standard Base, 10.6.2. Only the encodings that libgcc searches
//! too, and every linker writes, are taken; gimli's own search trusts the
//! number of entries and where they point.

use super::pages::Source;
use crate::unwind::elf::Place;

/// Where the table is and how much of it there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct SearchTable {
    /// Of the first entry, in the file.
    offset: u64,
    /// Entries.
    count: u64,
    /// Address that entries are relative to: that of `.eh_frame_hdr`.
    base: u64,
}

/// What the table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    /// Address of the function.
    pub function: u64,
    /// Address of its entry in `.eh_frame`.
    pub entry: u64,
}

/// Version, three encodings, where `.eh_frame` is, how many entries.
const HEADER: u64 = 12;

/// Two numbers of 4 bytes.
const ENTRY: u64 = 8;

impl SearchTable {
    /// Reads the header; `None` where there is no such table.
    pub(super) fn read(source: Source<'_>, place: Place) -> Option<Self> {
        let mut header = [0; HEADER as usize];
        source.read(&mut header, place.offset).ok()?;
        let [1, pointer, 0x03, 0x3b, _, _, _, _, count @ ..] = header else {
            return None;
        };
        // DW_EH_PE_sdata4 or udata4, whatever it is relative to: 4 bytes.
        if pointer & 0x07 != 0x03 {
            return None;
        }
        let stored = place.size.saturating_sub(HEADER) / ENTRY;
        let count = u64::from(u32::from_le_bytes(count)).min(stored);
        (count > 0).then_some(Self {
            offset: place.offset.checked_add(HEADER)?,
            count,
            base: place.address,
        })
    }

    /// The last function that starts at or below an address.
    pub(super) fn find(&self, source: Source<'_>, address: u64) -> Option<Hit> {
        // Those before `low` start at or below it, those from `high` on above.
        let (mut low, mut high) = (0, self.count);
        let mut hit = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let candidate = self.entry(source, middle)?;
            match candidate.function <= address {
                true => {
                    hit = Some(candidate);
                    low = middle + 1;
                }
                false => high = middle,
            }
        }
        hit
    }

    fn entry(&self, source: Source<'_>, index: u64) -> Option<Hit> {
        let mut bytes = [0; ENTRY as usize];
        let offset = self.offset.checked_add(index.checked_mul(ENTRY)?)?;
        source.read(&mut bytes, offset).ok()?;
        let [a, b, c, d, e, f, g, h] = bytes;
        let address = |bytes| {
            let relative = i32::from_le_bytes(bytes);
            self.base.wrapping_add_signed(relative.into())
        };
        Some(Hit {
            function: address([a, b, c, d]),
            entry: address([e, f, g, h]),
        })
    }
}
