//! Names, files and lines in programs made by Go, from the table that their
//! runtime itself uses (`.gopclntab`): it is there even where all symbols have
//! been stripped. Read piece by piece, so that a program of a gigabyte costs no
//! more than a small one, and believed nowhere.
//!
//! Format, of Go 1.16 and later: src/runtime/symtab.go, src/runtime/runtime2.go
//! and src/debug/gosym/pclntab.go of Go; it changed with 1.18 and 1.20.

mod functions;
mod module;
mod table;
mod values;

use crate::{
    symbolize::Name,
    unwind::elf::{ElfImage, Place, ReadAt},
};

use self::{
    functions::{Function, InlinedCall},
    module::Module,
    table::{Format, Header},
};

/// Longest name of a function or a file that is kept.
const MAX_NAME: usize = 1024;

/// Most calls inlined into each other: the compiler stops far before.
const MAX_INLINED: usize = 64;

/// Most bytes of data, and of relocations, that are looked through.
const MAX_SEARCHED: u64 = 64 << 20;

/// Why a program has no names of this kind.
#[derive(Debug, thiserror::Error)]
pub enum GoError {
    /// Go has not made it.
    #[error("it has no .gopclntab")]
    NotGo,
    /// Made by a version whose table is different: its first four bytes.
    #[error("its .gopclntab is of an unknown format ({0:#x})")]
    Format(u32),
    /// The table leads out of itself.
    #[error("its .gopclntab is damaged")]
    Damaged,
}

/// The table of one program.
#[derive(Debug)]
pub struct GoNames {
    image: ElfImage,
    /// All of it in the file.
    table: Place,
    header: Header,
    /// What the runtime knows besides.
    module: Module,
}

/// What a table's header says of functions; places count from the table's begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GoLayout {
    pub(crate) table: Place,
    /// Go before 1.18: functions are listed by address, in words of 8 bytes,
    /// and not by offset from `text`, in words of 4.
    pub(crate) has_addresses: bool,
    /// Go since 1.20: functions have a first line.
    pub(crate) has_lines: bool,
    /// Least length of an instruction, bytes.
    pub(crate) quantum: u64,
    /// How many functions.
    pub(crate) count: u64,
    /// Where the code begins.
    pub(crate) text: u64,
    pub(crate) names: u64,
    pub(crate) values: u64,
    pub(crate) functions: u64,
}

impl GoNames {
    /// Finds the table of a program.
    ///
    /// # Errors
    /// Fails where there is none of a known format.
    pub fn find(file: &dyn ReadAt, image: ElfImage) -> Result<Self, GoError> {
        let (table, header) = table::find(file, &image)?;
        let mut names = Self {
            module: Module::default(),
            image,
            table,
            header,
        };
        names.module = Module::find(file, &names).ok_or(GoError::Damaged)?;
        Ok(names)
    }

    /// Where its functions are, for who reads all of them.
    pub(crate) fn layout(&self) -> GoLayout {
        GoLayout {
            table: self.table,
            has_addresses: self.header.format == Format::V116,
            has_lines: self.header.format == Format::V120,
            quantum: self.header.quantum,
            count: self.header.count,
            text: self.module.text,
            names: self.header.names,
            values: self.header.values,
            functions: self.header.functions,
        }
    }

    /// Whether calls that were inlined are known.
    pub fn has_inlined(&self) -> bool {
        self.header.format == Format::V116 || self.module.function_data.is_some()
    }

    /// What is at an address (before relocation), the innermost inlined call
    /// first; empty where no function is.
    pub fn names(&self, file: &dyn ReadAt, address: u64) -> Vec<Name> {
        self.named(file, address).unwrap_or_default()
    }

    fn named(&self, file: &dyn ReadAt, address: u64) -> Option<Vec<Name>> {
        let function = Function::find(self, file, address)?;
        let mut names = Vec::new();
        let mut at = address;
        while names.len() < MAX_INLINED
            && let Some(call) = InlinedCall::at(self, file, &function, at)
        {
            names.push(self.name(file, &function, call.name, at)?);
            // Inside of the function, but nothing says that it is nearer its begin.
            at = function.entry.checked_add(call.parent)?;
        }
        names.push(self.name(file, &function, function.name, at)?);
        Some(names)
    }

    fn name(&self, file: &dyn ReadAt, function: &Function, name: u32, at: u64) -> Option<Name> {
        let (path, line) = function.line(self, file, at);
        Some(Name {
            function: self.text(file, self.header.names.checked_add(name.into())?)?,
            file: path,
            line,
        })
    }

    /// Bytes of the table from `at` on.
    fn read(&self, file: &dyn ReadAt, at: u64, buffer: &mut [u8]) -> Option<()> {
        let end = at.checked_add(buffer.len() as u64)?;
        if end > self.table.size {
            return None;
        }
        let offset = self.table.offset.checked_add(at)?;
        file.read_exact_at(buffer, offset).ok()
    }

    /// As many as there are, up to the buffer's size.
    fn read_some<'a>(&self, file: &dyn ReadAt, at: u64, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let left = self.table.size.checked_sub(at)?;
        let size = left.min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..size];
        self.read(file, at, buffer)?;
        Some(buffer)
    }

    fn number(&self, file: &dyn ReadAt, at: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(file, at, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    /// The text at `at`, up to a zero byte; empty is none.
    fn text(&self, file: &dyn ReadAt, at: u64) -> Option<String> {
        let mut buffer = [0; MAX_NAME];
        let bytes = self.read_some(file, at, &mut buffer)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        let text = &bytes[..end.unwrap_or(bytes.len())];
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests;
