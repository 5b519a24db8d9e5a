//! The files whose frames are being named, and what is known of them.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    mapped_file::{MAX_COPY, MappedFile, MappedFileError},
    symbolize::{ElfSymbolizer, Name, Places},
    symbols::{
        cache::{Entry, Key},
        shared::Symbols,
        sources::{Sources, Tables, merged},
    },
    unwind::elf::ElfError,
};

use super::{Batch, Named};

/// Files whose symbol tables are kept, and the bytes of their copies. Past that
/// all are dropped.
const MAX_FILES: usize = 128;
const MAX_COPIED: u64 = 2 * MAX_COPY;

/// Frames of one file that may wait for its debug information.
const MAX_WAITING: usize = 16_384;

/// Bytes of names from the disk, and for it. Past that all files are let go of.
const MAX_LEARNED: usize = 128 << 20;

/// What has poorer names than it could have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shortfall {
    /// Files that could not be read safely.
    pub(super) files: usize,
    /// Files that made a reader fail in a way it should not.
    pub(super) broken: usize,
    /// Files with more debug information than is read.
    pub(super) large: usize,
    /// Files whose debug information is damaged in parts.
    pub(super) damaged: usize,
    /// Files whose debug information is partly in files that are not read.
    pub(super) split: usize,
    /// Frames whose debug information was not reached in time.
    pub(super) late: usize,
}

/// A frame that has the name of a symbol and may get lines.
struct Waiting {
    offset: u64,
    address: u64,
    frame: u32,
    symbol: Option<String>,
}

/// One file.
struct Known {
    file: Arc<MappedFile>,
    /// `None`: not an ELF file that more is known of.
    sources: Option<Sources>,
    /// Read when the cache does not know a place.
    tables: Option<Tables>,
    entry: Entry,
    key: Option<Key>,
    is_changed: bool,
    waiting: Vec<Waiting>,
    /// Frames for which there was no room to wait.
    turned_away: usize,
    said: Said,
    /// Its symbol tables cannot be read.
    has_no_tables: bool,
    /// A reader has failed in a way it should not.
    is_broken: bool,
}

/// What a file is counted for once, however many batches and passes find it.
#[derive(Default)]
struct Said {
    broken: Once,
    large: Once,
    damaged: Once,
    split: Once,
}

#[derive(Default)]
struct Once(bool);

impl Once {
    fn count(&mut self, counter: &mut usize) {
        *counter += usize::from(!std::mem::replace(&mut self.0, true));
    }
}

/// Files met last.
pub(super) struct Files {
    symbols: Arc<Symbols>,
    symbolizer: ElfSymbolizer,
    known: Vec<Known>,
    copied: u64,
    pub(super) shortfall: Shortfall,
}

impl Files {
    pub(super) fn new(symbols: Arc<Symbols>) -> Self {
        Self {
            symbols,
            symbolizer: ElfSymbolizer::default(),
            known: Vec::new(),
            copied: 0,
            shortfall: Shortfall::default(),
        }
    }

    /// Whether there are so many files that debug information must be read
    /// before more come.
    pub(super) fn is_full(&self) -> bool {
        let learned: usize = self.known.iter().map(|known| known.entry.bytes()).sum();
        self.known.len() >= MAX_FILES
            || self.copied >= MAX_COPIED - MAX_COPY
            || learned >= MAX_LEARNED
    }

    /// Names by what is quick to read: the cache and symbol tables. `stop` is
    /// asked before every piece of work; what is named until then is returned.
    pub(super) fn names(&mut self, batch: Batch, stop: &dyn Fn() -> bool) -> Vec<Named> {
        let index = match self.position(&batch.file) {
            Some(index) => index,
            None => self.add(&batch.file),
        };
        let copied = &mut self.copied;
        let (known, symbolizer) = (&mut self.known[index], &self.symbolizer);
        if known.is_broken {
            return Vec::new();
        }
        let shortfall = &mut self.shortfall;
        let named = guarded(|| known.names(batch, symbolizer, copied, shortfall, stop));
        named.unwrap_or_else(|| {
            known.is_broken = true;
            known.said.broken.count(&mut self.shortfall.broken);
            Vec::new()
        })
    }

    fn position(&self, file: &Arc<MappedFile>) -> Option<usize> {
        self.known
            .iter()
            .position(|known| Arc::ptr_eq(&known.file, file))
    }

    fn add(&mut self, file: &Arc<MappedFile>) -> usize {
        let known = Known::of(file, &self.symbols);
        if let Some(sources) = &known.sources {
            self.symbols.want(sources);
        }
        self.known.push(known);
        self.known.len() - 1
    }

    /// Whether frames wait for debug information.
    pub(super) fn are_waiting(&self) -> bool {
        self.known.iter().any(|known| !known.waiting.is_empty())
    }

    /// Reads the debug information of the file for which most frames wait.
    pub(super) fn refine_one(&mut self, stop: &dyn Fn() -> bool) -> Vec<Named> {
        let most = self
            .known
            .iter_mut()
            .max_by_key(|known| known.waiting.len());
        let Some(known) = most else {
            return Vec::new();
        };
        let waiting = known.waiting.len();
        let limit = self.symbols.settings().debug_bytes;
        let shortfall = &mut self.shortfall;
        match guarded(|| known.refine(limit, stop, shortfall)) {
            Some(named) => named,
            None => {
                known.said.broken.count(&mut self.shortfall.broken);
                self.shortfall.late += waiting;
                known_waits_no_more(known);
                Vec::new()
            }
        }
    }

    /// Gives up on the frames that still wait.
    pub(super) fn stop_waiting(&mut self) {
        for known in &mut self.known {
            self.shortfall.late += known.waiting.len();
            known_waits_no_more(known);
        }
    }

    /// Keeps what was learned on disk, and lets go of all files.
    pub(super) fn close(&mut self) {
        self.save();
        // The symbolizer knows files by descriptors that are about to be closed.
        self.symbolizer = ElfSymbolizer::default();
        let turned_away = self.known.iter().map(|known| known.turned_away);
        self.shortfall.late += turned_away.sum::<usize>();
        self.known.clear();
        self.copied = 0;
    }

    fn save(&self) {
        let Some(cache) = self.symbols.cache() else {
            return;
        };
        let mut is_written = false;
        let report = |error: io::Error| {
            tracing::warn!("{}: {error}", cache.folder().display());
        };
        for known in &self.known {
            if let Some(key) = known.key.as_ref().filter(|_| known.is_changed) {
                is_written = true;
                cache.store(key, &known.entry).unwrap_or_else(report);
            }
        }
        if is_written {
            cache.shrink().unwrap_or_else(report);
        }
    }
}

fn known_waits_no_more(known: &mut Known) {
    known.waiting.clear();
    known.waiting.shrink_to_fit();
}

/// Runs a reader of foreign bytes. They must not be able to end the thread,
/// whatever mistake in a reader they find.
fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}

impl Known {
    fn of(file: &Arc<MappedFile>, symbols: &Symbols) -> Self {
        let sources = guarded(|| Sources::of(file, symbols.fetched()));
        let sources = match sources {
            Some(Ok(sources)) => Some(sources),
            Some(Err(ElfError::Class | ElfError::Machine(_))) | None => None,
            Some(Err(error)) => {
                tracing::debug!("{}: {error}", file.path().display());
                None
            }
        };
        let settings = [symbols.settings().debug_bytes];
        let key = match (&sources, symbols.cache()) {
            (Some(sources), Some(_)) => sources.key(&settings),
            _ => None,
        };
        let entry = match (&key, symbols.cache()) {
            (Some(key), Some(cache)) => cache.load(key),
            _ => Entry::default(),
        };
        Self {
            file: Arc::clone(file),
            sources,
            tables: None,
            entry,
            key,
            is_changed: false,
            waiting: Vec::new(),
            turned_away: 0,
            said: Said::default(),
            has_no_tables: false,
            is_broken: false,
        }
    }

    fn names(
        &mut self,
        batch: Batch,
        symbolizer: &ElfSymbolizer,
        copied: &mut u64,
        shortfall: &mut Shortfall,
        stop: &dyn Fn() -> bool,
    ) -> Vec<Named> {
        let mut named = Vec::new();
        let (mut offsets, mut frames) = (Vec::new(), Vec::new());
        for (offset, frame) in batch.offsets.into_iter().zip(batch.frames) {
            if stop() {
                return named;
            }
            if let Some(names) = self.entry.get(offset) {
                named.push((frame, names.to_vec()));
                continue;
            }
            let names = self.sources.as_ref().map(|file| file.go_names(offset));
            match names.filter(|names| !names.is_empty()) {
                Some(names) => {
                    self.learn(offset, &names);
                    named.push((frame, names));
                }
                None => {
                    offsets.push(offset);
                    frames.push(frame);
                }
            }
        }
        if offsets.is_empty() || self.has_no_tables {
            return named;
        }
        let symbols = match self.symbols(&offsets, symbolizer, copied) {
            Ok(symbols) => symbols,
            Err(error) => {
                tracing::debug!("no names: {error}");
                self.has_no_tables = true;
                shortfall.files += usize::from(matches!(error, MappedFileError::Changeable));
                return named;
            }
        };
        for ((offset, frame), symbol) in offsets.into_iter().zip(frames).zip(symbols) {
            let names = merged(symbol.clone(), Vec::new());
            if !self.waits(offset, frame, symbol) {
                self.learn(offset, &names);
            }
            named.push((frame, names));
        }
        named
    }

    fn symbols(
        &mut self,
        offsets: &[u64],
        symbolizer: &ElfSymbolizer,
        copied: &mut u64,
    ) -> Result<Vec<Option<String>>, MappedFileError> {
        let tables = match &self.tables {
            Some(tables) => tables,
            None => {
                let (tables, bytes) = match &self.sources {
                    Some(sources) => sources.tables()?,
                    None => Tables::of_file(&self.file)?,
                };
                *copied += bytes;
                self.tables.insert(tables)
            }
        };
        let Some(sources) = &self.sources else {
            return Ok(tables.names(symbolizer, Places::Offsets(offsets)));
        };
        // An address that no file has stands for an offset outside of all segments.
        let address = |offset: &u64| sources.address_of(*offset).unwrap_or(u64::MAX);
        let addresses: Vec<u64> = offsets.iter().map(address).collect();
        Ok(tables.names(symbolizer, Places::Addresses(&addresses)))
    }

    /// Whether debug information may tell more about a frame.
    fn waits(&mut self, offset: u64, frame: u32, symbol: Option<String>) -> bool {
        let Some(sources) = self.sources.as_ref().filter(|sources| sources.has_debug()) else {
            return false;
        };
        let Some(address) = sources.address_of(offset) else {
            return false;
        };
        match self.waiting.len() < MAX_WAITING {
            true => self.waiting.push(Waiting {
                offset,
                address,
                frame,
                symbol,
            }),
            false => self.turned_away += 1,
        }
        true
    }

    fn learn(&mut self, offset: u64, names: &[Name]) {
        if self.key.is_some() {
            self.entry.insert(offset, names.to_vec());
            self.is_changed = true;
        }
    }

    fn refine(
        &mut self,
        limit: u64,
        stop: &dyn Fn() -> bool,
        shortfall: &mut Shortfall,
    ) -> Vec<Named> {
        let waiting = std::mem::take(&mut self.waiting);
        let Some(sources) = &self.sources else {
            return Vec::new();
        };
        let debug = match sources.read_debug(limit) {
            Ok(Some(debug)) => debug,
            Ok(None) => return Vec::new(),
            Err(_) => {
                self.said.large.count(&mut shortfall.large);
                for frame in waiting {
                    self.learn(frame.offset, &merged(frame.symbol, Vec::new()));
                }
                return Vec::new();
            }
        };
        let mut addresses: Vec<u64> = waiting.iter().map(|frame| frame.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let pass = sources.debug_names(&debug, &addresses, stop);
        if pass.damaged > 0 {
            self.said.damaged.count(&mut shortfall.damaged);
        }
        if pass.split > 0 {
            self.said.split.count(&mut shortfall.split);
        }
        let found: HashMap<u64, Vec<Name>> = addresses.into_iter().zip(pass.names).collect();
        let mut named = Vec::new();
        for frame in waiting {
            let debug = found.get(&frame.address).cloned().unwrap_or_default();
            if debug.is_empty() && !pass.is_whole {
                shortfall.late += 1;
                continue;
            }
            let names = merged(frame.symbol, debug);
            if pass.is_whole {
                self.learn(frame.offset, &names);
            }
            named.push((frame.frame, names));
        }
        named
    }
}

#[cfg(test)]
mod tests;
