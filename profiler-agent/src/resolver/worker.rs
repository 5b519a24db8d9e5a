//! What the resolver's thread does.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use crate::namer::Batch;

use super::{Job, Resolved, call_site, frame_table::FrameTable, process_table::ProcessTable};

/// How often new addresses are named, many at a time.
const BATCH: Duration = Duration::from_millis(250);

/// Stacks that may wait until their process can be read again.
const MAX_DEFERRED: usize = 4096;

/// A stack in code that was mapped after its process was read.
struct Deferred {
    process: u32,
    id: u64,
    frames: Arc<[u64]>,
    since: Instant,
    until: Instant,
}

/// The state of the thread.
pub(super) struct Worker {
    processes: ProcessTable,
    frames: FrameTable,
    deferred: VecDeque<Deferred>,
    user_stacks: HashMap<(u32, u64), Box<[u32]>>,
    /// Named at the end: the kernel does not go away, and reading its symbols
    /// would keep this thread from processes that do.
    kernel_stacks: Vec<(u64, Arc<[u64]>)>,
}

impl Worker {
    pub(super) fn new(namer: Sender<Batch>) -> Self {
        Self {
            processes: ProcessTable::default(),
            frames: FrameTable::new(namer),
            deferred: VecDeque::new(),
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
                self.frames.submit_pending();
                next_batch = Instant::now() + BATCH;
            }
        }
        self.finish()
    }

    fn finish(mut self) -> Resolved {
        self.retry(|_| true);
        self.frames.submit_pending();
        let kernel_stacks = self
            .kernel_stacks
            .into_iter()
            .map(|(id, addresses)| (id, self.frames.kernel(&addresses)))
            .collect();
        let (files, frames, warnings) = self.frames.finish();
        Resolved {
            processes: self.processes.into_infos(),
            files,
            frames,
            user_stacks: self.user_stacks,
            kernel_stacks,
            warnings,
        }
    }

    fn handle(&mut self, job: Job) {
        match job {
            Job::Process { index, key, parent } => self.processes.add(index, key, parent),
            Job::UserStack {
                process,
                id,
                frames,
            } => self.add_user_stack(process, id, frames),
            Job::KernelStack { id, frames } => self.kernel_stacks.push((id, frames)),
        }
    }

    fn add_user_stack(&mut self, process: u32, id: u64, frames: Arc<[u64]>) {
        if self.processes.lacks(process, &frames)
            && let Some(until) = self.processes.next_read(process)
        {
            let since = Instant::now();
            if since < until && self.deferred.len() < MAX_DEFERRED {
                self.deferred.push_back(Deferred {
                    process,
                    id,
                    frames,
                    since,
                    until,
                });
                return;
            }
            if since >= until {
                self.processes.read_since(process, since);
            }
        }
        self.resolve(process, id, &frames);
    }

    /// Resolves stacks that waited, once for all.
    fn retry(&mut self, is_due: impl Fn(&Deferred) -> bool) {
        for deferred in mem::take(&mut self.deferred) {
            if !is_due(&deferred) {
                self.deferred.push_back(deferred);
                continue;
            }
            if self.processes.lacks(deferred.process, &deferred.frames) {
                self.processes.read_since(deferred.process, deferred.since);
            }
            self.resolve(deferred.process, deferred.id, &deferred.frames);
        }
    }

    fn resolve(&mut self, process: u32, id: u64, addresses: &[u64]) {
        let Self {
            processes, frames, ..
        } = self;
        let pid = processes.pid(process).unwrap_or(0);
        let resolved = plausible(processes, process, addresses)
            .iter()
            .enumerate()
            .map(|(depth, address)| {
                let address = call_site(depth, *address);
                frames.user(pid, processes.mapping(process, address), address)
            })
            .collect();
        self.user_stacks.insert((process, id), resolved);
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
