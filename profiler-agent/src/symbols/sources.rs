//! Where the names of one file come from.

use std::{
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use super::{
    cache::Key,
    debug_data, debug_files,
    dwarf::{self, Debug, Pass},
    gopclntab::GoNames,
    sections::Binary,
};
use crate::{
    mapped_file::{MappedFile, MappedFileError},
    symbolize::{ElfSymbolizer, Name, Places},
    unwind::elf::{ContentsError, ElfError, ReadAt},
};

/// Most bytes of debug information that are copied because others than root may
/// change the file. It is let go of after every pass.
pub const MAX_COPIED_DEBUG: u64 = 256 << 20;

/// A file, and those with more about it.
pub struct Sources {
    binary: Binary,
    build_id: Vec<u8>,
    /// Found for it, and not the file itself.
    separate: Option<Binary>,
    /// What the debug information refers to.
    shared: Option<Binary>,
    /// Go's own table, where Go has made the file.
    go: Option<GoNames>,
}

/// The debug information of a file takes more than it may.
#[derive(Debug)]
pub struct TooLarge;

impl Sources {
    /// Looks for everything there is about a file.
    ///
    /// # Errors
    /// Fails where it is not an ELF file of a supported machine.
    pub fn of(file: &Arc<MappedFile>, downloads: Option<&Path>) -> Result<Self, ElfError> {
        let binary = Binary::new(Arc::clone(file))?;
        let build_id = binary.build_id();
        let is_stripped = !binary.has(".symtab") || dwarf::bytes_of(&binary) == 0;
        let separate = match is_stripped {
            true => debug_files::find(&binary, &build_id, downloads),
            false => None,
        };
        let go = GoNames::find(&**file, binary.image().clone()).ok();
        let mut sources = Self {
            binary,
            build_id,
            separate,
            shared: None,
            go,
        };
        sources.shared = sources.debug().and_then(debug_files::find_shared);
        Ok(sources)
    }

    /// The GNU build-id; empty where there is none.
    pub fn build_id(&self) -> &[u8] {
        &self.build_id
    }

    /// Whether a separate file could tell more, and there is none.
    pub fn lacks_debug_file(&self) -> bool {
        self.separate.is_none() && self.debug().is_none() && self.go.is_none()
    }

    /// Where the names are kept on disk.
    pub fn key(&self, settings: &[u64]) -> Option<Key> {
        let others: Vec<_> = self.separate.iter().chain(&self.shared).collect();
        // A file keeps its build-id when it is stripped.
        let own = [".symtab", ".debug_info"].map(|name| self.binary.size_of(name));
        let settings = [settings, &own].concat();
        Key::of(&self.binary, &self.build_id, &others, &settings)
    }

    /// The address at which a byte of the file is loaded, before relocation.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.binary.image().address_of(offset)
    }

    /// The file that has DWARF.
    fn debug(&self) -> Option<&Binary> {
        let has_debug = |binary: &&Binary| dwarf::bytes_of(binary) > 0;
        [Some(&self.binary), self.separate.as_ref()]
            .into_iter()
            .flatten()
            .find(has_debug)
    }

    /// Whether there is DWARF.
    pub fn has_debug(&self) -> bool {
        self.debug().is_some()
    }

    /// Reads the DWARF, if it takes `limit` bytes at most.
    ///
    /// # Errors
    /// Fails where there is more.
    pub fn read_debug(&self, limit: u64) -> Result<Option<Debug>, TooLarge> {
        let Some(file) = self.debug() else {
            return Ok(None);
        };
        let shared = self.shared.as_ref();
        let bytes = dwarf::bytes_of(file).saturating_add(shared.map_or(0, dwarf::bytes_of));
        let mut files = [Some(file), shared].into_iter().flatten();
        // Of compressed sections it is only known later how much they hold.
        let limit = match files.any(|file| !file.file().is_roots()) {
            true => limit.min(MAX_COPIED_DEBUG),
            false => limit,
        };
        if bytes > limit {
            return Err(TooLarge);
        }
        match Debug::read(file, shared, limit) {
            Ok(debug) => Ok(Some(debug)),
            Err(ContentsError::TooLarge(..)) => Err(TooLarge),
            Err(error) => {
                tracing::debug!("{}: {error}", file.file().path().display());
                Ok(None)
            }
        }
    }

    /// Looks up addresses, sorted and distinct, in what [`Self::read_debug`] read.
    pub fn debug_names(&self, debug: &Debug, addresses: &[u64], stop: &dyn Fn() -> bool) -> Pass {
        debug.names(addresses, &self.code(), stop)
    }

    fn code(&self) -> Vec<Range<u64>> {
        self.binary.code()
    }

    /// Names with lines by Go's own table, which costs nothing to read; empty
    /// where Go has not made the code at `offset`.
    pub fn go_names(&self, offset: u64) -> Vec<Name> {
        let (Some(go), Some(address)) = (&self.go, self.address_of(offset)) else {
            return Vec::new();
        };
        go.names(&**self.binary.file(), address)
    }

    /// Symbol tables, best first, and the bytes of memory that they hold.
    ///
    /// # Errors
    /// Fails where that of the file itself cannot be read safely.
    pub fn tables(&self) -> Result<(Tables, u64), MappedFileError> {
        let mut tables = Tables::default();
        let own = self.binary.file().unchanging()?;
        if self.binary.has(".symtab") {
            tables.add(own);
        } else {
            let separate = self.separate.as_ref().filter(|file| file.has(".symtab"));
            tables.extend(separate);
            // Where there is a whole table this one says nothing new.
            if separate.is_none() {
                match debug_data::unpacked(&self.binary) {
                    Ok(unpacked) => {
                        tables.extend(unpacked.as_ref());
                        // It is in memory, all of it.
                        tables.bytes += unpacked.map_or(0, |binary| binary.file().len());
                    }
                    Err(error) => tracing::debug!("{}: {error}", self.path().display()),
                }
            }
            tables.add(own);
        }
        let bytes = tables.bytes;
        Ok((tables, bytes))
    }

    /// As the process sees it.
    pub fn path(&self) -> &Path {
        self.binary.file().path()
    }
}

/// Symbol tables of one file.
#[derive(Default)]
pub struct Tables {
    /// The symbolizer knows files by the numbers of their descriptors, which
    /// must not be given to other files while it lives.
    files: Vec<OwnedFd>,
    bytes: u64,
}

impl Tables {
    /// That of a file that nothing else is known of.
    ///
    /// # Errors
    /// Fails where it cannot be read safely.
    pub fn of_file(file: &MappedFile) -> Result<(Self, u64), MappedFileError> {
        let mut tables = Self::default();
        tables.add(file.unchanging()?);
        let bytes = tables.bytes;
        Ok((tables, bytes))
    }

    fn add(&mut self, (file, bytes): (OwnedFd, u64)) {
        self.files.push(file);
        self.bytes += bytes;
    }

    fn extend(&mut self, binary: Option<&Binary>) {
        match binary.map(|binary| binary.file().unchanging()) {
            Some(Ok(file)) => self.add(file),
            Some(Err(error)) => tracing::debug!("a separate symbol table: {error}"),
            None => {}
        }
    }

    /// Names by the first table that has one.
    pub fn names(&self, symbolizer: &ElfSymbolizer, places: Places<'_>) -> Vec<Option<String>> {
        let mut files = self.files.iter();
        let mut names = match files.next() {
            Some(file) => symbolizer.names(file.as_fd(), places),
            None => Vec::new(),
        };
        for file in files {
            if names.iter().all(Option::is_some) {
                break;
            }
            let more = symbolizer.names(file.as_fd(), places);
            for (name, other) in names.iter_mut().zip(more) {
                *name = name.take().or(other);
            }
        }
        names
    }
}

/// What a place is called by its symbol and by DWARF together. The symbol says
/// which piece of code it is (`foo.cold`, `foo.part.0`), DWARF what was inlined.
pub fn merged(symbol: Option<String>, mut debug: Vec<Name>) -> Vec<Name> {
    match (symbol, debug.last_mut()) {
        (Some(function), Some(holder)) => holder.function = function,
        (Some(function), None) => debug.push(Name {
            function,
            ..Name::default()
        }),
        // A line of no function names nothing.
        (None, Some(holder)) if holder.function.is_empty() => debug.clear(),
        (None, _) => {}
    }
    debug
}

#[cfg(test)]
pub(crate) mod tests;
