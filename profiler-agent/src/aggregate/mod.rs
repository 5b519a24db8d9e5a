//! Records -> raw samples: who, where, how much, with everything that repeats
//! interned. Nothing is named here.

mod store;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    mem,
    sync::Arc,
};

use profiler_abi::{
    CpuSample, Identity, IoKey, IoSample, OffcpuSample, RuntimeFrame, StackCopy, StackIds,
    ThreadAccount, stack_end, unwind_method,
};
use profiler_proto::{Event, Frequency};

use crate::{
    processes::ProcessKey,
    reader::{Address, Record},
    resolver::{Job, Resolver, WalkedStack},
};

use self::store::SampleStore;

/// Bytes of addresses kept for stacks: 8 Mi frames, 65,000 different stacks of 128.
const MAX_STACK_BYTES: usize = 64 << 20;

/// Copies that wait one more turn for the frames the kernel has walked.
const MAX_HELD_COPIES: usize = 64;

/// Threads, processes and accounts kept. A host that starts 200 processes a
/// second reaches this in 20 minutes.
const MAX_THREADS: usize = 250_000;

/// A thread under one of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawThread {
    /// Index of the process.
    pub process: u32,
    /// Thread id.
    pub tid: u32,
    /// CLOCK_BOOTTIME ns.
    pub start_ns: u64,
    /// Command name, NUL-padded.
    pub comm: [u8; 16],
}

/// A process as it was first seen.
#[derive(Clone, Copy, Debug)]
pub struct RawProcess {
    /// Who it is.
    pub key: ProcessKey,
    /// Name of the thread that was seen first, where nothing better is known.
    pub comm: [u8; 16],
}

/// What sets a sample apart beside thread and stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RawAttributes {
    /// Nothing.
    None,
    /// A wait.
    Wait {
        /// The thread could have run.
        runnable: bool,
        /// How much of it lies in the window.
        extent: Extent,
    },
    /// A block request: device and operation.
    Io(IoKey),
}

/// What one block request has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRequest {
    /// Size.
    pub bytes: u64,
    /// From queueing to issue.
    pub queue_ns: u64,
}

/// Whether a wait ended in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// It did.
    Finished,
    /// It was going on at the end.
    Unfinished,
    /// The thread did not run at all.
    WholeWindow,
}

/// One measurement, by indices and ids.
#[derive(Clone, Copy, Debug)]
pub struct RawSample {
    /// CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// Index of the thread.
    pub thread: u32,
    /// Where.
    pub stack: StackIds,
    /// Index of the attributes.
    pub attributes: u32,
    /// What it stands for, in the event's unit.
    pub weight: u64,
    /// Of a block request; `None` where several were put together.
    pub request: Option<RawRequest>,
    /// Measurements in it; 0 for the second part of a wait that was blocked,
    /// then runnable.
    pub count: u32,
}

/// Exact times of a thread.
#[derive(Clone, Copy, Debug)]
pub struct RawAccount {
    /// Index of the thread.
    pub thread: u32,
    /// As the kernel sent it.
    pub account: ThreadAccount,
}

/// Waits that had not ended with the session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unfinished {
    /// How many.
    pub count: u64,
    /// How long they had lasted, in sum.
    pub weight_ns: u64,
}

/// A table that gives every distinct value a number.
#[derive(Debug)]
struct Interner<T> {
    index: HashMap<T, u32>,
    values: Vec<T>,
}

impl<T: Copy + Eq + Hash> Interner<T> {
    fn new() -> Self {
        Self {
            index: HashMap::new(),
            values: Vec::new(),
        }
    }

    fn intern(&mut self, value: T) -> u32 {
        *self.index.entry(value).or_insert_with(|| {
            self.values.push(value);
            self.values.len() as u32 - 1
        })
    }
}

/// All that one session has measured.
pub struct Aggregate {
    frequency: Frequency,
    process_index: HashMap<ProcessKey, u32>,
    processes: Vec<RawProcess>,
    threads: Interner<RawThread>,
    attributes: Interner<RawAttributes>,
    stacks: HashMap<u64, Arc<WalkedStack>>,
    stack_bytes: usize,
    /// (process, user stack) and (`u32::MAX`, kernel stack) pairs that the
    /// resolver knows.
    resolving: HashSet<(u32, u64)>,
    copies: u64,
    held_copies: Vec<Box<StackCopy>>,
    refused_stacks: u64,
    store: SampleStore,
    accounts: Vec<RawAccount>,
    lost_accounts: u64,
    unfinished: Unfinished,
    malformed: u64,
}

impl Aggregate {
    /// An empty one that keeps at most `max_samples`.
    pub fn new(frequency: Frequency, max_samples: usize) -> Self {
        Self {
            frequency,
            process_index: HashMap::new(),
            processes: Vec::new(),
            threads: Interner::new(),
            attributes: Interner::new(),
            stacks: HashMap::new(),
            stack_bytes: 0,
            resolving: HashSet::new(),
            copies: 0,
            held_copies: Vec::new(),
            refused_stacks: 0,
            store: SampleStore::new(max_samples),
            accounts: Vec::new(),
            lost_accounts: 0,
            unfinished: Unfinished::default(),
            malformed: 0,
        }
    }

    /// A record could not be parsed.
    pub fn add_malformed(&mut self) {
        self.malformed += 1;
    }

    /// Takes one record in.
    pub fn add(&mut self, record: Record<'_>, resolver: &mut Resolver) {
        match record {
            Record::Stack {
                id,
                frames,
                runtime,
            } => self.add_stack(id, frames, runtime),
            Record::StackCopy(copy) => self.add_copy(copy, resolver),
            Record::Code(code) => resolver.submit(Job::Code(code)),
            Record::Cpu(sample) => self.add_cpu(&sample, resolver),
            Record::Offcpu(sample) => self.add_offcpu(&sample, resolver),
            Record::Io(sample) => self.add_io(&sample, resolver),
            Record::Account(account, frames) => self.add_account(&account, frames, resolver),
        }
    }

    fn add_stack(&mut self, id: u64, frames: &[Address], runtime: Vec<RuntimeFrame>) {
        if self.stacks.contains_key(&id) {
            return;
        }
        let bytes = size_of_val(frames) + size_of_val(&runtime[..]);
        if self.stack_bytes + bytes > MAX_STACK_BYTES {
            self.refused_stacks += 1;
            return;
        }
        self.stack_bytes += bytes;
        let stack = WalkedStack {
            frames: frames.iter().map(|frame| frame.get()).collect(),
            runtime: runtime.into(),
        };
        self.stacks.insert(id, Arc::new(stack));
    }

    /// Has a copied stack walked. Its sample may have come already, or come
    /// much later: a block request is sent when it completes.
    fn add_copy(&mut self, copy: Box<StackCopy>, resolver: &mut Resolver) {
        self.copies += 1;
        let is_known = copy.walked == 0 || self.stacks.contains_key(&copy.walked);
        if is_known {
            self.submit_copy(copy, resolver);
        } else if self.held_copies.len() < MAX_HELD_COPIES {
            // Its record came into the other ring after that had been read.
            self.held_copies.push(copy);
        }
    }

    /// Has those copies walked that came before the frames the kernel had
    /// walked; what still lacks them is lost. To be called with copies that
    /// [`Self::take_held_copies`] gave before the rings were read again.
    pub fn add_held_copies(&mut self, held: Vec<Box<StackCopy>>, resolver: &mut Resolver) {
        for copy in held {
            if self.stacks.contains_key(&copy.walked) {
                self.submit_copy(copy, resolver);
            }
        }
    }

    /// Copies whose walked frames have not come yet.
    pub fn take_held_copies(&mut self) -> Vec<Box<StackCopy>> {
        mem::take(&mut self.held_copies)
    }

    fn submit_copy(&mut self, copy: Box<StackCopy>, resolver: &mut Resolver) {
        let walked = self.stacks.get(&copy.walked).map(Arc::clone);
        if let Some(thread) = self.thread(&copy.identity, copy.time_ns, resolver) {
            resolver.submit(Job::StackCopy {
                process: self.threads.values[thread as usize].process,
                walked,
                copy,
            });
        }
    }

    fn add_cpu(&mut self, sample: &CpuSample, resolver: &mut Resolver) {
        let Some(thread) = self.thread(&sample.identity, sample.time_ns, resolver) else {
            return self.store.refuse(Event::Cpu, 1);
        };
        self.push(
            Event::Cpu,
            RawAttributes::None,
            RawSample {
                time_ns: sample.time_ns,
                thread,
                stack: sample.stack,
                attributes: 0,
                request: None,
                weight: self.frequency.period_ns(),
                count: 1,
            },
            resolver,
        );
    }

    /// A wait that was blocked, then runnable, becomes two samples that share
    /// its weight in the same proportion; it is counted once.
    fn add_offcpu(&mut self, sample: &OffcpuSample, resolver: &mut Resolver) {
        let Some(thread) = self.thread(&sample.identity, sample.time_ns, resolver) else {
            return self.store.refuse(Event::OffCpu, 1);
        };
        let wait = |runnable| RawAttributes::Wait {
            runnable,
            extent: Extent::Finished,
        };
        let raw = |weight, count| RawSample {
            time_ns: sample.time_ns,
            thread,
            stack: sample.stack,
            attributes: 0,
            request: None,
            weight,
            count,
        };
        let runnable_ns = sample.runnable_ns.min(sample.duration_ns);
        let runnable_weight = match sample.duration_ns {
            0 => 0,
            duration => {
                let share = u128::from(sample.weight_ns) * u128::from(runnable_ns);
                (share / u128::from(duration)) as u64
            }
        };
        let blocked_weight = sample.weight_ns - runnable_weight.min(sample.weight_ns);
        if runnable_ns == sample.duration_ns {
            self.push(
                Event::OffCpu,
                wait(true),
                raw(sample.weight_ns, 1),
                resolver,
            );
            return;
        }
        let kept = self.push(Event::OffCpu, wait(false), raw(blocked_weight, 1), resolver);
        if kept && runnable_weight > 0 {
            self.push(Event::OffCpu, wait(true), raw(runnable_weight, 0), resolver);
        }
    }

    fn add_io(&mut self, sample: &IoSample, resolver: &mut Resolver) {
        let Some(thread) = self.thread(&sample.identity, sample.time_ns, resolver) else {
            return self.store.refuse(Event::Io, 1);
        };
        // Probability is in units of 2^-32.
        let weight = match sample.probability {
            0 => sample.device_ns,
            p => ((u128::from(sample.device_ns) << 32) / u128::from(p)) as u64,
        };
        self.push(
            Event::Io,
            RawAttributes::Io(sample.key),
            RawSample {
                time_ns: sample.time_ns,
                thread,
                stack: sample.stack,
                attributes: 0,
                request: Some(RawRequest {
                    bytes: sample.bytes,
                    queue_ns: sample.queue_ns,
                }),
                weight,
                count: 1,
            },
            resolver,
        );
    }

    /// Keeps the account and, where the thread waits, makes a sample of the
    /// wait that has not ended.
    fn add_account(
        &mut self,
        account: &ThreadAccount,
        frames: &[Address],
        resolver: &mut Resolver,
    ) {
        let waits = u64::from(account.unfinished_ns > 0);
        self.unfinished.count += waits;
        self.unfinished.weight_ns += account.unfinished_ns;
        let thread = match self.thread(&account.identity, account.time_ns, resolver) {
            Some(thread) if self.accounts.len() < MAX_THREADS => thread,
            _ => {
                self.lost_accounts += 1;
                return self.store.refuse(Event::OffCpu, waits);
            }
        };
        self.accounts.push(RawAccount {
            thread,
            account: *account,
        });
        if account.unfinished_ns == 0 {
            return;
        }
        let kernel = if frames.is_empty() {
            0
        } else {
            let id = content_id(frames);
            self.add_stack(id, frames, Vec::new());
            id
        };
        let user_end = if account.identity.kernel_thread != 0 {
            stack_end::NONE
        } else {
            stack_end::NOT_RUNNING
        };
        let attributes = RawAttributes::Wait {
            runnable: account.unfinished_runnable != 0,
            extent: if account.has_run == 0 {
                Extent::WholeWindow
            } else {
                Extent::Unfinished
            },
        };
        let sample = RawSample {
            time_ns: account.time_ns,
            thread,
            stack: StackIds {
                user: 0,
                kernel,
                user_end,
                kernel_end: account.kernel_end as u8,
                user_method: unwind_method::NONE,
                pad: [0; 5],
            },
            attributes: 0,
            request: None,
            weight: account.unfinished_ns,
            count: 1,
        };
        self.push(Event::OffCpu, attributes, sample, resolver);
    }

    /// The thread's index; `None` where it is one too many.
    fn thread(
        &mut self,
        identity: &Identity,
        time_ns: u64,
        resolver: &mut Resolver,
    ) -> Option<u32> {
        let key = ProcessKey {
            pid: identity.tgid,
            start_ns: identity.process_start_ns,
            exec_id: identity.exec_id,
        };
        let full = self.threads.values.len() >= MAX_THREADS;
        let process = match self.process_index.get(&key) {
            Some(index) => *index,
            None if full => return None,
            None => self.new_process(key, identity, time_ns, resolver),
        };
        let thread = RawThread {
            process,
            tid: identity.tid,
            start_ns: identity.thread_start_ns,
            comm: identity.comm,
        };
        if full {
            return self.threads.index.get(&thread).copied();
        }
        Some(self.threads.intern(thread))
    }

    fn new_process(
        &mut self,
        key: ProcessKey,
        identity: &Identity,
        time_ns: u64,
        resolver: &mut Resolver,
    ) -> u32 {
        let index = self.processes.len() as u32;
        self.process_index.insert(key, index);
        self.processes.push(RawProcess {
            key,
            comm: identity.comm,
        });
        resolver.submit(Job::Process {
            time_ns,
            index,
            key,
            parent: identity.parent,
        });
        index
    }

    /// Keeps a sample. Returns whether there was room.
    fn push(
        &mut self,
        event: Event,
        attributes: RawAttributes,
        mut sample: RawSample,
        resolver: &mut Resolver,
    ) -> bool {
        if !self.store.make_room() {
            self.store.refuse(event, u64::from(sample.count));
            return false;
        }
        sample.attributes = self.attributes.intern(attributes);
        self.resolve_stack(&mut sample, resolver);
        self.store.push(event, sample);
        true
    }

    /// Has new stacks resolved; a stack that never came is marked as lost.
    fn resolve_stack(&mut self, sample: &mut RawSample, resolver: &mut Resolver) {
        let process = self.threads.values[sample.thread as usize].process;
        let walked = sample.stack.user_end != stack_end::COPIED;
        if sample.stack.user != 0
            && walked
            && !self.resolving.contains(&(process, sample.stack.user))
        {
            match self.stacks.get(&sample.stack.user) {
                Some(stack) => {
                    self.resolving.insert((process, sample.stack.user));
                    resolver.submit(Job::UserStack {
                        process,
                        id: sample.stack.user,
                        stack: Arc::clone(stack),
                        method: sample.stack.user_method,
                        end: sample.stack.user_end,
                    });
                }
                None => {
                    sample.stack.user = 0;
                    sample.stack.user_end = stack_end::LOST;
                }
            }
        }
        if sample.stack.kernel != 0 && !self.resolving.contains(&(u32::MAX, sample.stack.kernel)) {
            match self.stacks.get(&sample.stack.kernel) {
                Some(stack) => {
                    self.resolving.insert((u32::MAX, sample.stack.kernel));
                    resolver.submit(Job::KernelStack {
                        id: sample.stack.kernel,
                        stack: Arc::clone(stack),
                    });
                }
                None => {
                    sample.stack.kernel = 0;
                    sample.stack.kernel_end = stack_end::LOST;
                }
            }
        }
    }

    /// The samples.
    pub fn store(&self) -> &SampleStore {
        &self.store
    }

    /// Waits that had not ended, kept or not.
    pub fn unfinished(&self) -> Unfinished {
        self.unfinished
    }

    /// Stacks that there was no room for.
    pub fn refused_stacks(&self) -> u64 {
        self.refused_stacks
    }

    /// Copies of stacks that came.
    pub fn copies(&self) -> u64 {
        self.copies
    }

    /// Accounts of threads that found no room.
    pub fn lost_accounts(&self) -> u64 {
        self.lost_accounts
    }

    /// Records that could not be parsed.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Accounts of threads.
    pub fn accounts(&self) -> &[RawAccount] {
        &self.accounts
    }

    /// Processes, by index.
    pub fn processes(&self) -> &[RawProcess] {
        &self.processes
    }

    /// Threads, by index.
    pub fn threads(&self) -> &[RawThread] {
        &self.threads.values
    }

    /// Attributes, by index.
    pub fn attributes(&self) -> &[RawAttributes] {
        &self.attributes.values
    }
}

/// An id for a stack that the kernel side has not given one: that of its
/// content, apart from the kernel's own ids by the hash in use.
fn content_id(frames: &[Address]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    for frame in frames {
        hasher.write_u64(frame.get());
    }
    hasher.finish().max(1)
}
