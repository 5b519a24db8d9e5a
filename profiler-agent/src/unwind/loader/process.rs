//! One process: its code, and the list of it that kernel programs read.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_abi::unwind::{CHUNK_BYTES, MappingEntry, ProcessEntry, mapping_kind};

use super::shared::Shared;
use crate::unwind::registry::{Lookup, Slot, Stage};

/// Longest list: one that fills a chunk, and more mappings than the kernel
/// gives a process by default (`vm.max_map_count`).
pub(super) const MAX_LIST: usize = CHUNK_BYTES / size_of::<MappingEntry>();

/// A list of more entries than that is rewritten rarely.
pub(super) const LARGE_LIST: usize = 1024;

/// Least time between two lists of a process while tables are still being built.
const REWRITE: Duration = Duration::from_millis(50);
const REWRITE_LARGE: Duration = Duration::from_secs(5);

/// What unwinds the code of a mapping.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The table of its file.
    Table(Arc<Slot>),
    /// The frame pointer.
    Jit,
    /// The frame pointer, because there are too many files.
    Refused,
}

/// A mapping.
#[derive(Clone, Debug)]
pub(super) struct Code {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) offset: u64,
    pub(super) source: Source,
}

impl Code {
    fn entry(&self) -> MappingEntry {
        let (kind, table, bias) = match &self.source {
            Source::Jit => (mapping_kind::JIT, 0, 0),
            Source::Refused => (mapping_kind::NO_TABLE, 0, 0),
            Source::Table(slot) => match slot.lookup(self.offset) {
                Lookup::Pending => (mapping_kind::PENDING, 0, 0),
                Lookup::Refused(_) => (mapping_kind::NO_TABLE, 0, 0),
                Lookup::Table { head, place } => {
                    (mapping_kind::TABLE, head, self.start.wrapping_sub(place))
                }
            },
        };
        MappingEntry {
            start: self.start,
            end: self.end,
            bias,
            table,
            kind,
        }
    }

    /// Path of its file, and what there is for it.
    pub(super) fn lookup(&self) -> Option<(&Arc<str>, Lookup)> {
        match &self.source {
            Source::Table(slot) => Some((slot.path(), slot.lookup(self.offset))),
            Source::Jit | Source::Refused => None,
        }
    }
}

/// Sorts by address and drops what lies on something else; says how many.
pub(super) fn sort(code: &mut Vec<Code>) -> usize {
    let before = code.len();
    code.sort_by_key(|code| code.start);
    let mut end = 0;
    code.retain(|code| {
        let is_good = code.start >= end && code.start < code.end;
        if is_good {
            end = code.end;
        }
        is_good
    });
    before - code.len()
}

/// Of more than `most` mappings, keeps those of files; says how many are left out.
pub(super) fn cut(code: &mut Vec<Code>, most: usize) -> usize {
    let before = code.len();
    if before > most {
        code.retain(|code| matches!(code.source, Source::Table(_)));
        code.truncate(most);
        code.shrink_to_fit();
    }
    before - code.len()
}

/// The list of a process: neighbours that are unwound alike are one entry.
pub(super) fn list(code: &[Code]) -> Vec<MappingEntry> {
    let mut entries: Vec<MappingEntry> = Vec::with_capacity(code.len());
    for entry in code.iter().map(Code::entry) {
        let of = |entry: &MappingEntry| (entry.kind, entry.table, entry.bias);
        match entries.last_mut() {
            Some(last) if last.end == entry.start && of(last) == of(&entry) => {
                last.end = entry.end;
            }
            _ => entries.push(entry),
        }
    }
    entries
}

/// The tables of all files of a process, each once.
pub(super) fn tables(code: &[Code]) -> Vec<Arc<Slot>> {
    let slots = code.iter().filter_map(|code| match &code.source {
        Source::Table(slot) => Some((Arc::as_ptr(slot), slot)),
        Source::Jit | Source::Refused => None,
    });
    let slots: HashMap<_, _> = slots.collect();
    slots.into_values().map(Arc::clone).collect()
}

/// A process of a session.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) start_ns: u64,
    pub(super) exec_id: u64,
    pub(super) code: Vec<Code>,
    /// Files whose tables may come, each once, and how far they were when the
    /// list was made.
    pub(super) open: Vec<(Arc<Slot>, Stage)>,
    pub(super) installed: Option<Installed>,
    pub(super) runtime: Option<Arc<Shared>>,
    pub(super) loaded_at: Instant,
    /// When it was last known to be alive.
    pub(super) seen_at: Instant,
    /// Whether there was no room for the list it should have.
    pub(super) lacks_room: bool,
    /// Whether a mapping of it ever had a table.
    pub(super) had_table: bool,
    /// Whether all tables that come soon have come.
    pub(super) is_complete: bool,
}

/// What kernel programs see of a process.
#[derive(Debug)]
pub(super) struct Installed {
    /// `None`: it has no code.
    pub(super) list: Option<Arc<Shared>>,
    pub(super) count: u32,
    /// Those that the list names: they stay for as long as it is shown.
    pub(super) _tables: Vec<Arc<Slot>>,
    pub(super) at: Instant,
}

impl Process {
    /// Whether its list is out of date and may be written again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let Some(installed) = self.installed.as_ref().filter(|_| !self.lacks_room) else {
            return true;
        };
        let stages = || self.open.iter().map(|(slot, then)| (slot.stage(), *then));
        if stages().all(|(stage, then)| stage == then) {
            return false;
        }
        let is_last = stages().all(|(stage, _)| stage != Stage::Pending);
        let is_large = installed.count as usize > LARGE_LIST;
        // Fewer and fewer lists while many tables come one by one.
        let age = installed.at.saturating_duration_since(self.loaded_at);
        let pause = match is_large {
            true => REWRITE_LARGE,
            false => REWRITE.max(age),
        };
        is_last && !is_large || now.saturating_duration_since(installed.at) >= pause
    }

    /// Notes which tables may still come.
    pub(super) fn note_open(&mut self) {
        let open = tables(&self.code).into_iter().map(|slot| {
            let stage = slot.stage();
            (slot, stage)
        });
        self.open = open.filter(|(_, stage)| *stage != Stage::Settled).collect();
    }

    /// The same for the map of processes.
    pub(super) fn entry(&self) -> ProcessEntry {
        let installed = self.installed.as_ref();
        let list = installed.and_then(|installed| installed.list.as_ref());
        ProcessEntry {
            start_ns: self.start_ns,
            exec_id: self.exec_id,
            generation: list.map_or(0, |list| list.generation()),
            mappings: list.map_or(0, |list| list.heap_ref()),
            mapping_count: installed.map_or(0, |installed| installed.count),
            runtime: self
                .runtime
                .as_ref()
                .map_or(0, |runtime| runtime.heap_ref()),
            check: 0,
        }
        .sealed()
    }
}
