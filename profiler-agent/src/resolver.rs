//! The thread beside the sampling path that reads processes and names frames
//! while the session runs, so that little is left to do at its end.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    kernel_symbols::KernelSymbols,
    mapped_file::{self, MappedFile},
    namer::{Batch, Namer},
    processes::{FileId, Mapping, ProcessInfo, ProcessKey},
    symbolize::Name,
};

/// Jobs that may wait between the sampling thread and the resolver.
const QUEUE: usize = 4096;

/// How often new addresses are named, many at a time.
const BATCH: Duration = Duration::from_millis(250);

/// Least time between two readings of one process's mappings.
const REREAD: Duration = Duration::from_millis(200);

/// Processes whose mappings are kept, about 5 KiB each. Those of the oldest are
/// dropped and read again when one of them is met again.
const MAX_MAPPED_PROCESSES: usize = 2048;

/// Files held open to name their frames, far below the usual limit of 1024
/// descriptors. Past that all are named and closed.
const MAX_OPEN_FILES: usize = 256;

/// End of the addresses a process can have on x86-64 and arm64 with 4 levels
/// of page tables.
const USER_END: u64 = 1 << 47;

/// Distinct frames kept per session, about 40 MiB with their names.
const MAX_FRAMES: usize = 200_000;

/// Work for the resolver.
pub enum Job {
    /// A process was seen for the first time; `index` is how it is called from now on.
    Process {
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
        /// Addresses, leaf first.
        frames: Arc<[u64]>,
    },
    /// A kernel stack was seen for the first time.
    KernelStack {
        /// Id of the stack.
        id: u64,
        /// Addresses, leaf first.
        frames: Arc<[u64]>,
    },
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
}

/// A mapped file.
#[derive(Clone, Debug)]
pub struct ResolvedFile {
    /// As the process sees it.
    pub path: String,
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
    /// (process index, stack id) -> indices of frames, leaf first.
    pub user_stacks: HashMap<(u32, u64), Box<[u32]>>,
    /// The same for kernel stacks.
    pub kernel_stacks: HashMap<u64, Box<[u32]>>,
}

/// The session's end of the resolver.
pub struct Resolver {
    sender: SyncSender<Job>,
    /// Jobs that found the queue full.
    waiting: VecDeque<Job>,
    thread: JoinHandle<Resolved>,
}

impl Resolver {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let namer = Namer::start()?;
        let thread = thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || Worker::new(namer).run(&receiver))?;
        Ok(Self {
            sender,
            waiting: VecDeque::new(),
            thread,
        })
    }

    /// Hands over a job without ever waiting: what finds no room is offered
    /// again by [`Self::pump`].
    pub fn submit(&mut self, job: Job) {
        self.waiting.push_back(job);
        self.pump();
    }

    /// Offers waiting jobs again.
    pub fn pump(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
                self.sender.try_send(job)
            {
                self.waiting.push_front(job);
                return;
            }
        }
    }

    /// Waits until everything has been resolved. A resolver that died yields
    /// nothing: frames then show their addresses.
    pub fn finish(mut self) -> Resolved {
        for job in self.waiting.drain(..) {
            if self.sender.send(job).is_err() {
                break;
            }
        }
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| {
            tracing::error!("the resolver thread died; frames have no names");
            Resolved::default()
        })
    }
}

struct File {
    /// `None`: it cannot be opened, or is no file.
    fd: Option<Arc<MappedFile>>,
    /// Offsets that wait for a name, with their frames.
    pending: Vec<(u64, u32)>,
    frames: HashMap<u64, u32>,
}

struct Process {
    key: ProcessKey,
    /// When its mappings were read last; `None`: they have been dropped.
    read_at: Option<Instant>,
}

struct Worker {
    namer: Namer,
    resolved: Resolved,
    processes: Vec<Process>,
    /// Process id -> the last process seen under it.
    by_pid: HashMap<u32, u32>,
    files: Vec<File>,
    file_index: HashMap<(FileId, String), u32>,
    /// Addresses outside of any mapping.
    loose_frames: HashMap<u64, u32>,
    kernel: Option<KernelFile>,
    overflow_frame: Option<u32>,
    open_files: usize,
}

struct KernelFile {
    index: u32,
    symbols: Arc<KernelSymbols>,
}

impl Worker {
    fn new(namer: Namer) -> Self {
        Self {
            namer,
            resolved: Resolved::default(),
            processes: Vec::new(),
            by_pid: HashMap::new(),
            files: Vec::new(),
            file_index: HashMap::new(),
            loose_frames: HashMap::new(),
            kernel: None,
            overflow_frame: None,
            open_files: 0,
        }
    }

    fn run(mut self, jobs: &Receiver<Job>) -> Resolved {
        let mut next_batch = Instant::now() + BATCH;
        loop {
            match jobs.recv_timeout(BATCH) {
                Ok(job) => self.handle(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= next_batch {
                self.submit_pending();
                next_batch = Instant::now() + BATCH;
            }
        }
        self.submit_pending();
        for (frame, names) in self.namer.finish() {
            self.resolved.frames[frame as usize].names = names;
        }
        self.resolved
    }

    fn handle(&mut self, job: Job) {
        match job {
            Job::Process { index, key, parent } => self.add_process(index, key, parent),
            Job::UserStack {
                process,
                id,
                frames,
            } => self.add_user_stack(process, id, &frames),
            Job::KernelStack { id, frames } => self.add_kernel_stack(id, &frames),
        }
    }

    fn add_process(&mut self, index: u32, key: ProcessKey, parent: u32) {
        debug_assert_eq!(index as usize, self.processes.len());
        let info = match ProcessInfo::read(&key) {
            Ok(info) => Some(info),
            Err(error) => {
                tracing::debug!("{error}");
                self.inherited(&key, parent)
            }
        };
        self.by_pid.insert(key.pid, index);
        self.resolved.processes.push(info);
        self.processes.push(Process {
            key,
            read_at: Some(Instant::now()),
        });
        if let Some(oldest) = self.processes.len().checked_sub(MAX_MAPPED_PROCESSES + 1) {
            self.drop_mappings(oldest);
        }
    }

    /// A process that was gone before it could be read has its parent's image,
    /// unless one of the two has called exec since the fork.
    fn inherited(&self, key: &ProcessKey, parent: u32) -> Option<ProcessInfo> {
        let index = *self.by_pid.get(&parent)?;
        let same_image = self.processes[index as usize].key.exec_id == key.exec_id;
        same_image.then(|| self.info(index).cloned())?
    }

    fn drop_mappings(&mut self, index: usize) {
        self.processes[index].read_at = None;
        if let Some(info) = &mut self.resolved.processes[index] {
            info.mappings = Vec::new();
        }
    }

    fn add_user_stack(&mut self, process: u32, id: u64, addresses: &[u64]) {
        self.reread_if_stale(process, addresses);
        let frames = self
            .plausible(process, addresses)
            .iter()
            .enumerate()
            .map(|(depth, address)| {
                // Return addresses are looked up at the call before them: a
                // call that does not return ends on the next function's first
                // byte.
                let address = address - u64::from(depth > 0 && *address > 0);
                self.user_frame(process, address)
            })
            .collect();
        self.resolved.user_stacks.insert((process, id), frames);
    }

    /// The frames up to where a chain of frame pointers leads out of all code:
    /// in a function compiled without frame pointers the register holds
    /// whatever it is used for. The leaf is the program counter and stays.
    fn plausible<'a>(&self, process: u32, addresses: &'a [u64]) -> &'a [u64] {
        let info = self.info(process);
        let is_code = |address: u64| match info {
            Some(info) => info.mapping(address).is_some(),
            None => (1..USER_END).contains(&address),
        };
        let end = addresses
            .iter()
            .skip(1)
            .position(|address| !is_code(address.wrapping_sub(1)));
        &addresses[..end.map_or(addresses.len(), |callers| callers + 1)]
    }

    fn info(&self, process: u32) -> Option<&ProcessInfo> {
        self.resolved.processes.get(process as usize)?.as_ref()
    }

    /// Reads the mappings again where an address lies in none: a library was
    /// loaded since.
    fn reread_if_stale(&mut self, index: u32, addresses: &[u64]) {
        let (Some(process), Some(info)) = (
            self.processes.get_mut(index as usize),
            self.resolved.processes.get_mut(index as usize),
        ) else {
            return;
        };
        let unknown = match info {
            Some(info) => addresses
                .iter()
                .any(|address| info.mapping(*address).is_none()),
            None => false,
        };
        let stale = process.read_at.is_none_or(|at| at.elapsed() >= REREAD);
        if unknown && stale {
            process.read_at = Some(Instant::now());
            if let Ok(fresh) = ProcessInfo::read(&process.key) {
                *info = Some(fresh);
            }
        }
    }

    fn user_frame(&mut self, process: u32, address: u64) -> u32 {
        let mapping = self
            .info(process)
            .and_then(|info| info.mapping(address))
            .filter(|mapping| !mapping.path.is_empty())
            .cloned();
        let Some(mapping) = mapping else {
            if let Some(frame) = self.loose_frames.get(&address) {
                return *frame;
            }
            let frame = self.new_frame(None, address);
            self.loose_frames.insert(address, frame);
            return frame;
        };
        let file = self.file(process, &mapping);
        let offset = address - mapping.start + mapping.offset;
        if let Some(frame) = self.files[file as usize].frames.get(&offset) {
            return *frame;
        }
        let frame = self.new_frame(Some(file), offset);
        let entry = &mut self.files[file as usize];
        entry.frames.insert(offset, frame);
        if entry.fd.is_some() && Some(frame) != self.overflow_frame {
            entry.pending.push((offset, frame));
        }
        frame
    }

    /// The file behind a mapping, opened when it is first met: by the time
    /// names are looked up the process may be gone.
    fn file(&mut self, process: u32, mapping: &Mapping) -> u32 {
        let key = (mapping.file, mapping.path.clone());
        if let Some(index) = self.file_index.get(&key) {
            return *index;
        }
        let pid = self.processes[process as usize].key.pid;
        let fd = (mapping.file.inode != 0)
            .then(|| MappedFile::open(pid, mapping))
            .and_then(|opened| {
                opened
                    .inspect_err(|error| tracing::debug!("{} of {pid}: {error}", mapping.path))
                    .ok()
            });
        let build_id = fd.as_ref().map(MappedFile::build_id).unwrap_or_default();
        let index = self.new_file(mapping.path.clone(), build_id, fd);
        self.file_index.insert(key, index);
        index
    }

    fn new_file(&mut self, path: String, build_id: Vec<u8>, fd: Option<MappedFile>) -> u32 {
        if fd.is_some() {
            self.open_files += 1;
            if self.open_files > MAX_OPEN_FILES {
                self.close_files();
            }
        }
        let index = self.files.len() as u32;
        self.files.push(File {
            fd: fd.map(Arc::new),
            pending: Vec::new(),
            frames: HashMap::new(),
        });
        self.resolved.files.push(ResolvedFile { path, build_id });
        index
    }

    /// One more frame, or, past the bound, the one that stands for the rest.
    fn new_frame(&mut self, file: Option<u32>, address: u64) -> u32 {
        if let Some(frame) = self.overflow_frame {
            return frame;
        }
        let full = self.resolved.frames.len() >= MAX_FRAMES;
        let frame = self.resolved.frames.len() as u32;
        self.resolved.frames.push(ResolvedFrame {
            file: if full { None } else { file },
            address: if full { 0 } else { address },
            names: Vec::new(),
        });
        if full {
            tracing::warn!(
                "more than {MAX_FRAMES} distinct frames: further ones are not told apart"
            );
            self.overflow_frame = Some(frame);
        }
        frame
    }

    fn add_kernel_stack(&mut self, id: u64, addresses: &[u64]) {
        let file = match &self.kernel {
            Some(kernel) => kernel.index,
            None => self.add_kernel(),
        };
        let frames = addresses
            .iter()
            .enumerate()
            .map(|(depth, address)| {
                let address = address - u64::from(depth > 0 && *address > 0);
                self.kernel_frame(file, address)
            })
            .collect();
        self.resolved.kernel_stacks.insert(id, frames);
    }

    fn add_kernel(&mut self) -> u32 {
        let index = self.new_file("[kernel]".to_owned(), mapped_file::kernel_build_id(), None);
        self.kernel = Some(KernelFile {
            index,
            symbols: KernelSymbols::current(),
        });
        index
    }

    /// Kernel frames are named at once: the table is in memory.
    fn kernel_frame(&mut self, file: u32, address: u64) -> u32 {
        if let Some(frame) = self.files[file as usize].frames.get(&address) {
            return *frame;
        }
        // Relative to the kernel's text, so that it means the same after a
        // reboot, whatever the address space randomisation did.
        let (base, name) = match &self.kernel {
            Some(kernel) => (kernel.symbols.base(), kernel.symbols.name(address)),
            None => (0, None),
        };
        let names = name.map(|function| Name {
            function: function.to_owned(),
            ..Name::default()
        });
        let names: Vec<Name> = names.into_iter().collect();
        let frame = self.new_frame(Some(file), address.wrapping_sub(base));
        if Some(frame) != self.overflow_frame {
            self.resolved.frames[frame as usize].names = names;
        }
        self.files[file as usize].frames.insert(address, frame);
        frame
    }

    /// Has every frame named that waits for it.
    fn submit_pending(&mut self) {
        for file in &mut self.files {
            let Some(fd) = &file.fd else {
                continue;
            };
            if file.pending.is_empty() {
                continue;
            }
            let (offsets, frames) = file.pending.drain(..).unzip();
            self.namer.submit(Batch {
                file: Arc::clone(fd),
                offsets,
                frames,
            });
        }
    }

    /// Lets go of all files. Those that are met again are opened again.
    fn close_files(&mut self) {
        self.submit_pending();
        for file in &mut self.files {
            file.fd = None;
        }
        self.file_index.clear();
        self.open_files = 1;
    }
}
