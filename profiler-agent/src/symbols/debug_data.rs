//! MiniDebugInfo: a symbol table of the functions that `.dynsym` leaves out,
//! in an ELF file of its own, packed with xz in the section `.gnu_debugdata`.
//! Fedora and its kin ship it in every binary.

use std::{
    io::{self, Read},
    sync::Arc,
};

use lzma_rust2::XzReader;

use super::sections::{Binary, Bytes};
use crate::{
    mapped_file::{MappedFile, MappedFileError},
    unwind::elf::{ContentsError, ElfError},
};

/// The section's name.
pub const SECTION: &str = ".gnu_debugdata";

/// Most bytes of it, packed and unpacked. That of Fedora's LLVM has 2 and 14 MiB.
const MAX_PACKED: u64 = 16 << 20;
const MAX_UNPACKED: u64 = 64 << 20;

/// Most memory that unpacking may take, in KiB: what `xz -9` needs.
const MAX_DICTIONARY: u32 = 66 << 10;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum DebugDataError {
    /// The section cannot be read.
    #[error(transparent)]
    Section(#[from] ContentsError),
    /// It is not xz, or needs more memory than it may.
    #[error("{SECTION} cannot be unpacked: {0}")]
    Unpack(io::Error),
    /// There is more in it than is believed.
    #[error("{SECTION} holds more than {MAX_UNPACKED} bytes")]
    TooLarge,
    /// What is in it is something else.
    #[error("what {SECTION} holds: {0}")]
    Elf(#[from] ElfError),
    /// There is no memory for it.
    #[error("memory for {SECTION}: {0}")]
    Memory(#[from] MappedFileError),
}

/// The ELF file in `.gnu_debugdata`, unpacked; `None` where there is none.
///
/// # Errors
/// Fails where it is damaged or larger than any linker makes it.
pub fn unpacked(binary: &Binary) -> Result<Option<Binary>, DebugDataError> {
    let packed = binary.read(SECTION, MAX_PACKED)?;
    if let Bytes::Empty = packed {
        return Ok(None);
    }
    let bytes = unpack(&packed)?;
    let file = MappedFile::from_memory(&bytes)?;
    Ok(Some(Binary::new(Arc::new(file))?))
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, DebugDataError> {
    let mut bytes = Vec::new();
    XzReader::new_mem_limit(packed, false, MAX_DICTIONARY)
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut bytes)
        .map_err(DebugDataError::Unpack)?;
    match bytes.len() as u64 > MAX_UNPACKED {
        true => Err(DebugDataError::TooLarge),
        false => Ok(bytes),
    }
}
