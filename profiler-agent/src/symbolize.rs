//! Addresses -> names, through blazesym. The functions here take descriptors
//! and offsets and return values, so that they can move into a process of
//! their own.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

use blazesym::{
    MaybeDefault,
    helper::read_elf_build_id,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Elf, Kernel, Source},
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

/// Names of file offsets in an ELF file, in the order given; empty where an
/// offset has none.
pub fn symbolize_elf(fd: BorrowedFd<'_>, offsets: &[u64]) -> Vec<Vec<Name>> {
    let mut elf = Elf::new(path_of(fd));
    // Symbol tables only. Reading DWARF costs memory in proportion to it.
    elf.debug_syms = false;
    symbolize(
        &Symbolizer::builder().enable_code_info(false).build(),
        &Source::Elf(elf),
        Input::FileOffset(offsets),
        offsets.len(),
    )
}

/// Names of kernel addresses, from `/proc/kallsyms`, modules included.
pub fn symbolize_kernel(addresses: &[u64]) -> Vec<Vec<Name>> {
    let kernel = Kernel {
        vmlinux: MaybeDefault::None,
        debug_syms: false,
        ..Kernel::default()
    };
    symbolize(
        &Symbolizer::builder().enable_code_info(false).build(),
        &Source::Kernel(kernel),
        Input::AbsAddr(addresses),
        addresses.len(),
    )
}

fn symbolize(
    symbolizer: &Symbolizer,
    source: &Source<'_>,
    input: Input<&[u64]>,
    len: usize,
) -> Vec<Vec<Name>> {
    match symbolizer.symbolize(source, input) {
        Ok(symbols) => symbols.iter().map(names).collect(),
        Err(error) => {
            tracing::debug!("no symbols from {source:?}: {error}");
            vec![Vec::new(); len]
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
        let maps = parse_maps(&std::fs::read("/proc/self/maps").unwrap());
        let mapping = maps
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address))
            .unwrap();
        let program = File::open("/proc/self/exe").unwrap();
        let offset = address - mapping.start + mapping.offset;
        let names = symbolize_elf(program.as_fd(), &[offset, u64::MAX]);
        assert!(
            names[0][0]
                .function
                .ends_with("names_a_function_of_this_program"),
            "{names:?}"
        );
        assert_eq!(names[1], []);
    }

    #[test]
    fn what_is_not_elf_has_no_names() {
        let text = File::open("/proc/self/status").unwrap();
        assert_eq!(symbolize_elf(text.as_fd(), &[1, 2]), [vec![], vec![]]);
        assert_eq!(build_id(text.as_fd()), []);
    }
}
