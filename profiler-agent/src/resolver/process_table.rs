//! The processes of a session, and their mappings as far as they are kept.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    processes::{Mapping, Paths, ProcessError, ProcessInfo, ProcessKey},
    sideband::{Drained, Image, Images},
};

use super::{USER_END, address_space, call_site};

/// Least time between two readings of one process's mappings.
const REREAD: Duration = Duration::from_millis(200);

/// A process is read again at most for this part of the time: of 65,000
/// mappings, which take 100 ms, once in 5 s.
const REREAD_SHARE: u32 = 50;

/// Bytes of mappings kept, of a host's processes 3 KiB each. Past that those
/// read longest ago are dropped, and read again when their process is met again.
const MAX_MAPPING_BYTES: usize = 16 << 20;

/// No program has code below: the first page is never mapped.
const USER_START: u64 = 4096;

struct Process {
    key: ProcessKey,
    /// A time at which it was this process: CLOCK_MONOTONIC of its first sample.
    seen_ns: u64,
    read_at: Instant,
    /// Not to be read again before.
    next_read: Instant,
    /// [`Image::generation`] of the image that its mappings are of; 0: of none.
    generation: u64,
}

/// All processes, by index.
#[derive(Default)]
pub(super) struct ProcessTable {
    processes: Vec<Process>,
    infos: Vec<Option<ProcessInfo>>,
    /// Process id -> the last process seen under it.
    by_pid: HashMap<u32, u32>,
    /// Processes that have mappings, those read longest ago first.
    mapped: VecDeque<u32>,
    mapping_bytes: usize,
    paths: Paths,
    images: Images,
    /// Up to when the images are known, CLOCK_MONOTONIC.
    known_until_ns: u64,
}

impl ProcessTable {
    /// An empty one. Without a side band nothing is waited for.
    pub(super) fn new(has_sideband: bool) -> Self {
        Self {
            known_until_ns: if has_sideband { 0 } else { u64::MAX },
            ..Self::default()
        }
    }

    /// Reads a process that was seen for the first time.
    pub(super) fn add(&mut self, index: u32, key: ProcessKey, parent: u32, seen_ns: u64) {
        debug_assert_eq!(index as usize, self.processes.len());
        let started = Instant::now();
        let image = self.images.image_at(key.pid, seen_ns).cloned();
        let info = match self.read(&key, image.as_ref()) {
            Ok(mut info) => {
                // What has been mapped since, and everything where the process
                // has given up its memory: then `/proc` shows nothing of it.
                if let Some(image) = &image {
                    info.mappings =
                        address_space::with_image(&info.mappings, image, &mut self.paths);
                    if let Some(program) = &image.program
                        && info.executable.is_empty()
                    {
                        info.executable.clone_from(&program.path);
                    }
                }
                Some(info)
            }
            Err(error) => {
                tracing::debug!("{error}");
                match &image {
                    Some(image) => Some(self.info_of_image(image)),
                    None => self.inherited(&key, parent),
                }
            }
        };
        self.by_pid.insert(key.pid, index);
        self.infos.push(None);
        let now = Instant::now();
        self.processes.push(Process {
            key,
            seen_ns,
            read_at: now,
            next_read: now + pause(now - started),
            generation: image.map_or(0, |image| image.generation),
        });
        if let Some(info) = info {
            self.keep(index, info);
        }
    }

    /// What `/proc` shows, where it still shows this image of the process.
    fn read(
        &mut self,
        key: &ProcessKey,
        image: Option<&Image>,
    ) -> Result<ProcessInfo, ProcessError> {
        let latest = self.images.image_at(key.pid, u64::MAX);
        if latest.map(|image| image.since_ns) != image.map(|image| image.since_ns) {
            return Err(ProcessError::Gone(key.pid));
        }
        ProcessInfo::read(key, &mut self.paths)
    }

    /// What the side band knows of a process that is gone.
    fn info_of_image(&mut self, image: &Image) -> ProcessInfo {
        let base = image.builds_on.map_or_else(ProcessInfo::default, |pid| {
            let known = self.by_pid.get(&pid).and_then(|index| self.info(*index));
            known.cloned().unwrap_or_else(|| {
                let read = ProcessInfo::read_mappings(pid, &mut self.paths);
                let (mappings, complete) = read.unwrap_or_default();
                ProcessInfo {
                    mappings,
                    complete,
                    ..ProcessInfo::default()
                }
            })
        });
        let comm = match &*image.comm {
            "" => base.comm.clone(),
            comm => comm.to_owned(),
        };
        let executable = match &image.program {
            Some(program) => program.path.clone(),
            None => base.executable.clone(),
        };
        ProcessInfo {
            comm,
            executable,
            complete: !image.has_gaps && (image.builds_on.is_none() || base.complete),
            mappings: address_space::with_image(&base.mappings, image, &mut self.paths),
            ..base
        }
    }

    /// A process that was gone before it could be read has its parent's image,
    /// unless one of the two has called exec since the fork.
    fn inherited(&self, key: &ProcessKey, parent: u32) -> Option<ProcessInfo> {
        let index = *self.by_pid.get(&parent)?;
        let same_image = self.processes[index as usize].key.exec_id == key.exec_id;
        same_image.then(|| self.info(index).cloned())?
    }

    /// Takes in what the kernel has told. Returns the processes whose mappings
    /// have changed.
    pub(super) fn follow(&mut self, told: Drained) -> Vec<u32> {
        let mut pids: Vec<u32> = told.records.iter().map(|record| record.pid).collect();
        for record in told.records {
            self.images.apply(record);
        }
        self.known_until_ns = told.until_ns;
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| self.by_pid.contains_key(pid));
        let mut changed: Vec<u32> = pids.iter().map(|pid| self.by_pid[pid]).collect();
        changed.retain(|index| self.follow_image(*index));
        changed
    }

    /// Whether all that happened up to a time is known.
    pub(super) fn knows(&self, time_ns: u64) -> bool {
        time_ns <= self.known_until_ns
    }

    /// Adds to a process's mappings what its image has beside them. Returns
    /// whether there was something.
    fn follow_image(&mut self, index: u32) -> bool {
        let process = &self.processes[index as usize];
        let (pid, seen_ns, generation) = (process.key.pid, process.seen_ns, process.generation);
        let Some(image) = self.images.image_at(pid, seen_ns).cloned() else {
            return false;
        };
        if image.generation == generation {
            return false;
        }
        let info = match self.info(index) {
            // Dropped: what is new would stand alone.
            Some(known) if known.mappings.is_empty() && !known.complete => return false,
            Some(known) => {
                let mut info = known.clone();
                info.mappings = address_space::with_image(&info.mappings, &image, &mut self.paths);
                info
            }
            None => self.info_of_image(&image),
        };
        self.processes[index as usize].generation = image.generation;
        self.keep(index, info);
        true
    }

    /// What is known of a process.
    pub(super) fn info(&self, index: u32) -> Option<&ProcessInfo> {
        self.infos.get(index as usize)?.as_ref()
    }

    /// Who it is.
    pub(super) fn key(&self, index: u32) -> Option<ProcessKey> {
        Some(self.processes.get(index as usize)?.key)
    }

    /// Process id.
    pub(super) fn pid(&self, index: u32) -> Option<u32> {
        Some(self.processes.get(index as usize)?.key.pid)
    }

    /// Executable mappings of a process, sorted by address.
    pub(super) fn mappings(&self, index: u32) -> &[Mapping] {
        self.info(index).map_or(&[], |info| &info.mappings)
    }

    /// Whether it is what runs now under its process id.
    pub(super) fn is_latest(&self, index: u32) -> bool {
        self.pid(index)
            .is_some_and(|pid| self.by_pid.get(&pid) == Some(&index))
    }

    /// The mapping that holds an address of a process.
    pub(super) fn mapping(&self, index: u32, address: u64) -> Option<&Mapping> {
        self.info(index)?.mapping(address)
    }

    /// Whether there may be code at an address of a process.
    pub(super) fn may_be_code(&self, index: u32, address: u64) -> bool {
        match self.info(index) {
            Some(info) if info.complete => info.mapping(address).is_some(),
            _ => (USER_START..USER_END).contains(&address),
        }
    }

    /// Whether a stack leads where no mapping is known but one could be: a
    /// library was loaded since.
    pub(super) fn lacks(&self, index: u32, addresses: &[u64]) -> bool {
        self.info(index).is_some_and(|info| {
            call_sites(addresses)
                .find(|address| info.mapping(*address).is_none())
                .is_some_and(|address| (USER_START..USER_END).contains(&address))
        })
    }

    /// When a process may be read again.
    pub(super) fn next_read(&self, index: u32) -> Option<Instant> {
        Some(self.processes.get(index as usize)?.next_read)
    }

    /// Reads a process again, unless it has been since `time`.
    pub(super) fn read_since(&mut self, index: u32, time: Instant) {
        let Some(process) = self.processes.get(index as usize) else {
            return;
        };
        let key = process.key;
        // After exec the pid shows the image of the next generation.
        if process.read_at >= time || self.by_pid.get(&key.pid) != Some(&index) {
            return;
        }
        let started = Instant::now();
        let read = ProcessInfo::read(&key, &mut self.paths);
        let process = &mut self.processes[index as usize];
        process.read_at = Instant::now();
        process.next_read = process.read_at + pause(started.elapsed());
        self.take_in(index, read);
    }

    /// What was read of a known process is only believed while it runs the same
    /// program: exec keeps its pid and start.
    fn take_in(&mut self, index: u32, read: Result<ProcessInfo, ProcessError>) {
        let same_program = |fresh: &ProcessInfo| {
            self.info(index)
                .is_none_or(|known| program(known) == program(fresh))
        };
        match read {
            Ok(fresh) if same_program(&fresh) => self.keep(index, fresh),
            Ok(_) => tracing::debug!("process {index} runs another program by now"),
            Err(error) => tracing::debug!("{error}"),
        }
    }

    fn keep(&mut self, index: u32, info: ProcessInfo) {
        self.drop_mappings(index);
        self.mapping_bytes += info.mapping_bytes();
        self.infos[index as usize] = Some(info);
        self.mapped.push_back(index);
        while self.mapping_bytes > MAX_MAPPING_BYTES
            && let Some(oldest) = self.mapped.front().copied()
        {
            self.drop_mappings(oldest);
        }
    }

    fn drop_mappings(&mut self, index: u32) {
        let Some(at) = self.mapped.iter().position(|mapped| *mapped == index) else {
            return;
        };
        self.mapped.remove(at);
        if let Some(info) = &mut self.infos[index as usize] {
            self.mapping_bytes -= info.mapping_bytes();
            info.mappings = Vec::new();
            info.complete = false;
        }
    }

    /// By index; `None`: it was gone before it could be read.
    pub(super) fn into_infos(self) -> Vec<Option<ProcessInfo>> {
        self.infos
    }
}

/// How long to leave a process alone whose reading took so long.
fn pause(took: Duration) -> Duration {
    REREAD.max(took * REREAD_SHARE)
}

/// Executable, also where it has been replaced on disk meanwhile.
fn program(info: &ProcessInfo) -> &str {
    info.executable.trim_end_matches(" (deleted)")
}

fn call_sites(addresses: &[u64]) -> impl Iterator<Item = u64> {
    addresses
        .iter()
        .enumerate()
        .map(|(depth, address)| call_site(depth, *address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::tests::own_key;

    fn table() -> ProcessTable {
        let mut table = ProcessTable::default();
        table.add(0, own_key(), 0, 1);
        table
    }

    #[test]
    fn knows_where_code_is() {
        let table = table();
        let code = knows_where_code_is as *const () as u64;
        assert!(table.may_be_code(0, code));
        assert!(!table.may_be_code(0, USER_START));
        assert!(!table.lacks(0, &[code, code + 1]));
        assert!(table.lacks(0, &[code, USER_START + 1]));
        assert!(!table.lacks(0, &[code, 7, USER_START + 1]), "ends at 7");
        assert!(!table.lacks(1, &[USER_START]), "no such process");
    }

    #[test]
    fn is_read_again_once() {
        let mut table = table();
        let first = table.processes[0].read_at;
        table.read_since(0, first);
        assert_eq!(table.processes[0].read_at, first);
        let now = Instant::now();
        table.read_since(0, now);
        assert!(table.processes[0].read_at > first);
        assert!(table.next_read(0).unwrap() >= now + REREAD);
        assert_eq!(table.mapped.len(), 1);
        let bytes = table.info(0).unwrap().mapping_bytes();
        assert_eq!(table.mapping_bytes, bytes);
    }

    #[test]
    fn an_earlier_generation_is_not_read_again() {
        let mut table = table();
        table.add(
            1,
            ProcessKey {
                exec_id: 2,
                ..own_key()
            },
            0,
            1,
        );
        let first = table.processes[0].read_at;
        table.read_since(0, Instant::now());
        assert_eq!(table.processes[0].read_at, first);
    }

    #[test]
    fn another_program_is_not_believed() {
        let mut table = table();
        let mappings = table.info(0).unwrap().mappings.len();
        let other = ProcessInfo {
            executable: "/bin/other".to_owned(),
            ..ProcessInfo::default()
        };
        table.take_in(0, Ok(other));
        assert_eq!(table.info(0).unwrap().mappings.len(), mappings);
    }

    #[test]
    fn dropped_mappings_leave_everything_possible() {
        let mut table = table();
        table.drop_mappings(0);
        assert_eq!(table.mapping_bytes, 0);
        assert!(table.may_be_code(0, USER_START));
        assert!(!table.may_be_code(0, 7));
        assert!(!table.may_be_code(0, USER_END));
    }

    #[test]
    fn what_is_costly_is_read_rarely() {
        assert_eq!(pause(Duration::from_millis(1)), REREAD);
        assert_eq!(pause(Duration::from_millis(100)), Duration::from_secs(5));
    }
}
