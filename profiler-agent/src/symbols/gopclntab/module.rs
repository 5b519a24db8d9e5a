//! What the table of functions refers to but does not contain: where the code
//! begins and where data of functions are. Both stand in `moduledata`
//! (src/runtime/symtab.go), a variable of the runtime that begins with a pointer
//! to the table and another to its names. In position-independent programs
//! these pointers are written when the program starts; the relocations say
//! what they will be.

use crate::unwind::elf::{Place, ReadAt, Section, u64_at};

use super::{GoNames, MAX_SEARCHED, table::Format};

/// Bytes read at a time: whole relocations, whole words.
const WINDOW: usize = 24 << 12;

/// Bytes of a relocation (`Elf64_Rela`).
const RELOCATION: usize = 24;

/// Words of `moduledata` up to the last one used.
const WORDS: usize = 42;

/// Place of `text` in it, in words.
const TEXT: usize = 22;

/// Sections that may hold it; the first one since Go 1.26, by itself.
const SECTIONS: [&str; 4] = [".go.module", ".noptrdata", ".data", ".data.rel.ro"];

/// What is known of the program besides its table of functions.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Where the code begins that offsets of functions count from.
    pub(super) text: u64,
    /// What offsets of functions' data count from; `None`: not found.
    pub(super) function_data: Option<u64>,
}

impl Module {
    pub(super) fn find(file: &dyn ReadAt, go: &GoNames) -> Option<Self> {
        if go.header.format == Format::V116 {
            return Some(Self::default());
        }
        let words = find_words(file, go);
        let word = |index: usize| words.as_ref().map(|words| words[index]);
        let symbol = || {
            let symbols = go.image.symbols_with_prefix(file, "runtime.text");
            let text = symbols.iter().find(|symbol| symbol.name == "runtime.text");
            text.map(|symbol| symbol.address)
        };
        let section = || go.image.section(".text").map(|section| section.address);
        // The table itself says so up to Go 1.25, where no relocation writes it.
        let text = word(TEXT)
            .filter(|text| go.image.is_code(*text))
            .or_else(|| Some(go.header.text).filter(|text| go.image.is_code(*text)))
            .or_else(symbol)
            .or_else(section)?;
        // Before Go 1.20 there were no counters of coverage before it.
        let function_data = if go.header.format == Format::V118 {
            38
        } else {
            40
        };
        Some(Self {
            text,
            function_data: word(function_data)
                .filter(|address| go.image.offset_of(*address).is_some()),
        })
    }
}

/// The words of `moduledata` as they are once the program runs.
fn find_words(file: &dyn ReadAt, go: &GoNames) -> Option<[u64; WORDS]> {
    let begin = [
        go.table.address,
        go.table.address.checked_add(go.header.names)?,
    ];
    let sections = SECTIONS.iter().filter_map(|name| go.image.section(name));
    let address = sections
        .filter_map(|section| search_data(file, section, begin))
        .next()
        .or_else(|| search_relocations(file, go, begin))?;
    let mut bytes = [0; 8 * WORDS];
    file.read_exact_at(&mut bytes, go.image.offset_of(address)?)
        .ok()?;
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64_at(bytes, 0);
    }
    for_relocations(file, go, |place, value| {
        let index = place.wrapping_sub(address) / 8;
        if let Some(word) = words.get_mut(index as usize) {
            *word = value;
        }
    });
    Some(words)
}

/// The address of two words that follow each other.
fn search_data(file: &dyn ReadAt, section: &Section, begin: [u64; 2]) -> Option<u64> {
    let mut before = None;
    let mut found = None;
    for_windows(file, section.into(), |address, bytes| {
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64_at(word, 0);
            if word == begin[1] && before == Some(begin[0]) {
                let at = address.wrapping_add(8 * index as u64);
                found = found.or(Some(at.wrapping_sub(8)));
            }
            before = Some(word);
        }
    });
    found
}

/// The address where such words will be. Linkers sort relocations by address.
fn search_relocations(file: &dyn ReadAt, go: &GoNames, begin: [u64; 2]) -> Option<u64> {
    let mut before = None;
    let mut found = None;
    for_relocations(file, go, |place, value| {
        if value == begin[1] && before == Some((place.wrapping_sub(8), begin[0])) {
            found = found.or(Some(place.wrapping_sub(8)));
        }
        before = Some((place, value));
    });
    found
}

/// Calls `see(address, value)` for each word that is written when the program
/// is loaded.
fn for_relocations(file: &dyn ReadAt, go: &GoNames, mut see: impl FnMut(u64, u64)) {
    /// `R_X86_64_RELATIVE` and `R_AARCH64_RELATIVE`.
    const RELATIVE: [u64; 2] = [8, 1027];
    const SHT_RELA: u32 = 4;
    let is_read = |section: &&Section| section.kind == SHT_RELA && section.is_loaded();
    // Go's own linker calls it .rela, others .rela.dyn; beside it is .rela.plt.
    for section in go.image.sections.iter().filter(is_read).take(2) {
        for_windows(file, section.into(), |_, bytes| {
            for relocation in bytes.chunks_exact(RELOCATION) {
                if RELATIVE.contains(&(u64_at(relocation, 8) & 0xffff_ffff)) {
                    see(u64_at(relocation, 0), u64_at(relocation, 16));
                }
            }
        });
    }
}

/// Calls `see(address, bytes)` for one window after the other.
fn for_windows(file: &dyn ReadAt, place: Place, mut see: impl FnMut(u64, &[u8])) {
    let size = place.size.min(MAX_SEARCHED);
    let mut buffer = vec![0; WINDOW];
    let mut at = 0;
    while at < size {
        let buffer = &mut buffer[..(size - at).min(WINDOW as u64) as usize];
        let read = file.read_exact_at(buffer, place.offset.saturating_add(at));
        if read.is_err() {
            return;
        }
        see(place.address.wrapping_add(at), buffer);
        at += WINDOW as u64;
    }
}
