//! Symbol tables of ELF files, through blazesym. The functions here take
//! descriptors and return values, so that they can move into a process of
//! their own.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

use blazesym::symbolize::{
    Input, Symbolized, Symbolizer,
    source::{Elf, Source},
};

use crate::symbols::demangle::demangled;

/// A function that holds an address; innermost inlined one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Demangled.
    pub function: String,
    /// Source file, empty where unknown.
    pub file: String,
    /// Where in it: of the innermost function the line of the instruction, of
    /// the others that of the call; 0 where unknown.
    pub line: u32,
}

/// Where in a file a name is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Places<'a> {
    /// Offsets in the file.
    Offsets(&'a [u64]),
    /// Addresses as they stand in the file.
    Addresses(&'a [u64]),
}

impl Places<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Offsets(places) | Self::Addresses(places) => places.len(),
        }
    }
}

/// The path by which this process reaches one of its own descriptors.
fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Names places in ELF files. Keeps the symbol tables it has read.
pub struct ElfSymbolizer {
    symbolizer: Symbolizer,
}

impl Default for ElfSymbolizer {
    fn default() -> Self {
        Self {
            symbolizer: Symbolizer::builder()
                .enable_code_info(false)
                .enable_inlined_fns(false)
                // blazesym has no bound on what a name may grow to.
                .enable_demangling(false)
                .build(),
        }
    }
}

impl ElfSymbolizer {
    /// Names by `.symtab`, else by `.dynsym`, in the order given. While this
    /// symbolizer lives the descriptor must stay open, because its number
    /// stands for the file, and the file must not shrink, because it is mapped.
    pub fn names(&self, fd: BorrowedFd<'_>, places: Places<'_>) -> Vec<Option<String>> {
        let mut elf = Elf::new(path_of(fd));
        // DWARF is read elsewhere, within bounds.
        elf.debug_syms = false;
        let source = Source::Elf(elf);
        let input = match places {
            Places::Offsets(offsets) => Input::FileOffset(offsets),
            Places::Addresses(addresses) => Input::VirtOffset(addresses),
        };
        match self.symbolizer.symbolize(&source, input) {
            Ok(symbols) => symbols.iter().map(name).collect(),
            Err(error) => {
                tracing::debug!("no symbols from {source:?}: {error}");
                vec![None; places.len()]
            }
        }
    }
}

fn name(symbol: &Symbolized<'_>) -> Option<String> {
    match symbol {
        Symbolized::Sym(symbol) => Some(demangled(&symbol.name)),
        Symbolized::Unknown(_) => None,
    }
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
        let places = [offset, u64::MAX];
        let names = ElfSymbolizer::default().names(program.as_fd(), Places::Offsets(&places));
        let name = names[0].as_deref().unwrap();
        assert!(name.ends_with("names_a_function_of_this_program"), "{name}");
        assert_eq!(names[1], None);
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
        let places = [offset];
        let before = symbolizer.names(copy.as_fd(), Places::Offsets(&places));
        file.set_len(0).unwrap();
        let after = symbolizer.names(copy.as_fd(), Places::Offsets(&places));
        assert_eq!(after, before);
        let again = ElfSymbolizer::default().names(copy.as_fd(), Places::Offsets(&places));
        assert_eq!(again, before);
        assert!(before[0].is_some());
    }

    #[test]
    fn what_is_not_elf_has_no_names() {
        let text = File::open("/proc/self/status").unwrap();
        let none = ElfSymbolizer::default().names(text.as_fd(), Places::Addresses(&[1, 2]));
        assert_eq!(none, [None, None]);
    }
}
