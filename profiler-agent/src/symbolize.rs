//! Addresses -> names, through blazesym. The functions here take descriptors
//! and offsets and return values, so that they can move into a process of
//! their own.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

use blazesym::symbolize::{
    Input, Symbolized, Symbolizer,
    source::{Elf, Source},
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

/// Longest name kept, in bytes: C++ templates grow to megabytes.
const MAX_NAME: usize = 1024;

/// The path by which this process reaches one of its own descriptors.
fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
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
    /// none. While this symbolizer lives the descriptor must stay open, because
    /// its number stands for the file, and the file must not shrink, because
    /// it is mapped.
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
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    format!("{}...", &name[..name.floor_char_boundary(MAX_NAME)])
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;
    use crate::mapped_file::{MappedFile, tests::own_function};

    #[test]
    fn names_a_function_of_this_program() {
        let (_, offset) = own_function(names_a_function_of_this_program as *const ());
        let program = File::open("/proc/self/exe").unwrap();
        let names = ElfSymbolizer::default().names(program.as_fd(), &[offset, u64::MAX]);
        assert!(
            names[0][0]
                .function
                .ends_with("names_a_function_of_this_program"),
            "{names:?}"
        );
        assert_eq!(names[1], []);
    }

    /// Through a mapping of the file itself this is a SIGBUS.
    #[test]
    fn a_file_that_is_cut_while_it_is_named_does_no_harm() {
        let (_, offset) =
            own_function(a_file_that_is_cut_while_it_is_named_does_no_harm as *const ());
        let mut file = tempfile::tempfile().unwrap();
        let mut program = File::open("/proc/self/exe").unwrap();
        std::io::copy(&mut program, &mut file).unwrap();
        let (copy, _) = MappedFile::for_test(file.try_clone().unwrap(), false)
            .unchanging()
            .unwrap();
        let symbolizer = ElfSymbolizer::default();
        let before = symbolizer.names(copy.as_fd(), &[offset]);
        file.set_len(0).unwrap();
        assert_eq!(symbolizer.names(copy.as_fd(), &[offset]), before);
        let again = ElfSymbolizer::default().names(copy.as_fd(), &[offset]);
        assert_eq!(again, before);
        assert!(!before[0].is_empty());
    }

    #[test]
    fn what_is_not_elf_has_no_names() {
        let text = File::open("/proc/self/status").unwrap();
        let none = ElfSymbolizer::default().names(text.as_fd(), &[1, 2]);
        assert_eq!(none, [vec![], vec![]]);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let cut = bounded(&"\u{e9}".repeat(MAX_NAME));
        assert_eq!(cut.len(), MAX_NAME + "...".len());
        let odd = bounded(&format!("x{}", "\u{e9}".repeat(MAX_NAME)));
        assert_eq!(odd.len(), MAX_NAME - 1 + "...".len());
        assert_eq!(bounded("short"), "short");
    }
}
