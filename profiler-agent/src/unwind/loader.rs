//! Shows processes to the kernel programs: which code each has mapped, and by
//! which tables it is unwound. Tables are the agent's; what is shown is a
//! session's, and follows as tables become ready.

mod process;
mod refusals;
mod session;
mod shared;

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use profiler_abi::unwind::CHUNK_BYTES;

use self::{session::Session, shared::SharedBytes};
use super::{bell::Bell, binary::Binary, heap::Heap, registry::Registry};
pub use super::{
    heap::{HeapError, HeapStatus},
    registry::{Refusal, TablesStatus},
};

/// How often processes that ended and memory that is free are looked for.
const TEND_INTERVAL: Duration = Duration::from_secs(1);

/// How often processes are brought up to date while their tables come.
const REFRESH_INTERVAL: Duration = Duration::from_millis(50);

/// Least time between two rounds, however many tables come.
const BREATH: Duration = Duration::from_millis(5);

/// What unwinding by tables may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwindSettings {
    /// Kernel memory of tables and lists, in bytes; rounded down to chunks of
    /// 2 MiB, one at least, 64 at most.
    pub budget_bytes: usize,
    /// CPU time for building tables in each minute.
    pub build_cpu_per_minute: Duration,
}

impl Default for UnwindSettings {
    fn default() -> Self {
        Self {
            budget_bytes: 64 << 20,
            build_cpu_per_minute: Duration::from_secs(20),
        }
    }
}

/// Why there is no unwinding by tables.
#[derive(Debug, thiserror::Error)]
pub enum UnwindError {
    /// A thread.
    #[error("start a thread for unwind tables: {0}")]
    Thread(#[source] io::Error),
    /// The memory that tables lie in.
    #[error(transparent)]
    Heap(#[from] HeapError),
}

/// Maps of a session's kernel programs.
#[derive(Debug)]
pub struct SessionMaps {
    /// `CHUNKS`: an array of maps.
    pub chunks: OwnedFd,
    /// `PROCESSES`: a hash from process id to `ProcessEntry`.
    pub processes: OwnedFd,
}

/// A process and its code.
#[derive(Debug)]
pub struct LoadProcess {
    /// Process id.
    pub pid: u32,
    /// Start of its first thread, CLOCK_BOOTTIME ns.
    pub start_ns: u64,
    /// `self_exec_id`: which of the programs it has run.
    pub exec_id: u64,
    /// All of its executable mappings.
    pub mappings: Vec<CodeMapping>,
    /// What kernel programs need to know of its interpreter.
    pub runtime: Option<Vec<u8>>,
}

/// An executable mapping.
#[derive(Clone, Debug)]
pub struct CodeMapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// What code it is.
    pub kind: MappingKind,
}

/// What code a mapping holds.
#[derive(Clone, Debug)]
pub enum MappingKind {
    /// That of a file.
    File(Arc<Binary>),
    /// Made at run time, or of a file that cannot be opened.
    Jit,
    /// The kernel's own.
    Vdso,
}

/// What unwinding by tables takes at the moment, in all sessions.
#[derive(Clone, Debug, Default)]
pub struct UnwindStatus {
    /// The memory of tables and lists.
    pub heap: HeapStatus,
    /// The tables.
    pub tables: TablesStatus,
    /// Processes that have lists, counted once for each session.
    pub processes: usize,
}

/// What unwinding by tables took in one session.
#[derive(Clone, Debug, Default)]
pub struct UnwindReport {
    /// Processes that have a list at the moment.
    pub processes: usize,
    /// Bytes of the lists, each once.
    pub list_bytes: usize,
    /// Calls of [`SessionTables::load`].
    pub loads: u64,
    /// Lists shown to the kernel programs.
    pub lists: u64,
    /// Times a list waited because the heap had no room for it.
    pub lists_without_room: u64,
    /// The same for what is known of an interpreter, which is then left out.
    pub runtimes_without_room: u64,
    /// Processes that the kernel's map had no room for.
    pub processes_refused: u64,
    /// Processes of which no mapping had a table.
    pub processes_without_table: u64,
    /// Mappings left out because there were too many.
    pub mappings_cut: u64,
    /// Mappings left out because they lie on others.
    pub mappings_overlapping: u64,
    /// Loaded processes all of whose tables have come, or were refused.
    pub complete: u64,
    /// Sum of the times that took.
    pub complete_time: Duration,
    /// The longest.
    pub complete_time_max: Duration,
    /// Tables built meanwhile, for any session.
    pub tables_built: u64,
    /// CPU time of that.
    pub build_cpu: Duration,
    /// Bytes of all tables, of any session.
    pub table_bytes: usize,
    /// Files without a table, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// The same, by path; at most 256.
    pub refused_files: Vec<(Arc<str>, Refusal)>,
}

/// Files without a table, by the reason in words.
pub fn refusals(refused: &BTreeMap<Refusal, u64>) -> BTreeMap<String, u64> {
    let in_words = |(refusal, count): (&Refusal, &u64)| (refusal.name().to_owned(), *count);
    refused.iter().map(in_words).collect()
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    heap: Arc<Heap>,
    registry: Arc<Registry>,
    bytes: SharedBytes,
    bell: Arc<Bell>,
    vdso: Option<Arc<Binary>>,
    sessions: Mutex<Vec<Arc<Session>>>,
    stopped: AtomicBool,
}

impl Shared {
    fn sessions(&self) -> Vec<Arc<Session>> {
        let sessions = self.sessions.lock();
        sessions.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The unwind tables of an agent.
#[derive(Debug)]
pub struct Unwinder {
    shared: Arc<Shared>,
}

impl Unwinder {
    /// Starts the threads that build tables and keep processes up to date. No
    /// memory is taken before the first session attaches.
    ///
    /// # Errors
    /// Fails where a thread cannot be started.
    pub fn new(settings: UnwindSettings) -> Result<Arc<Self>, UnwindError> {
        let heap = Heap::new(settings.budget_bytes);
        let bell = Arc::new(Bell::default());
        let registry = Registry::start(&heap, settings.build_cpu_per_minute, &bell)
            .map_err(UnwindError::Thread)?;
        let vdso = Binary::vdso().inspect_err(|error| tracing::debug!("{error}"));
        let shared = Arc::new(Shared {
            bytes: SharedBytes::new(&heap),
            heap,
            registry,
            bell,
            vdso: vdso.ok().map(Arc::new),
            sessions: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let unwinder = Arc::new(Self {
            shared: Arc::clone(&shared),
        });
        thread::Builder::new()
            .name("unwind-tend".to_owned())
            .spawn(move || tend(&shared))
            .map_err(UnwindError::Thread)?;
        Ok(unwinder)
    }

    /// Serves a session, whose programs may run already. Takes up to 100 ms
    /// where there are tables; on kernels before 5.14 for every 2 MiB of them.
    ///
    /// # Errors
    /// Fails where the tables' memory cannot be made or given to the session.
    pub fn attach(self: &Arc<Self>, maps: SessionMaps) -> Result<SessionTables, UnwindError> {
        let heap = self.shared.heap.attach(maps.chunks)?;
        let session = Arc::new(Session::new(maps.processes, heap, &self.shared));
        let sessions = self.shared.sessions.lock();
        sessions
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&session));
        Ok(SessionTables {
            before: self.shared.registry.status(),
            session,
            unwinder: Arc::clone(self),
        })
    }

    /// The vDSO as a file; `None`: it cannot be read.
    pub fn vdso(&self) -> Option<&Arc<Binary>> {
        self.shared.vdso.as_ref()
    }

    /// What it takes at the moment.
    pub fn status(&self) -> UnwindStatus {
        let sessions = self.shared.sessions();
        UnwindStatus {
            heap: self.shared.heap.status(),
            tables: self.shared.registry.status(),
            processes: sessions.iter().map(|session| session.processes()).sum(),
        }
    }
}

impl Drop for Unwinder {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.shared.registry.stop();
        self.shared.bell.ring();
    }
}

/// The processes of one session. To be dropped when its programs have stopped.
#[derive(Debug)]
pub struct SessionTables {
    session: Arc<Session>,
    unwinder: Arc<Unwinder>,
    /// When the session began.
    before: TablesStatus,
}

impl SessionTables {
    /// Shows a process as it is now to the kernel programs: first what there
    /// is, and tables that are not there yet as they come. Returns soon.
    pub fn load(&self, process: LoadProcess) {
        let had_room = self.session.load(process);
        // Else the next round finds what there is to do.
        if !had_room {
            self.unwinder.shared.bell.ring();
        }
    }

    /// A process has ended.
    pub fn forget(&self, pid: u32, start_ns: u64) {
        self.session.forget(pid, start_ns);
    }

    /// What it took so far.
    pub fn report(&self) -> UnwindReport {
        let tables = self.unwinder.shared.registry.status();
        UnwindReport {
            tables_built: tables.built - self.before.built,
            build_cpu: tables.build_cpu.saturating_sub(self.before.build_cpu),
            table_bytes: tables.bytes,
            ..self.session.report()
        }
    }
}

impl Drop for SessionTables {
    fn drop(&mut self) {
        let mut sessions = self
            .unwinder
            .shared
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| !Arc::ptr_eq(session, &self.session));
    }
}

/// Until the unwinder is dropped.
fn tend(shared: &Shared) {
    let mut tended_at = Instant::now();
    while !shared.stopped.load(Ordering::Relaxed) {
        let sessions = shared.sessions();
        let had_room: Vec<bool> = sessions
            .iter()
            .map(|session| session.refresh(Instant::now()))
            .collect();
        if had_room.contains(&false) {
            make_room(shared, &sessions);
        }
        if tended_at.elapsed() >= TEND_INTERVAL {
            tended_at = Instant::now();
            shared.registry.tend(tended_at);
            shared.heap.shrink();
            sessions.iter().for_each(|session| session.sweep(tended_at));
        }
        let is_open = sessions.iter().any(|session| session.is_open());
        drop(sessions);
        shared.bell.wait(match is_open {
            true => REFRESH_INTERVAL,
            false => TEND_INTERVAL,
        });
        thread::sleep(BREATH);
    }
}

/// For lists that found none.
fn make_room(shared: &Shared, sessions: &[Arc<Session>]) {
    match shared.heap.grow(CHUNK_BYTES) {
        Ok(true) => shared.bell.ring(),
        Ok(false) => sessions.iter().for_each(|session| session.cut_large()),
        Err(error) => tracing::warn!("{error}"),
    }
}

#[cfg(test)]
mod tests;
