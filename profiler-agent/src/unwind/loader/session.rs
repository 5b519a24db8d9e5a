//! The processes of one session: what kernel programs see of each, and why.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use profiler_abi::unwind::{MAX_PROCESSES, mapping_kind};
use zerocopy::IntoBytes;

use super::{
    LoadProcess, MappingKind, Shared, UnwindReport,
    process::{self, Code, Installed, LARGE_LIST, MAX_LIST, Process, Source},
    refusals::Refusals,
};
use crate::{
    processes::{ProcessError, ProcessKey, check_alive},
    unwind::{
        binary::Binary,
        heap::Attachment,
        kernel_maps::{self, Write},
        registry::{Registry, Stage},
    },
};

/// After how long without a word of it a process is looked for, and where there
/// are so many that the kernel's map could become full.
const SILENCE: Duration = Duration::from_secs(10);
const SILENCE_OF_MANY: Duration = Duration::from_secs(1);
const MANY: usize = MAX_PROCESSES as usize / 4;

/// Most processes that are looked for at once.
const MAX_LOOKS: usize = 2000;

/// Most mappings in lists of more than [`LARGE_LIST`], all together: two
/// processes with as many as the kernel allows.
const MAX_LARGE: usize = 2 * MAX_LIST;

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    /// Map `PROCESSES`.
    map: OwnedFd,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
    _heap: Attachment,
}

#[derive(Debug, Default)]
struct Inner {
    processes: HashMap<u32, Process>,
    refusals: Refusals,
    report: UnwindReport,
}

/// How an attempt to show a process to the kernel programs ended.
enum Outcome {
    Shown,
    /// The heap has no room for its list.
    NoRoom,
    /// The kernel has removed it, because it runs another program by now, or
    /// takes no more processes.
    Gone,
}

impl Session {
    pub(super) fn new(map: OwnedFd, heap: Attachment, shared: &Arc<Shared>) -> Self {
        Self {
            map,
            shared: Arc::clone(shared),
            inner: Mutex::default(),
            _heap: heap,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a process as it is now; false: its list waits for room.
    pub(super) fn load(&self, process: LoadProcess) -> bool {
        let LoadProcess {
            pid,
            start_ns,
            exec_id,
            mappings,
            runtime,
        } = process;
        let now = Instant::now();
        let registry = &self.shared.registry;
        let code = mappings.into_iter().map(|mapping| Code {
            start: mapping.start,
            end: mapping.end,
            offset: mapping.offset,
            source: match &mapping.kind {
                MappingKind::File(binary) => source(registry, Some(binary)),
                MappingKind::Vdso => source(registry, self.shared.vdso.as_ref()),
                MappingKind::Jit => Source::Jit,
            },
        });
        let mut code: Vec<Code> = code.collect();
        let overlapping = process::sort(&mut code);
        let runtime = runtime.map(|bytes| self.shared.bytes.place(&bytes));
        let mut inner = self.inner();
        let before = self.take(&mut inner, pid, (start_ns, exec_id));
        let most = inner.most(code.len());
        let cut = process::cut(&mut code, most);
        inner.report.loads += 1;
        inner.report.mappings_overlapping += overlapping as u64;
        inner.report.mappings_cut += cut as u64;
        inner.report.runtimes_without_room += u64::from(matches!(runtime, Some(None)));
        let mut process = Process {
            start_ns,
            exec_id,
            code,
            open: Vec::new(),
            had_table: before.as_ref().is_some_and(|before| before.had_table),
            installed: before.and_then(|before| before.installed),
            runtime: runtime.flatten(),
            loaded_at: now,
            seen_at: now,
            lacks_room: false,
            is_complete: false,
        };
        match self.show(&mut inner, pid, &mut process, Write::Any, now) {
            Outcome::Gone => {
                inner.report.processes_refused += 1;
                true
            }
            Outcome::Shown => {
                inner.processes.insert(pid, process);
                true
            }
            Outcome::NoRoom => {
                // What is shown is no longer how it is. Its stacks are copied
                // until there is room.
                if process.installed.is_some() {
                    self.hide(pid);
                    process.installed = None;
                }
                inner.report.lists_without_room += 1;
                inner.processes.insert(pid, process);
                false
            }
        }
    }

    /// The process that is shown under this id, if it is the same in the same
    /// program.
    fn take(&self, inner: &mut Inner, pid: u32, program: (u64, u64)) -> Option<Process> {
        let before = inner.processes.remove(&pid)?;
        if (before.start_ns, before.exec_id) == program {
            return Some(before);
        }
        self.hide(pid);
        inner.count_out(&before);
        None
    }

    /// From here on the kernel programs do not know the process.
    fn hide(&self, pid: u32) {
        if let Err(error) = kernel_maps::delete(&self.map, pid) {
            tracing::debug!("forget process {pid}: {error}");
        }
    }

    fn show(
        &self,
        inner: &mut Inner,
        pid: u32,
        process: &mut Process,
        write: Write,
        now: Instant,
    ) -> Outcome {
        // Before the list: what comes meanwhile is seen next time.
        process.note_open();
        let entries = process::list(&process.code);
        let list = match entries.is_empty() {
            true => None,
            false => match self.shared.bytes.place(entries.as_bytes()) {
                Some(list) => Some(list),
                None => {
                    process.lacks_room = true;
                    return Outcome::NoRoom;
                }
            },
        };
        process.lacks_room = false;
        // Stays until the kernel programs have the new one.
        let _before = process.installed.replace(Installed {
            list,
            count: entries.len() as u32,
            _tables: process::tables(&process.code),
            at: now,
        });
        let updated = kernel_maps::update(&self.map, pid, &process.entry(), write);
        if let Err(error) = updated {
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            if !is_gone {
                tracing::debug!("show process {pid} to the unwinder: {error}");
                self.hide(pid);
            }
            return Outcome::Gone;
        }
        inner.report.lists += 1;
        process.had_table |= entries
            .iter()
            .any(|entry| entry.kind == mapping_kind::TABLE);
        inner.refusals.note(&process.code);
        let is_pending = |(_, stage): &(_, Stage)| *stage == Stage::Pending;
        if !process.is_complete && !process.open.iter().any(is_pending) {
            process.is_complete = true;
            let took = now.saturating_duration_since(process.loaded_at);
            inner.report.complete += 1;
            inner.report.complete_time += took;
            inner.report.complete_time_max = inner.report.complete_time_max.max(took);
        }
        Outcome::Shown
    }

    /// Brings up to date what can be; false: a list waits for room.
    pub(super) fn refresh(&self, now: Instant) -> bool {
        let mut inner = self.inner();
        let due = inner
            .processes
            .iter()
            .filter(|(_, process)| process.is_due(now));
        let due: Vec<u32> = due.map(|(pid, _)| *pid).collect();
        let mut had_room = true;
        for pid in due {
            let Some(mut process) = inner.processes.remove(&pid) else {
                continue;
            };
            // One that was never shown is not removed by an exec.
            let write = match process.installed {
                Some(_) => Write::Existing,
                None => Write::Any,
            };
            match self.show(&mut inner, pid, &mut process, write, now) {
                Outcome::Gone => inner.count_out(&process),
                Outcome::Shown => {
                    inner.processes.insert(pid, process);
                }
                Outcome::NoRoom => {
                    had_room = false;
                    inner.processes.insert(pid, process);
                }
            }
        }
        had_room
    }

    /// Whether a process waits for tables that come soon.
    pub(super) fn is_open(&self) -> bool {
        let is_open = |process: &Process| !process.is_complete || process.lacks_room;
        self.inner().processes.values().any(is_open)
    }

    /// Gives up large lists for which there will be no room.
    pub(super) fn cut_large(&self) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        for process in inner
            .processes
            .values_mut()
            .filter(|process| process.lacks_room)
        {
            let cut = process::cut(&mut process.code, LARGE_LIST);
            inner.report.mappings_cut += cut as u64;
        }
    }

    /// A process is no more.
    pub(super) fn forget(&self, pid: u32, start_ns: u64) {
        let mut inner = self.inner();
        if inner
            .processes
            .get(&pid)
            .is_none_or(|process| process.start_ns != start_ns)
        {
            return;
        }
        self.hide(pid);
        if let Some(process) = inner.processes.remove(&pid) {
            inner.count_out(&process);
        }
    }

    /// Forgets processes that ended without a word.
    pub(super) fn sweep(&self, now: Instant) {
        let mut inner = self.inner();
        let silence = match inner.processes.len() > MANY {
            true => SILENCE_OF_MANY,
            false => SILENCE,
        };
        let is_silent =
            |process: &Process| now.saturating_duration_since(process.seen_at) >= silence;
        let silent = inner
            .processes
            .iter_mut()
            .filter(|(_, process)| is_silent(process));
        let silent: Vec<(u32, u64)> = silent
            .take(MAX_LOOKS)
            .map(|(pid, process)| {
                process.seen_at = now;
                (*pid, process.start_ns)
            })
            .collect();
        drop(inner);
        for (pid, start_ns) in silent {
            let key = ProcessKey {
                pid,
                start_ns,
                exec_id: 0,
            };
            if let Err(ProcessError::Gone(_)) = check_alive(&key) {
                self.forget(pid, start_ns);
            }
        }
    }

    pub(super) fn processes(&self) -> usize {
        self.inner().processes.len()
    }

    pub(super) fn report(&self) -> UnwindReport {
        let inner = self.inner();
        let lists = inner.processes.values().filter_map(|process| {
            let list = process.installed.as_ref()?.list.as_ref()?;
            Some((Arc::as_ptr(list), list.bytes()))
        });
        let lists: HashMap<_, usize> = lists.collect();
        let without = inner
            .processes
            .values()
            .filter(|process| !process.had_table);
        UnwindReport {
            processes: inner.processes.len(),
            list_bytes: lists.values().sum(),
            processes_without_table: inner.report.processes_without_table + without.count() as u64,
            refused: inner.refusals.by_reason(),
            refused_files: inner.refusals.files(),
            ..inner.report.clone()
        }
    }
}

fn source(registry: &Arc<Registry>, binary: Option<&Arc<Binary>>) -> Source {
    match binary.and_then(|binary| registry.slot(binary)) {
        Some(slot) => Source::Table(slot),
        None => Source::Refused,
    }
}

impl Inner {
    fn count_out(&mut self, process: &Process) {
        self.report.processes_without_table += u64::from(!process.had_table);
    }

    /// Most mappings of a new process.
    fn most(&self, wanted: usize) -> usize {
        if wanted <= LARGE_LIST {
            return LARGE_LIST;
        }
        let large = self.processes.values().map(|process| process.code.len());
        let used: usize = large.filter(|len| *len > LARGE_LIST).sum();
        match used.saturating_add(wanted) > MAX_LARGE {
            true => LARGE_LIST,
            false => MAX_LIST,
        }
    }
}
