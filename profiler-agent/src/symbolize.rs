//! Addresses -> names, through blazesym. The functions here take descriptors
//! and offsets and return values, so that they can move into a process of
//! their own.

use std::{
    fs,
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

use blazesym::{
    helper::read_elf_build_id,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Elf, Source},
    },
};

/// A function that holds an address; innermost inlined one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Demangled.
    pub function: String,
    /// Source file, empty where unknown.
    pub file: String,
    /// 0 where unknown.
    pub line: u32,
}

/// Longest name kept: C++ templates grow to megabytes.
const MAX_NAME: usize = 4096;

/// The path by which this process reaches one of its own descriptors.
fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The GNU build-id of an ELF file, empty where it has none or is not ELF.
pub fn build_id(fd: BorrowedFd<'_>) -> Vec<u8> {
    match read_elf_build_id(&path_of(fd)) {
        Ok(Some(id)) => id.into_owned(),
        Ok(None) => Vec::new(),
        Err(error) => {
            tracing::debug!("no build-id: {error}");
            Vec::new()
        }
    }
}

/// The running kernel's build-id, from its notes; empty where they are hidden.
pub fn kernel_build_id() -> Vec<u8> {
    fs::read("/sys/kernel/notes")
        .ok()
        .and_then(|notes| build_id_note(&notes))
        .unwrap_or_default()
}

/// Finds `NT_GNU_BUILD_ID` in ELF notes: name size, description size, type,
/// name, description, each padded to 4 bytes.
fn build_id_note(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    loop {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(notes.get(at..at + 4)?.try_into().ok()?))
        };
        let (name_size, size, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let name = notes.get(12..)?.get(..name_size)?;
        let start = 12 + name_size.next_multiple_of(4);
        let description = notes.get(start..)?.get(..size)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(description.to_vec());
        }
        notes = notes.get(start + size.next_multiple_of(4)..)?;
    }
}

/// Names offsets in ELF files. Keeps the symbol tables it has read.
pub struct ElfSymbolizer {
    symbolizer: Symbolizer,
}

impl Default for ElfSymbolizer {
    fn default() -> Self {
        Self {
            symbolizer: Symbolizer::builder().enable_code_info(false).build(),
        }
    }
}

impl ElfSymbolizer {
    /// Names of file offsets, in the order given; empty where an offset has
    /// none. While this symbolizer lives the descriptor must stay open: its
    /// number stands for the file.
    pub fn names(&self, fd: BorrowedFd<'_>, offsets: &[u64]) -> Vec<Vec<Name>> {
        let mut elf = Elf::new(path_of(fd));
        // Symbol tables only. Reading DWARF costs memory in proportion to it.
        elf.debug_syms = false;
        let source = Source::Elf(elf);
        match self
            .symbolizer
            .symbolize(&source, Input::FileOffset(offsets))
        {
            Ok(symbols) => symbols.iter().map(names).collect(),
            Err(error) => {
                tracing::debug!("no symbols from {source:?}: {error}");
                vec![Vec::new(); offsets.len()]
            }
        }
    }
}

fn names(symbol: &Symbolized<'_>) -> Vec<Name> {
    let Symbolized::Sym(symbol) = symbol else {
        return Vec::new();
    };
    let inlined = symbol.inlined.iter().rev().map(|inlined| Name {
        function: bounded(&inlined.name),
        ..Name::default()
    });
    let holder = Name {
        function: bounded(&symbol.name),
        ..Name::default()
    };
    inlined.chain([holder]).collect()
}

fn bounded(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;
    use crate::processes::parse_maps;

    #[test]
    fn names_a_function_of_this_program() {
        let address = names_a_function_of_this_program as *const () as u64;
        let maps = parse_maps(&fs::read("/proc/self/maps").unwrap());
        let mapping = maps
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address))
            .unwrap();
        let program = File::open("/proc/self/exe").unwrap();
        let offset = address - mapping.start + mapping.offset;
        let names = ElfSymbolizer::default().names(program.as_fd(), &[offset, u64::MAX]);
        assert!(
            names[0][0]
                .function
                .ends_with("names_a_function_of_this_program"),
            "{names:?}"
        );
        assert_eq!(names[1], []);
    }

    #[test]
    fn reads_the_build_id_among_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, description) in [
            (&b"Linux\0"[..], 257u32, &b"x"[..]),
            (b"GNU\0", 3, b"12345678901234567890"),
        ] {
            notes.extend_from_slice(&(name.len() as u32).to_ne_bytes());
            notes.extend_from_slice(&(description.len() as u32).to_ne_bytes());
            notes.extend_from_slice(&kind.to_ne_bytes());
            for part in [name, description] {
                notes.extend_from_slice(part);
                notes.resize(notes.len().next_multiple_of(4), 0);
            }
        }
        assert_eq!(
            build_id_note(&notes).as_deref(),
            Some(&b"12345678901234567890"[..])
        );
        for len in 0..notes.len() {
            assert_eq!(build_id_note(&notes[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn what_is_not_elf_has_no_names() {
        let text = File::open("/proc/self/status").unwrap();
        let none = ElfSymbolizer::default().names(text.as_fd(), &[1, 2]);
        assert_eq!(none, [vec![], vec![]]);
        assert_eq!(build_id(text.as_fd()), []);
    }
}
