//! CPython, 3.8 to 3.13: where in a file the interpreter is, of which version,
//! and how the kernel programs find their way in its memory.

mod code;
mod layout;
mod lines;

use profiler_abi::{python::PythonInfo, unwind::runtime_kind};
use zerocopy::IntoBytes;

use crate::unwind::elf::{ElfImage, ReadAt};

pub use code::{CodeRecordError, CodeTable, RuntimeName, parse};

/// Bytes of `_Py_DebugOffsets` that are read (3.13 has 584).
const DEBUG_OFFSETS_BYTES: usize = 584;

/// Why the Python frames of an interpreter cannot be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PythonError {
    /// Older than 3.8 or newer than 3.13.
    #[error("Python 3.{0} is not known: 3.8 to 3.13 are")]
    Version(u8),
    /// What tells the version is not as expected.
    #[error("the interpreter does not tell its version")]
    NoVersion,
    /// 3.13 without a global interpreter lock.
    #[error("interpreters without a global lock are not known")]
    FreeThreaded,
    /// `_Py_DebugOffsets` (3.13) is not as expected.
    #[error("the interpreter's description of itself is not as expected")]
    DebugOffsets,
}

/// A file that holds an interpreter: an executable or `libpython3.X.so`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonBinary {
    /// With addresses as they are in the file.
    info: PythonInfo,
}

impl PythonBinary {
    /// Looks for an interpreter in a file, by what it exports: one that loads
    /// extension modules exports all that is looked for, and exports are few.
    ///
    /// # Errors
    /// Fails where there is one that cannot be walked.
    pub fn find(file: &dyn ReadAt, elf: &ElfImage) -> Result<Option<Self>, PythonError> {
        let elf = &exports(elf);
        let Some(runtime) = symbol(file, elf, "_PyRuntime") else {
            return Ok(None);
        };
        let code_type = symbol(file, elf, "PyCode_Type").unwrap_or(0);
        let minor = minor_version(file, elf)?;
        let (head, layout) = match layout::of(minor) {
            Some(layout) => layout,
            None if minor == layout::SELF_DESCRIBING => {
                let mut offsets = [0; DEBUG_OFFSETS_BYTES];
                read(file, elf, runtime, &mut offsets).ok_or(PythonError::DebugOffsets)?;
                layout::from_debug_offsets(&offsets)?
            }
            None => return Err(PythonError::Version(minor)),
        };
        Ok(Some(Self {
            info: PythonInfo {
                kind: runtime_kind::PYTHON.into(),
                minor: minor.into(),
                interpreters: runtime.wrapping_add(head),
                code_type,
                ..layout
            },
        }))
    }

    /// Minor version: 12 for Python 3.12.
    pub fn minor(&self) -> u32 {
        self.info.minor
    }

    /// What the kernel programs need to know of a process in which address 0 of
    /// the file lies at `bias` (which may wrap around).
    pub fn describe(&self, bias: u64) -> Vec<u8> {
        let address = |address: u64| match address {
            0 => 0,
            address => address.wrapping_add(bias),
        };
        let info = PythonInfo {
            interpreters: address(self.info.interpreters),
            code_type: address(self.info.code_type),
            ..self.info
        };
        info.as_bytes().to_vec()
    }
}

/// The same file without its other symbols.
fn exports(elf: &ElfImage) -> ElfImage {
    const SHT_NULL: u32 = 0;
    const SHT_SYMTAB: u32 = 2;
    let mut elf = elf.clone();
    for section in &mut elf.sections {
        if section.kind == SHT_SYMTAB {
            section.kind = SHT_NULL;
        }
    }
    elf
}

/// Address of the symbol with exactly this name.
fn symbol(file: &dyn ReadAt, elf: &ElfImage, name: &str) -> Option<u64> {
    let symbols = elf.symbols_with_prefix(file, name);
    let symbol = symbols.iter().find(|symbol| symbol.name == name)?;
    Some(symbol.address)
}

/// Reads what the file holds for an address.
fn read(file: &dyn ReadAt, elf: &ElfImage, address: u64, buffer: &mut [u8]) -> Option<()> {
    let offset = elf.offset_of(address)?;
    file.read_exact_at(buffer, offset).ok()
}

/// The minor version: `Py_Version` says it since 3.11; before, each version has
/// a function that the one before has not ("New in version" in the
/// documentation of the C API).
fn minor_version(file: &dyn ReadAt, elf: &ElfImage) -> Result<u8, PythonError> {
    const FIRST_WITH: [(&str, u8); 3] = [
        ("PyIter_Send", 10),
        ("PyFrame_GetBack", 9),
        ("PyCode_NewWithPosOnlyArgs", 8),
    ];
    if let Some(address) = symbol(file, elf, "Py_Version") {
        let mut version = [0; 8];
        read(file, elf, address, &mut version).ok_or(PythonError::NoVersion)?;
        // As `PY_VERSION_HEX`: major and minor in the two upper bytes of four.
        return match u64::from_le_bytes(version).to_be_bytes() {
            [0, 0, 0, 0, 3, minor, ..] => Ok(minor),
            _ => Err(PythonError::NoVersion),
        };
    }
    FIRST_WITH
        .iter()
        .find(|(name, _)| symbol(file, elf, name).is_some())
        .map(|(_, minor)| *minor)
        .ok_or(PythonError::Version(7))
}

#[cfg(test)]
mod tests;
