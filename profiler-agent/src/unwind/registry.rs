//! The unwind tables of all binaries: one for each, however many processes of
//! however many sessions have it mapped. They are built by two threads, within
//! a budget of CPU time, into the heap, within a budget of
//! bytes; what exceeds one is refused with a reason and tried again later.

mod cpu_budget;
mod refusal;
mod slot;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

pub use self::refusal::Refusal;
use self::slot::{Kept, Loaded, State};
pub(super) use self::{
    cpu_budget::CpuBudget,
    slot::{Lookup, Slot, Stage},
};
use super::{
    bell::Bell,
    binary::{Binary, BinaryId},
    build::cpu_time,
    elf::ElfImage,
    heap::{Block, Heap},
    table::{self, BuildLimits, Table},
};

/// Threads that build tables. Of no lower priority than the host's work: until a
/// table is there every stack in its code is copied, which costs more.
const THREADS: usize = 2;

/// How long a table stays that no process uses.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Most binaries that are known.
const MAX_SLOTS: usize = 8192;

/// Most binaries that are open because they wait to be built.
const MAX_WAITING: usize = 512;

/// Most binaries that are open because they were refused and are to be tried
/// again. Others are tried again when a process that has them is loaded.
const MAX_KEPT: usize = 1024;

/// How long a table waits for what was freed to become usable.
const ROOM_TIME: Duration = Duration::from_millis(2500);
const ROOM_STEP: Duration = Duration::from_millis(100);

/// Part of the heap that tables leave to lists of mappings: one 16th, at least
/// as much as the lists of a hundred processes take.
const LIST_SHARE: usize = 16;
const LIST_BYTES: usize = 256 << 10;

/// What there is, and what it took since the agent started.
#[derive(Clone, Debug, Default)]
pub struct TablesStatus {
    /// Tables in the heap.
    pub ready: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Binaries whose tables are being built, or wait for that.
    pub waiting: usize,
    /// Tables built since the start.
    pub built: u64,
    /// CPU time that building took since the start.
    pub build_cpu: Duration,
    /// Tables that made room for others before their time.
    pub evicted: u64,
    /// Binaries without a table since the start, by reason.
    pub refused: BTreeMap<Refusal, u64>,
}

#[derive(Debug)]
struct Known {
    slot: Arc<Slot>,
    /// Since when no process uses it.
    idle_since: Option<Instant>,
}

#[derive(Debug)]
struct Inner {
    known: HashMap<BinaryId, Known>,
    queue: VecDeque<Arc<Slot>>,
    /// One for each binary that is kept open, and this one.
    places: Arc<()>,
    building: usize,
    cpu: CpuBudget,
    stopped: bool,
    built: u64,
    build_cpu: Duration,
    evicted: u64,
    refused: BTreeMap<Refusal, u64>,
}

/// The tables of an agent.
#[derive(Debug)]
pub(super) struct Registry {
    heap: Arc<Heap>,
    limits: BuildLimits,
    inner: Mutex<Inner>,
    work: Condvar,
    /// Rung when a slot changes.
    bell: Arc<Bell>,
}

impl Registry {
    /// Starts the threads. `cpu` is what they may use of each minute.
    pub(super) fn start(
        heap: &Arc<Heap>,
        cpu: Duration,
        bell: &Arc<Bell>,
    ) -> io::Result<Arc<Self>> {
        let registry = Arc::new(Self {
            heap: Arc::clone(heap),
            limits: BuildLimits {
                bytes: heap.status().budget,
                ..BuildLimits::default()
            },
            inner: Mutex::new(Inner {
                known: HashMap::new(),
                queue: VecDeque::new(),
                places: Arc::new(()),
                building: 0,
                cpu: CpuBudget::new(cpu, Instant::now()),
                stopped: false,
                built: 0,
                build_cpu: Duration::ZERO,
                evicted: 0,
                refused: BTreeMap::new(),
            }),
            work: Condvar::new(),
            bell: Arc::clone(bell),
        });
        for number in 0..THREADS {
            let worker = Arc::clone(&registry);
            let started = thread::Builder::new()
                .name(format!("unwind-table-{number}"))
                .spawn(move || worker.run());
            if let Err(error) = started {
                registry.stop();
                return Err(error);
            }
        }
        Ok(registry)
    }

    /// Ends the threads, each after what it builds at the moment.
    pub(super) fn stop(&self) {
        self.inner().stopped = true;
        self.work.notify_all();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a binary's table, which will be built if it was not known;
    /// `None`: there are too many binaries.
    pub(super) fn slot(&self, binary: &Arc<Binary>) -> Option<Arc<Slot>> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        if let Some(known) = inner.known.get_mut(binary.id()) {
            known.idle_since = None;
            known.slot.lend(|| keep(&inner.places, binary));
            return Some(Arc::clone(&known.slot));
        }
        if inner.known.len() >= MAX_SLOTS {
            return None;
        }
        let slot = Arc::new(Slot::new(binary));
        let known = Known {
            slot: Arc::clone(&slot),
            idle_since: None,
        };
        inner.known.insert(binary.id().clone(), known);
        self.enqueue(inner, &slot, binary);
        Some(slot)
    }

    fn enqueue(&self, inner: &mut Inner, slot: &Arc<Slot>, binary: &Arc<Binary>) {
        if inner.queue.len() >= MAX_WAITING {
            inner.refuse(slot, Refusal::Busy, binary);
            return;
        }
        slot.set(State::Waiting(Arc::clone(binary)));
        inner.queue.push_back(Arc::clone(slot));
        self.work.notify_one();
    }

    fn run(&self) {
        while let Some((slot, binary)) = self.next() {
            let started = cpu_time();
            let built = catch_unwind(AssertUnwindSafe(|| self.build(&binary)))
                .unwrap_or(Err(Refusal::Failed));
            let took = cpu_time().saturating_sub(started);
            let mut inner = self.inner();
            inner.building -= 1;
            inner.cpu.spend(took, Instant::now());
            inner.build_cpu += took;
            match built {
                Ok(loaded) => {
                    inner.built += 1;
                    slot.set(State::Ready(loaded));
                }
                Err(reason) => inner.refuse(&slot, reason, &binary),
            }
            drop(inner);
            self.bell.ring();
        }
    }

    /// What to build next; waits for it. `None`: it is over.
    fn next(&self) -> Option<(Arc<Slot>, Arc<Binary>)> {
        let mut inner = self.inner();
        loop {
            if inner.stopped {
                return None;
            }
            let Some(slot) = inner.queue.pop_front() else {
                inner = self
                    .work
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(binary) = slot.binary() else {
                continue;
            };
            if !inner.cpu.allows(Instant::now()) {
                inner.refuse(&slot, Refusal::CpuBudget, &binary);
                self.bell.ring();
                continue;
            }
            inner.building += 1;
            return Some((slot, binary));
        }
    }

    fn build(&self, binary: &Binary) -> Result<Loaded, Refusal> {
        let table = table::build(binary.file(), &self.limits).map_err(|error| {
            tracing::debug!("{}: {error}", binary.path());
            Refusal::from(&error)
        })?;
        let mut image = ElfImage::read(binary.file()).map_err(|_| Refusal::Unreadable)?;
        // Only where mappings lie is asked for later.
        image.sections = Vec::new();
        let blocks = self.find_room(&slot::sizes(&table))?;
        slot::load(table, image, blocks)
    }

    /// Takes room for a table, for which others may have to go.
    fn find_room(&self, sizes: &[usize]) -> Result<Vec<Block>, Refusal> {
        let needed: usize = sizes.iter().sum();
        while self.leaves_room(needed) {
            if let Some(blocks) = self.heap.allocate(sizes) {
                return Ok(blocks);
            }
            match self.heap.grow(needed) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!("{error}");
                    return Err(Refusal::Kernel);
                }
            }
        }
        self.evict(needed)?;
        let deadline = Instant::now() + ROOM_TIME;
        while Instant::now() < deadline && !self.inner().stopped {
            thread::sleep(ROOM_STEP);
            if self.leaves_room(needed)
                && let Some(blocks) = self.heap.allocate(sizes)
            {
                return Ok(blocks);
            }
        }
        Err(Refusal::MemoryBudget)
    }

    /// Whether lists of mappings still have theirs beside a new table.
    fn leaves_room(&self, needed: usize) -> bool {
        let heap = self.heap.status();
        let lists = (heap.budget / LIST_SHARE).max(LIST_BYTES);
        // What is in quarantine may be free by now; that is seen when it is asked for.
        let used = heap.used - heap.quarantined;
        used.saturating_add(needed).saturating_add(lists) <= heap.budget
    }

    /// Drops tables that no process uses, small ones first: large ones take
    /// longest to build again. None where that would not be enough.
    fn evict(&self, needed: usize) -> Result<(), Refusal> {
        let mut inner = self.inner();
        let idle = |known: &Known| Arc::strong_count(&known.slot) == 1;
        let mut idle: Vec<(usize, BinaryId)> = inner
            .known
            .iter()
            .filter(|(_, known)| idle(known))
            .filter_map(|(id, known)| Some((known.slot.bytes()?, id.clone())))
            .collect();
        idle.sort_unstable_by_key(|(bytes, _)| *bytes);
        let quarantined = self.heap.status().quarantined;
        let all: usize = idle.iter().map(|(bytes, _)| bytes).sum();
        if all + quarantined < needed {
            return Err(Refusal::MemoryBudget);
        }
        let mut freed = 0;
        for (bytes, id) in idle {
            if freed >= needed {
                break;
            }
            freed += bytes;
            inner.known.remove(&id);
            inner.evicted += 1;
        }
        Ok(())
    }

    /// Forgets what was not used for a while, and tries again what was refused.
    /// To be called about once a second.
    pub(super) fn tend(&self, now: Instant) {
        let mut inner = self.inner();
        inner.known.retain(|_, known| {
            if Arc::strong_count(&known.slot) > 1 {
                known.idle_since = None;
                return true;
            }
            let since = *known.idle_since.get_or_insert(now);
            now.saturating_duration_since(since) < IDLE_TIME
        });
        let due = |known: &Known| {
            let is_used = known.idle_since.is_none();
            Some((
                Arc::clone(&known.slot),
                known.slot.due(now).filter(|_| is_used)?,
            ))
        };
        let due: Vec<_> = inner.known.values().filter_map(due).collect();
        for (slot, binary) in due {
            // The others stay as they are until the next time.
            if !inner.cpu.allows(now) || inner.queue.len() >= MAX_WAITING {
                break;
            }
            self.enqueue(&mut inner, &slot, &binary);
        }
    }

    /// What there is.
    pub(super) fn status(&self) -> TablesStatus {
        let inner = self.inner();
        let sizes = || inner.known.values().filter_map(|known| known.slot.bytes());
        TablesStatus {
            ready: sizes().count(),
            bytes: sizes().sum(),
            waiting: inner.queue.len() + inner.building,
            built: inner.built,
            build_cpu: inner.build_cpu,
            evicted: inner.evicted,
            refused: inner.refused.clone(),
        }
    }
}

impl Inner {
    fn refuse(&mut self, slot: &Slot, reason: Refusal, binary: &Arc<Binary>) {
        let retry_at = reason.retry_after().map(|after| Instant::now() + after);
        let is_new = slot.set(State::Refused {
            reason,
            retry_at,
            // Not held open for nothing.
            binary: retry_at.and_then(|_| keep(&self.places, binary)),
        });
        // The same binary again is not another one.
        if is_new {
            *self.refused.entry(reason).or_default() += 1;
        }
    }
}

/// Keeps a binary open, if there is a place for it.
fn keep(places: &Arc<()>, binary: &Arc<Binary>) -> Option<Kept> {
    (Arc::strong_count(places) <= MAX_KEPT).then(|| Kept {
        binary: Arc::clone(binary),
        _place: Arc::clone(places),
    })
}

#[cfg(test)]
mod tests;
