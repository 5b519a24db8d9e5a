//! `jit-PID.dump`, in which a just-in-time compiler writes what code it has
//! made, when, from which source lines, and where it moved it
//! (tools/perf/Documentation/jitdump-specification.txt of Linux). By
//! convention the process maps the file executable, so that a profiler finds it
//! among the process's mappings.

mod records;

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    sync::Arc,
};

use crate::{symbolize::Name, unwind::elf::ReadAt};

use self::records::{DebugInfo, Header, Load, Move, Record, Step};
use super::code_map::CodeMap;

/// Most entries kept of one dump: code that was loaded, moved or replaced.
const MAX_ENTRIES: usize = 500_000;

/// Most source lines kept of one dump.
const MAX_LINES: usize = 1_000_000;

/// Most bytes of names of functions and source files kept of one dump.
const MAX_NAME_BYTES: usize = 32 << 20;

/// Most bytes read of one dump. The code in it is stepped over.
const MAX_BYTES: u64 = 64 << 20;

/// Most records read of one dump. Some compilers write three for one function.
const MAX_RECORDS: usize = 3 * MAX_ENTRIES;

/// Why a file is not read as a dump.
#[derive(Debug, thiserror::Error)]
pub enum JitdumpError {
    /// It begins otherwise.
    #[error("it is no jitdump")]
    NotJitdump,
    /// Only version 1 is known.
    #[error("its version is {0}, and only 1 is known")]
    Version(u32),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// What was not taken from a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Records that are not what their kind says, and code of no size.
    pub malformed: u64,
    /// Functions, source lines and moves that found no room.
    pub full: u64,
    /// Bytes at the end of the file: past the most that are read, or behind a
    /// record without a length.
    pub unread: u64,
}

/// What a function that was compiled is called, and from which lines.
#[derive(Debug)]
struct Code {
    name: Box<str>,
    /// Offset in the code and what it comes from, sorted.
    lines: Box<[Line]>,
}

#[derive(Clone, Debug)]
struct Line {
    offset: u64,
    line: u32,
    file: Arc<str>,
}

/// Code at a place: where it began, and what it is.
type Placed = (u64, Arc<Code>);

/// A dump, read on as it grows.
#[derive(Debug)]
pub struct Jitdump {
    header: Header,
    /// Of the next record.
    offset: u64,
    read: u64,
    records: usize,
    places: CodeMap<Placed>,
    /// Functions that were loaded: each takes one or more of the entries.
    loaded: usize,
    /// Code by its index in the dump, for what is moved; not more than `loaded`.
    by_index: HashMap<u64, Arc<Code>>,
    /// Lines of the code that is loaded next.
    pending: Option<(u64, Vec<Line>)>,
    files: HashSet<Arc<str>>,
    lines: usize,
    name_bytes: usize,
    is_damaged: bool,
    skipped: Skipped,
}

impl Jitdump {
    /// Reads what there is of a dump.
    ///
    /// # Errors
    /// Fails where it is none, or cannot be read.
    pub fn read(file: &dyn ReadAt) -> Result<Self, JitdumpError> {
        let header = Header::read(file)?;
        let mut dump = Self {
            offset: header.size,
            header,
            read: 0,
            records: 0,
            places: CodeMap::with_history(MAX_ENTRIES),
            loaded: 0,
            by_index: HashMap::new(),
            pending: None,
            files: HashSet::new(),
            lines: 0,
            name_bytes: 0,
            is_damaged: false,
            skipped: Skipped::default(),
        };
        dump.refresh(file)?;
        Ok(dump)
    }

    /// Reads the records that were written since.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn refresh(&mut self, file: &dyn ReadAt) -> io::Result<()> {
        while !self.is_over() {
            match self.header.record(file, self.offset)? {
                Step::Record {
                    record,
                    time_ns,
                    next,
                    read,
                } => {
                    self.offset = next;
                    self.read += read;
                    self.records += 1;
                    self.take(record, time_ns);
                }
                Step::NotYet => break,
                Step::Damaged => self.is_damaged = true,
            }
        }
        self.skipped.unread = match self.is_over() {
            true => file.len().saturating_sub(self.offset),
            false => 0,
        };
        Ok(())
    }

    /// Whether nothing more is read, whatever is written.
    fn is_over(&self) -> bool {
        self.is_damaged || self.read >= MAX_BYTES || self.records >= MAX_RECORDS
    }

    /// The function and the line at `address` now, or at the time `at_ns`
    /// (`CLOCK_MONOTONIC`).
    pub fn name(&self, address: u64, at_ns: Option<u64>) -> Option<Name> {
        // Stamps of the processor's own clock cannot be compared with ours.
        let at_ns = at_ns.filter(|_| self.has_times());
        let (start, code) = self.places.get(address, at_ns)?;
        let offset = address.wrapping_sub(*start);
        let after = code.lines.partition_point(|line| line.offset <= offset);
        let line = after.checked_sub(1).map(|at| &code.lines[at]);
        Some(Name {
            function: code.name.to_string(),
            file: line.map(|line| line.file.to_string()).unwrap_or_default(),
            line: line.map_or(0, |line| line.line),
        })
    }

    /// Whether its times are those of `CLOCK_MONOTONIC`, so that names can be
    /// asked for as of a time.
    pub fn has_times(&self) -> bool {
        !self.header.has_processor_times
    }

    /// Ranges that have names.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Those that begin in `addresses`.
    pub fn count_in(&self, addresses: Range<u64>) -> usize {
        self.places.count_in(addresses)
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        /// The counts in front of what an `Arc` holds.
        const COUNTS: usize = 2 * size_of::<usize>();
        // A hash table is half full at least.
        let indexed = 2 * size_of::<(u64, Arc<Code>)>();
        let file = COUNTS + 2 * size_of::<Arc<str>>();
        self.name_bytes
            + self.places.bytes()
            + self.lines * size_of::<Line>()
            + self.loaded * (COUNTS + size_of::<Code>() + indexed)
            + self.files.len() * file
    }

    /// What was not taken.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    fn take(&mut self, record: Record, time_ns: u64) {
        // Times that are not ours are all the same: the last record holds.
        let time_ns = if self.has_times() { time_ns } else { 0 };
        match record {
            Record::Load(load) => self.load(load, time_ns),
            Record::Move(moved) => self.relocate(&moved, time_ns),
            Record::DebugInfo(info) => self.keep_lines(info),
            Record::Other => {}
            Record::Malformed => self.skipped.malformed += 1,
        }
    }

    fn load(&mut self, load: Load, time_ns: u64) {
        let pending = self.pending.take();
        let lines = pending
            .filter(|(start, _)| *start == load.start)
            .map(|(_, lines)| lines)
            .unwrap_or_default();
        let range = load.start..load.start.saturating_add(load.size);
        if range.is_empty() {
            self.skipped.malformed += 1;
            return;
        }
        let bytes = self.name_bytes + load.name.len();
        if bytes > MAX_NAME_BYTES {
            self.skipped.full += 1;
            return;
        }
        let code = Arc::new(Code {
            name: load.name.into(),
            lines: lines.into(),
        });
        if self.place(range, time_ns, Some((load.start, Arc::clone(&code)))) {
            self.name_bytes = bytes;
            self.loaded += 1;
            self.by_index.insert(load.index, code);
        }
    }

    /// Code that moved is gone from where it was.
    fn relocate(&mut self, moved: &Move, time_ns: u64) {
        let Some(code) = self.by_index.get(&moved.index) else {
            self.skipped.malformed += 1;
            return;
        };
        let code = Arc::clone(code);
        let range = |start: u64| start..start.saturating_add(moved.size);
        let is_there = |placed: &Placed| Arc::ptr_eq(&placed.1, &code);
        if self.places.get(moved.from, None).is_some_and(is_there) {
            self.place(range(moved.from), time_ns, None);
        }
        self.place(range(moved.to), time_ns, Some((moved.to, code)));
    }

    fn place(&mut self, range: Range<u64>, time_ns: u64, code: Option<Placed>) -> bool {
        let placed = self.places.insert(range, time_ns, code).is_ok();
        self.skipped.full += u64::from(!placed);
        placed
    }

    fn keep_lines(&mut self, info: DebugInfo) {
        let mut lines = Vec::new();
        for line in info.lines {
            let is_room = self.lines < MAX_LINES;
            let Some(file) = is_room.then(|| self.file(&line.file)).flatten() else {
                self.skipped.full += 1;
                continue;
            };
            self.lines += 1;
            lines.push(Line {
                offset: line.address.wrapping_sub(info.start),
                line: line.line,
                file,
            });
        }
        lines.sort_by_key(|line| line.offset);
        self.pending = Some((info.start, lines));
    }

    /// The one copy of a source file's name, where there is room for it.
    fn file(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some(known) = self.files.get(name) {
            return Some(Arc::clone(known));
        }
        if self.name_bytes + name.len() > MAX_NAME_BYTES {
            return None;
        }
        self.name_bytes += name.len();
        let file: Arc<str> = name.into();
        self.files.insert(Arc::clone(&file));
        Some(file)
    }
}

#[cfg(test)]
mod tests;
