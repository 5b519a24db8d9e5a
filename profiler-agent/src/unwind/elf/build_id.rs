//! The build-id of a file: what its linker wrote to tell it from all others.

use super::{ElfImage, ReadAt, u32_at};

/// Longest build-id: twice what any linker makes.
const MAX_BUILD_ID: usize = 64;

/// Most bytes of one note segment that are looked through.
const MAX_NOTES: u64 = 64 << 10;

impl ElfImage {
    /// The GNU build-id; empty where there is none.
    pub fn build_id(&self, file: &dyn ReadAt) -> Vec<u8> {
        let id = self.notes.iter().find_map(|place| {
            let mut notes = vec![0; place.size.min(MAX_NOTES) as usize];
            file.read_exact_at(&mut notes, place.offset).ok()?;
            build_id_note(&notes).map(<[u8]>::to_vec)
        });
        id.unwrap_or_default()
    }
}

/// Finds `NT_GNU_BUILD_ID` in ELF notes: name size, description size, type,
/// name, description, each padded to 4 bytes.
fn build_id_note(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    const HEADER: usize = 12;
    while notes.len() >= HEADER {
        let (name_size, size) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize);
        let start = HEADER.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let end = start.checked_add(size)?;
        let is_build_id = u32_at(notes, 8) == NT_GNU_BUILD_ID;
        if is_build_id && notes.get(HEADER..HEADER + name_size)? == b"GNU\0" {
            return notes.get(start..end).filter(|id| id.len() <= MAX_BUILD_ID);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}
