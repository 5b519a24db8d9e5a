//! The thread beside the sampling path that reads processes and names frames
//! while the session runs, so that little is left to do at its end.

mod address_space;
mod code;
mod frame_table;
mod process_table;
mod worker;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use profiler_abi::{
    INTERRUPTED, RUNS_INTERPRETER, RuntimeFrame, STACK_COPY_BYTES, StackCopy, python::CodeRecord,
};

use crate::{
    namer::Namer,
    processes::{ProcessInfo, ProcessKey},
    sideband::Drained,
    symbolize::Name,
    symbols::shared::Symbols,
    unwind::loader::{SessionTables, UnwindReport},
};

use self::worker::Worker;

/// Jobs that may wait between the sampling thread and the resolver.
const QUEUE: usize = 4096;

/// Copies of stacks that may wait to be walked, for what the kernel tells of
/// their processes or for the thread: 8 MiB.
const MAX_COPIES: usize = (8 << 20) / STACK_COPY_BYTES;

/// How long the end of a session waits for processes and stacks, then for
/// names. A process can make either take for ever: by a file system of its own,
/// or by symbols without end.
const RESOLVE_TIME: Duration = Duration::from_secs(30);
const NAME_TIME: Duration = Duration::from_secs(20);

/// How often jobs that wait are offered at the end of a session.
const OFFER: Duration = Duration::from_millis(5);

/// End of the addresses a process can have on x86-64 and arm64 with 4 levels
/// of page tables.
const USER_END: u64 = 1 << 47;

/// Distinct frames kept per session: 10 MiB, and 32 MiB for their names.
const MAX_FRAMES: usize = 200_000;

/// Work for the resolver.
pub enum Job {
    /// A process was seen for the first time; `index` is how it is called from now on.
    Process {
        /// When, CLOCK_MONOTONIC ns.
        time_ns: u64,
        /// 0, 1, 2, ... in this order.
        index: u32,
        /// Who it is.
        key: ProcessKey,
        /// Process id of its parent.
        parent: u32,
    },
    /// A user stack was seen in a process for the first time.
    UserStack {
        /// Index of the process.
        process: u32,
        /// Id of the stack.
        id: u64,
        /// As the kernel sent it.
        stack: Arc<WalkedStack>,
        /// A [`profiler_abi::unwind_method`].
        method: u8,
        /// How it ended: a [`profiler_abi::stack_end`].
        end: u8,
    },
    /// A stack that is yet to be walked.
    StackCopy {
        /// Index of the process.
        process: u32,
        /// The frames below, where the kernel has walked some.
        walked: Option<Arc<WalkedStack>>,
        /// The copy.
        copy: Box<StackCopy>,
    },
    /// A code object of an interpreter.
    Code(Box<CodeRecord>),
    /// What else has happened until now: all that other jobs before this one
    /// refer to.
    Side(Drained),
    /// A kernel stack was seen for the first time.
    KernelStack {
        /// Id of the stack.
        id: u64,
        /// As the kernel sent it.
        stack: Arc<WalkedStack>,
    },
}

/// A part of a stack as the kernel side walked it.
#[derive(Debug, PartialEq, Eq)]
pub struct WalkedStack {
    /// Addresses, leaf first; see [`profiler_abi::INTERRUPTED`].
    pub frames: Box<[u64]>,
    /// Of an interpreter, leaf first.
    pub runtime: Box<[RuntimeFrame]>,
}

/// A user stack whose frames are known.
#[derive(Clone, Debug)]
pub struct ResolvedStack {
    /// Indices of frames, leaf first.
    pub frames: Arc<[u32]>,
    /// How it ended and how it was walked, where userspace has walked it: a
    /// [`profiler_abi::stack_end`] and a [`profiler_abi::unwind_method`].
    pub walked: Option<(u8, u8)>,
}

/// A frame: where it is and what it is called.
#[derive(Clone, Debug)]
pub struct ResolvedFrame {
    /// Index in [`Resolved::files`]; `None`: no mapping is known.
    pub file: Option<u32>,
    /// Offset in the file, the address where there is none. Of callers it is
    /// that of the call: one below the return address.
    pub address: u64,
    /// Innermost first; empty: no name.
    pub names: Vec<Name>,
    /// It is one of an interpreter: `address` is its code object.
    pub interpreted: bool,
}

/// A mapped file.
#[derive(Clone, Debug)]
pub struct ResolvedFile {
    /// As the process sees it.
    pub path: Arc<str>,
    /// GNU build-id, may be empty.
    pub build_id: Vec<u8>,
}

/// Everything the session's stacks resolved to.
#[derive(Default)]
pub struct Resolved {
    /// By process index; `None`: it was gone before it could be read.
    pub processes: Vec<Option<ProcessInfo>>,
    /// Files that frames lie in. The kernel is one of them.
    pub files: Vec<ResolvedFile>,
    /// Distinct frames.
    pub frames: Vec<ResolvedFrame>,
    /// By process index and stack id.
    pub user_stacks: HashMap<(u32, u64), ResolvedStack>,
    /// Stack id -> indices of frames, leaf first.
    pub kernel_stacks: HashMap<u64, Box<[u32]>>,
    /// What tables cost and lack; `None`: the session had none.
    pub unwind: Option<UnwindReport>,
    /// What the reader of the capture must know about all this.
    pub warnings: Vec<String>,
}

/// The session's end of the resolver.
pub struct Resolver {
    sender: SyncSender<Job>,
    /// Copies of stacks handed over and not walked yet.
    copies: Arc<AtomicUsize>,
    copies_dropped: u64,
    submitted: Vec<Job>,
    /// Jobs that found the queue full. Every process, and every stack of one,
    /// comes once, so the bounds of the aggregate are theirs.
    waiting: VecDeque<Job>,
    /// Every stack handed over, for a resolver that does not come back.
    stacks: Vec<RawStack>,
    resolved: Receiver<Resolved>,
    namer: Namer,
}

/// A stack as it was handed over.
struct RawStack {
    /// `None`: the kernel's.
    process: Option<u32>,
    id: u64,
    stack: Arc<WalkedStack>,
}

impl Resolver {
    /// Starts the threads. `tables` are those by which the session's programs
    /// walk stacks; `has_sideband`: every [`Self::commit`] comes with what the
    /// kernel has told.
    ///
    /// # Errors
    /// Fails where the system has no thread left.
    pub fn start(
        symbols: Arc<Symbols>,
        tables: Option<SessionTables>,
        has_sideband: bool,
    ) -> std::io::Result<Self> {
        let (sender, jobs) = sync_channel(QUEUE);
        let (done, resolved) = channel();
        let namer = Namer::start(symbols)?;
        let worker_namer = namer.batches();
        let copies = Arc::new(AtomicUsize::new(0));
        let worker_copies = Arc::clone(&copies);
        thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                let worker = Worker::new(worker_namer, tables, worker_copies, has_sideband);
                if done.send(worker.run(&jobs)).is_err() {
                    tracing::debug!("nobody waits for what was resolved");
                }
            })?;
        Ok(Self {
            sender,
            copies,
            copies_dropped: 0,
            submitted: Vec::new(),
            waiting: VecDeque::new(),
            stacks: Vec::new(),
            resolved,
            namer,
        })
    }

    /// Takes a job, to be handed over with the next [`Self::commit`].
    pub fn submit(&mut self, job: Job) {
        if matches!(job, Job::StackCopy { .. }) {
            if self.copies.load(Ordering::Relaxed) >= MAX_COPIES {
                self.copies_dropped += 1;
                return;
            }
            self.copies.fetch_add(1, Ordering::Relaxed);
        }
        self.stacks.extend(RawStack::of(&job));
        self.submitted.push(job);
    }

    /// Hands over what was submitted, behind what the kernel has told meanwhile.
    /// Never waits: what finds no room is offered again.
    pub fn commit(&mut self, told: Option<Drained>) {
        self.waiting.extend(told.map(Job::Side));
        self.waiting.extend(self.submitted.drain(..));
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            match self.sender.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => return self.waiting.push_front(job),
                // The thread died, which the end of the session tells.
                Err(TrySendError::Disconnected(_)) => return self.waiting.clear(),
            }
        }
    }

    /// Waits until everything has been resolved and named, but not for ever:
    /// what has no name by then shows its address, and a warning says so.
    pub fn finish(self) -> Resolved {
        self.finish_within(RESOLVE_TIME, NAME_TIME)
    }

    fn finish_within(mut self, resolve_time: Duration, name_time: Duration) -> Resolved {
        let deadline = Instant::now() + resolve_time;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.commit(None);
        while !self.waiting.is_empty() && !left().is_zero() {
            thread::sleep(OFFER);
            self.pump();
        }
        drop(self.sender);
        let mut resolved = match self.resolved.recv_timeout(left()) {
            Ok(resolved) => resolved,
            Err(error) => return addresses_only(&self.stacks, why(error)),
        };
        let (named, warnings) = self.namer.finish(name_time);
        for (frame, names) in named {
            resolved.frames[frame as usize].names = names;
        }
        resolved.warnings.extend(warnings);
        if self.copies_dropped > 0 {
            resolved.warnings.push(format!(
                "{} copies of stacks were dropped: more than {MAX_COPIES} waited",
                self.copies_dropped
            ));
        }
        resolved
    }
}

/// What to say where nothing was resolved.
fn why(error: RecvTimeoutError) -> &'static str {
    let why = match error {
        RecvTimeoutError::Timeout => {
            "processes were still being read 30 s after the end: frames show their addresses only"
        }
        RecvTimeoutError::Disconnected => {
            "reading processes failed: frames show their addresses only"
        }
    };
    tracing::error!("{why}");
    why
}

/// Stacks whose frames nobody has looked up.
fn addresses_only(stacks: &[RawStack], warning: &str) -> Resolved {
    let mut resolved = Resolved {
        warnings: vec![warning.to_owned()],
        ..Resolved::default()
    };
    let mut known = HashMap::new();
    for stack in stacks {
        let mut frames = Vec::with_capacity(stack.stack.frames.len());
        for (depth, address) in stack.stack.frames.iter().enumerate() {
            let address = call_site(depth, *address);
            let next = resolved.frames.len() as u32;
            let frame = *known.entry(address).or_insert(next);
            if frame == next {
                resolved.frames.push(ResolvedFrame {
                    file: None,
                    address,
                    names: Vec::new(),
                    interpreted: false,
                });
            }
            frames.push(frame);
        }
        match stack.process {
            Some(process) => {
                let resolved_stack = ResolvedStack {
                    frames: frames.into(),
                    walked: None,
                };
                resolved
                    .user_stacks
                    .insert((process, stack.id), resolved_stack);
            }
            None => {
                resolved.kernel_stacks.insert(stack.id, frames.into());
            }
        }
    }
    resolved
}

impl RawStack {
    fn of(job: &Job) -> Option<Self> {
        let (process, id, stack) = match job {
            Job::UserStack {
                process, id, stack, ..
            } => (Some(*process), *id, stack),
            Job::KernelStack { id, stack } => (None, *id, stack),
            Job::Process { .. } | Job::StackCopy { .. } | Job::Code(_) | Job::Side(_) => {
                return None;
            }
        };
        Some(Self {
            process,
            id,
            stack: Arc::clone(stack),
        })
    }
}

/// Where a frame was. Return addresses are looked up at the call before them: a
/// call that does not return ends on the next function's first byte.
fn call_site(depth: usize, address: u64) -> u64 {
    let (address, marks) = without_marks(address);
    let is_call = depth > 0 && marks & INTERRUPTED == 0;
    address.saturating_sub(u64::from(is_call))
}

/// Whether the kernel side found there the function that runs an interpreter's
/// code.
fn is_interpreter(address: u64) -> bool {
    without_marks(address).1 & RUNS_INTERPRETER != 0
}

/// An address, and what the kernel side has marked it with. The kernel's own
/// addresses have those bits set, and the ones below them too.
fn without_marks(address: u64) -> (u64, u64) {
    const MARKS: u64 = INTERRUPTED | RUNS_INTERPRETER;
    /// Bits between the marks and the longest addresses of processes.
    const BETWEEN: u64 = 0x3e00_0000_0000_0000;
    match address & BETWEEN {
        0 => (address & !MARKS, address & MARKS),
        _ => (address, 0),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsRawFd, ptr, sync::mpsc::Sender};

    use profiler_abi::{stack_end, unwind_method};

    use super::*;
    use crate::processes::tests::own_key;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn walked(frames: &[u64]) -> Arc<WalkedStack> {
        Arc::new(WalkedStack {
            frames: frames.into(),
            runtime: Box::default(),
        })
    }

    fn user_stack(id: u64, frames: &[u64]) -> Job {
        Job::UserStack {
            process: 0,
            id,
            stack: walked(frames),
            method: unwind_method::FRAME_POINTERS,
            end: stack_end::FRAME_POINTERS,
        }
    }

    /// A resolver whose thread the test plays.
    fn without_thread(queue: usize) -> (Resolver, Receiver<Job>, Sender<Resolved>) {
        let (sender, jobs) = sync_channel(queue);
        let (done, resolved) = channel();
        let resolver = Resolver {
            sender,
            copies: Arc::default(),
            copies_dropped: 0,
            submitted: Vec::new(),
            waiting: VecDeque::new(),
            stacks: Vec::new(),
            resolved,
            namer: Namer::start(Arc::default()).unwrap(),
        };
        (resolver, jobs, done)
    }

    #[test]
    fn a_stuck_thread_leaves_addresses() {
        let (mut resolver, _jobs, _done) = without_thread(1);
        resolver.submit(user_stack(7, &[0x1000, 0x2001]));
        resolver.submit(user_stack(8, &[0x1000]));
        resolver.submit(Job::KernelStack {
            id: 9,
            stack: walked(&[0xffff_ffff_8100_0000]),
        });
        let resolved = resolver.finish_within(Duration::from_millis(20), PATIENCE);
        let address = |frame: &u32| resolved.frames[*frame as usize].address;
        let addresses = |frames: &[u32]| frames.iter().map(address).collect::<Vec<_>>();
        assert_eq!(
            addresses(&resolved.user_stacks[&(0, 7)].frames),
            [0x1000, 0x2000]
        );
        assert_eq!(addresses(&resolved.user_stacks[&(0, 8)].frames), [0x1000]);
        assert_eq!(
            addresses(&resolved.kernel_stacks[&9]),
            [0xffff_ffff_8100_0000]
        );
        assert_eq!(resolved.frames.len(), 3);
        assert!(resolved.warnings[0].contains("still being read"));
    }

    #[test]
    fn a_thread_that_died_is_not_waited_for() {
        let (mut resolver, jobs, done) = without_thread(1);
        drop((jobs, done));
        resolver.submit(user_stack(7, &[0x1000]));
        let resolved = resolver.finish_within(PATIENCE, PATIENCE);
        assert_eq!(resolved.user_stacks.len(), 1);
        assert!(resolved.warnings[0].contains("failed"));
    }

    #[test]
    fn code_mapped_after_its_process_was_read_has_a_file() {
        let mut resolver = Resolver::start(Arc::default(), None, false).unwrap();
        resolver.submit(Job::Process {
            index: 0,
            key: own_key(),
            parent: 0,
            time_ns: 0,
        });
        let here = code_mapped_after_its_process_was_read_has_a_file as *const () as u64;
        resolver.submit(user_stack(1, &[here]));
        resolver.commit(None);
        // The process has been read when the queue is empty and this is mapped.
        thread::sleep(Duration::from_millis(50));
        let program = File::open("/proc/self/exe").unwrap();
        let (protection, fd) = (libc::PROT_READ | libc::PROT_EXEC, program.as_raw_fd());
        // SAFETY: a new mapping, which nothing refers to.
        let late =
            unsafe { libc::mmap(ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE, fd, 0) };
        assert_ne!(late, libc::MAP_FAILED);
        resolver.submit(user_stack(2, &[here, late as u64 + 16]));
        let resolved = resolver.finish_within(PATIENCE, PATIENCE);
        assert_eq!(resolved.warnings, [] as [String; 0]);
        let frames = &resolved.user_stacks[&(0, 2)].frames;
        assert_eq!(frames.len(), 2, "cut");
        let [named, late] = [0, 1].map(|at| &resolved.frames[frames[at] as usize]);
        assert!(!named.names.is_empty());
        assert_eq!(late.file, named.file);
        assert_eq!(late.address, 15);
    }
}
