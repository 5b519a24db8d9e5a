//! What the resolver's thread does.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use profiler_abi::{INTERRUPTED, RuntimeFrame, StackCopy, stack_end, unwind_method};

use crate::{
    namer::Batch,
    processes::ProcessKey,
    runtimes::{self, Merged, RuntimeReport, python::CodeTable},
    sideband::Drained,
    symbols::{
        jit::{JitNames, is_jit},
        vdso,
    },
    unwind::{
        copied::{CopiedStack, Registers, StackWalker},
        elf::ReadAt,
        loader::SessionTables,
    },
};

use super::{
    Job, Resolved, ResolvedStack, WalkedStack, call_site, code::CodeMaps, frame_table::FrameTable,
    is_interpreter, process_table::ProcessTable,
};

/// How often new addresses are named, many at a time.
const BATCH: Duration = Duration::from_millis(250);

/// Stacks that may wait until their process can be read again.
const MAX_DEFERRED: usize = 4096;

/// Copied stacks kept, each of a sample of its own: 30 MiB, as most are alike.
const MAX_COPIED: usize = 400_000;

/// A stack in code that was mapped after its process was read.
struct Deferred {
    process: u32,
    id: u64,
    stack: Arc<WalkedStack>,
    method: u8,
    end: u8,
    since: Instant,
    until: Instant,
}

/// A copy that waits.
struct WaitingCopy {
    process: u32,
    walked: Option<Arc<WalkedStack>>,
    copy: Box<StackCopy>,
}

/// The state of the thread.
pub(super) struct Worker {
    processes: ProcessTable,
    frames: FrameTable,
    code: CodeMaps,
    tables: Option<SessionTables>,
    walker: StackWalker,
    python: CodeTable,
    interpreted: RuntimeReport,
    jit: JitNames,
    deferred: VecDeque<Deferred>,
    copies: VecDeque<WaitingCopy>,
    /// Copies that are not walked yet, those on their way included.
    copies_queued: Arc<AtomicUsize>,
    copied: usize,
    copied_lost: u64,
    /// Frames of copied stacks, each list once.
    lists: HashSet<Arc<[u32]>>,
    user_stacks: HashMap<(u32, u64), ResolvedStack>,
    /// Named at the end: the kernel does not go away, and reading its symbols
    /// would keep this thread from processes that do.
    kernel_stacks: Vec<(u64, Arc<WalkedStack>)>,
}

impl Worker {
    pub(super) fn new(
        namer: Sender<Batch>,
        tables: Option<SessionTables>,
        copies_queued: Arc<AtomicUsize>,
        has_sideband: bool,
    ) -> Self {
        Self {
            processes: ProcessTable::new(has_sideband),
            frames: FrameTable::new(namer),
            code: CodeMaps::default(),
            tables,
            walker: StackWalker::new(vdso_bytes(), StackWalker::DEFAULT_BUDGET),
            python: CodeTable::default(),
            interpreted: RuntimeReport::default(),
            jit: JitNames::default(),
            deferred: VecDeque::new(),
            copies: VecDeque::new(),
            copies_queued,
            copied: 0,
            copied_lost: 0,
            lists: HashSet::new(),
            user_stacks: HashMap::new(),
            kernel_stacks: Vec::new(),
        }
    }

    /// Works until the sender is gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) -> Resolved {
        let mut next_batch = Instant::now() + BATCH;
        loop {
            match jobs.recv_timeout(BATCH) {
                Ok(job) => self.handle(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if now >= next_batch {
                self.retry(|deferred| deferred.until <= now);
                self.submit_pending();
                next_batch = Instant::now() + BATCH;
            }
        }
        self.finish()
    }

    fn finish(mut self) -> Resolved {
        self.walk_copies(|_, _| true);
        self.retry(|_| true);
        self.submit_pending();
        let kernel_stacks = self
            .kernel_stacks
            .into_iter()
            .map(|(id, stack)| (id, self.frames.kernel(&stack.frames)))
            .collect();
        let (files, frames, mut warnings) = self.frames.finish();
        warnings.extend(self.code.warnings());
        warnings.extend(self.jit.warnings());
        warnings.extend(self.interpreted.warnings());
        if self.copied_lost > 0 {
            warnings.push(format!(
                "{} copied stacks are lost: more than {MAX_COPIED} samples had one",
                self.copied_lost
            ));
        }
        Resolved {
            processes: self.processes.into_infos(),
            files,
            frames,
            user_stacks: self.user_stacks,
            kernel_stacks,
            unwind: self.tables.map(|tables| tables.report()),
            warnings,
        }
    }

    /// Has every frame named that waits for it.
    fn submit_pending(&mut self) {
        let Self {
            frames,
            jit,
            processes,
            ..
        } = self;
        frames.submit_pending();
        frames.name_jit(|pending| {
            let key = processes.key(pending.process)?;
            let mappings = processes.mappings(pending.process);
            jit.name(&key, mappings, pending.address, None)
        });
    }

    fn handle(&mut self, job: Job) {
        match job {
            Job::Process {
                index,
                key,
                parent,
                time_ns,
            } => self.add_process(index, key, parent, time_ns),
            Job::UserStack {
                process,
                id,
                stack,
                method,
                end,
            } => self.add_user_stack(process, id, stack, (method, end)),
            Job::StackCopy {
                process,
                walked,
                copy,
            } => self.copies.push_back(WaitingCopy {
                process,
                walked,
                copy,
            }),
            Job::KernelStack { id, stack } => self.kernel_stacks.push((id, stack)),
            Job::Code(code) => self.python.add(&code),
            Job::Side(told) => self.follow(told),
        }
    }

    fn add_process(&mut self, index: u32, key: ProcessKey, parent: u32, time_ns: u64) {
        self.processes.add(index, key, parent, time_ns);
        self.load_tables(index);
    }

    /// Takes in what the kernel has told, and walks the copies that waited for it.
    fn follow(&mut self, told: Drained) {
        for process in self.processes.follow(told) {
            self.load_tables(process);
        }
        self.walk_copies(Self::can_be_walked);
    }

    /// Has the kernel walk the stacks of a process by tables from now on.
    fn load_tables(&mut self, index: u32) {
        let Some(key) = self.processes.key(index) else {
            return;
        };
        let mappings = self.processes.mappings(index);
        let code = self.code.update(index, key.pid, mappings);
        // An earlier image of a process is not what runs under its id.
        if let Some(tables) = &self.tables
            && self.processes.is_latest(index)
            && let Some(process) = code.to_load(&key)
        {
            tables.load(process);
        }
    }

    fn can_be_walked(&self, copy: &StackCopy) -> bool {
        self.processes.knows(copy.time_ns)
    }

    fn walk_copies(&mut self, is_due: impl Fn(&Self, &StackCopy) -> bool) {
        for waiting in mem::take(&mut self.copies) {
            if is_due(self, &waiting.copy) {
                self.copies_queued.fetch_sub(1, Ordering::Relaxed);
                self.walk_copy(waiting);
            } else {
                self.copies.push_back(waiting);
            }
        }
    }

    /// Walks what the kernel could not.
    fn walk_copy(&mut self, waiting: WaitingCopy) {
        let WaitingCopy {
            process,
            walked,
            copy,
        } = waiting;
        let Some(memory) = copy.bytes.get(..copy.len as usize) else {
            return;
        };
        if self.copied >= MAX_COPIED {
            self.copied_lost += 1;
            return;
        }
        self.copied += 1;
        let registers = Registers::new(&copy.registers, copy.known);
        let stack = CopiedStack {
            registers: &registers,
            memory,
        };
        let mut walk = self.walker.walk(&stack, self.code.of(process));
        let now = Instant::now();
        if walk.end == stack_end::NO_MAPPING
            && self
                .processes
                .next_read(process)
                .is_some_and(|at| at <= now)
        {
            // What the kernel told of it was lost.
            self.read_again(process, now);
            walk = self.walker.walk(&stack, self.code.of(process));
        }
        let mut frames = Vec::with_capacity(walk.frames.len());
        if let Some(walked) = &walked {
            frames.extend_from_slice(&walked.frames);
        }
        let first = frames.len();
        frames.extend_from_slice(&walk.frames);
        // Behind frames that the kernel has walked, one whose registers are all
        // known is one that a signal interrupted.
        if first > 0
            && registers.are_known()
            && let Some(interrupted) = frames.get_mut(first)
        {
            *interrupted |= INTERRUPTED;
        }
        let runtime = walked.as_ref().map_or(&[][..], |walked| &walked.runtime);
        let frames = self.resolve(process, &frames, first, runtime, walk.end);
        let frames = self.share(frames);
        let walked = Some((walk.end, unwind_method::COPY));
        self.user_stacks
            .insert((process, copy.id), ResolvedStack { frames, walked });
    }

    /// The same list, kept once.
    fn share(&mut self, frames: Vec<u32>) -> Arc<[u32]> {
        if let Some(known) = self.lists.get(&frames[..]) {
            return Arc::clone(known);
        }
        let frames: Arc<[u32]> = frames.into();
        self.lists.insert(Arc::clone(&frames));
        frames
    }

    fn add_user_stack(
        &mut self,
        process: u32,
        id: u64,
        stack: Arc<WalkedStack>,
        (method, end): (u8, u8),
    ) {
        if self.processes.lacks(process, &stack.frames)
            && let Some(until) = self.processes.next_read(process)
        {
            let since = Instant::now();
            if since < until && self.deferred.len() < MAX_DEFERRED {
                self.deferred.push_back(Deferred {
                    process,
                    id,
                    stack,
                    method,
                    end,
                    since,
                    until,
                });
                return;
            }
            if since >= until {
                self.read_again(process, since);
            }
        }
        self.resolve_walked(process, id, &stack, (method, end));
    }

    fn read_again(&mut self, process: u32, since: Instant) {
        self.processes.read_since(process, since);
        self.load_tables(process);
    }

    /// Resolves stacks that waited, once for all.
    fn retry(&mut self, is_due: impl Fn(&Deferred) -> bool) {
        for deferred in mem::take(&mut self.deferred) {
            if !is_due(&deferred) {
                self.deferred.push_back(deferred);
                continue;
            }
            let Deferred {
                process,
                id,
                stack,
                method,
                end,
                since,
                ..
            } = deferred;
            if self.processes.lacks(process, &stack.frames) {
                self.read_again(process, since);
            }
            self.resolve_walked(process, id, &stack, (method, end));
        }
    }

    fn resolve_walked(
        &mut self,
        process: u32,
        id: u64,
        stack: &WalkedStack,
        (method, end): (u8, u8),
    ) {
        let frames = match method {
            unwind_method::FRAME_POINTERS => plausible(&self.processes, process, &stack.frames),
            _ => &stack.frames,
        };
        let frames = self.resolve(process, frames, frames.len(), &stack.runtime, end);
        let resolved = ResolvedStack {
            frames: frames.into(),
            walked: None,
        };
        self.user_stacks.insert((process, id), resolved);
    }

    /// The frames at addresses of a process, those of an interpreter in their
    /// places. The kernel has walked, and marked, the first `marked`.
    fn resolve(
        &mut self,
        process: u32,
        addresses: &[u64],
        marked: usize,
        runtime: &[RuntimeFrame],
        end: u8,
    ) -> Vec<u32> {
        let native: Vec<u32> = addresses
            .iter()
            .enumerate()
            .map(|(depth, address)| self.native(process, call_site(depth, *address)))
            .collect();
        if runtime.is_empty() {
            return native;
        }
        let code = self.code.of(process);
        let places: Vec<runtimes::Place> = addresses
            .iter()
            .enumerate()
            .map(|(depth, address)| match depth < marked {
                true if is_interpreter(*address) => runtimes::Place::Interpreter,
                true => runtimes::Place::Native,
                false => code.place(call_site(depth, *address)),
            })
            .collect();
        let merge = runtimes::merge(&places, end == stack_end::WHOLE, runtime);
        self.interpreted.merged(&merge);
        merge
            .frames
            .iter()
            .map(|frame| match *frame {
                Merged::Native(index) => native[index],
                Merged::Runtime(index) => self.interpreted(process, runtime[index]),
            })
            .collect()
    }

    fn native(&mut self, process: u32, address: u64) -> u32 {
        let Self {
            processes,
            frames,
            code,
            ..
        } = self;
        let pid = processes.pid(process).unwrap_or(0);
        let mapping = processes.mapping(process, address);
        if mapping.is_some_and(is_jit) {
            return frames.jit(process, address);
        }
        frames.user(mapping, address, || code.file(pid, mapping?))
    }

    fn interpreted(&mut self, process: u32, frame: RuntimeFrame) -> u32 {
        let name = self
            .processes
            .key(process)
            .and_then(|key| self.python.name(key.pid, key.start_ns, frame));
        if name.is_none() {
            self.interpreted.unnamed();
        }
        self.frames.interpreted(process, frame, name)
    }
}

/// The kernel's code in every process, for the walker.
fn vdso_bytes() -> Vec<u8> {
    let Some(image) = vdso::image() else {
        return Vec::new();
    };
    let mut bytes = vec![0; image.len() as usize];
    match image.read_exact_at(&mut bytes, 0) {
        Ok(()) => bytes,
        Err(error) => {
            tracing::debug!("read the vDSO: {error}");
            Vec::new()
        }
    }
}

/// The frames up to where a chain of frame pointers leads out of all code: in a
/// function compiled without frame pointers the register holds whatever it is
/// used for. The leaf is the program counter and stays.
fn plausible<'a>(processes: &ProcessTable, process: u32, addresses: &'a [u64]) -> &'a [u64] {
    let end = addresses
        .iter()
        .skip(1)
        .position(|address| !processes.may_be_code(process, address.wrapping_sub(1)));
    &addresses[..end.map_or(addresses.len(), |callers| callers + 1)]
}
