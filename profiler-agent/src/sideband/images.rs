//! Which code processes had mapped at which time, from the side-band records
//! alone, also of processes that are gone.
//!
//! A process has one *image* after the other: it inherits its parent's when it
//! is forked, and begins an empty one when it executes a program. Of a process
//! that is older than the session only what changes is known.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::record::{SideEvent, SideMapping, SideRecord};
use crate::processes::FileId;

mod mappings;

pub use self::mappings::ImageMapping;
use self::mappings::Mappings;

/// How long the images of a process that has ended, and those it has left, are kept.
const KEPT_NS: u64 = 10_000_000_000;

/// Most processes. One that lived 2 ms counts for 10 s.
const MAX_PROCESSES: usize = 32_768;

/// Most images of one process.
const MAX_IMAGES: usize = 16;

/// Most bytes of mappings.
const MAX_BYTES: usize = 16 << 20;

/// Most files that are remembered to be shared.
const MAX_NAMES: usize = 8192;

/// A file as the kernel and the process name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MappedName {
    /// Inode 0: no file.
    pub file: FileId,
    /// As the process sees it, `[vdso]` and the like, or `//anon`.
    pub path: String,
}

/// What a process runs from one `fork` or `exec` to the next.
#[derive(Clone, Debug)]
pub struct Image {
    /// Command name of the process.
    pub comm: Arc<str>,
    /// CLOCK_MONOTONIC of its begin.
    pub since_ns: u64,
    /// Different whenever the mappings are.
    pub generation: u64,
    /// The process older than the session whose mappings, unknown here, are its
    /// own too; `None`: all are known, but for losses.
    pub builds_on: Option<u32>,
    /// First file that was mapped after `exec`: the program.
    pub program: Option<Arc<MappedName>>,
    /// Whether records were lost or mappings left out.
    pub has_gaps: bool,
    mappings: Arc<Mappings>,
}

impl Image {
    /// Whether all of its mappings are known.
    pub fn is_complete(&self) -> bool {
        self.builds_on.is_none() && !self.has_gaps
    }

    /// What is mapped now, sorted by address.
    pub fn mappings(&self) -> &[ImageMapping] {
        self.mappings.current()
    }

    /// The mapping that held an address at a time.
    pub fn mapping_at(&self, address: u64, time_ns: u64) -> Option<&ImageMapping> {
        self.mappings.at(address, time_ns)
    }
}

#[derive(Debug, Default)]
struct Process {
    /// Oldest first.
    images: VecDeque<Image>,
    ended_ns: Option<u64>,
}

/// What is kept, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImagesStatus {
    /// Processes, those that ended less than 10 s ago included.
    pub processes: usize,
    /// Bytes of their mappings.
    pub bytes: usize,
    /// Mappings and processes that were left out because there were too many.
    pub left_out: u64,
}

/// The processes of a session.
#[derive(Debug, Default)]
pub struct Images {
    processes: HashMap<u32, Process>,
    /// When processes ended, oldest first.
    ended: VecDeque<(u64, u32)>,
    names: HashSet<Arc<MappedName>>,
    /// Bytes of all mappings.
    bytes: mappings::Counter,
    generation: u64,
    left_out: u64,
}

impl Images {
    /// Takes in one record. They come in the order of time.
    pub fn apply(&mut self, record: SideRecord) {
        let SideRecord {
            time_ns,
            pid,
            event,
        } = record;
        match event {
            SideEvent::Mmap(mapping) => self.map(pid, time_ns, mapping),
            SideEvent::Fork { parent } => self.fork(pid, time_ns, parent),
            SideEvent::Exec { comm } => self.exec(pid, time_ns, comm),
            SideEvent::Comm { comm } => self.rename(pid, &comm),
            SideEvent::Exit => self.end(pid, time_ns),
            SideEvent::Lost { .. } => self.have_gaps(),
        }
        self.forget_before(time_ns.saturating_sub(KEPT_NS));
    }

    /// What a process ran at a time; `None`: nothing is known of it.
    pub fn image_at(&self, pid: u32, time_ns: u64) -> Option<&Image> {
        let images = &self.processes.get(&pid)?.images;
        let after = images.partition_point(|image| image.since_ns <= time_ns);
        images.get(after.checked_sub(1)?)
    }

    /// What is kept.
    pub fn status(&self) -> ImagesStatus {
        ImagesStatus {
            processes: self.processes.len(),
            bytes: self.bytes.get(),
            left_out: self.left_out,
        }
    }

    /// The image a process has, or one of which only changes will be known;
    /// `None`: there are too many.
    fn current(&mut self, pid: u32) -> Option<&mut Image> {
        if !self.processes.contains_key(&pid) {
            // It is older than the session, however late it is first told of.
            let image = self.unknown(pid, 0);
            self.begin(pid, image);
        }
        let process = self.processes.get_mut(&pid)?;
        // The first thread may end before the others.
        process.ended_ns = None;
        process.images.back_mut()
    }

    /// Of which nothing is known but that it is this process's.
    fn unknown(&mut self, pid: u32, since_ns: u64) -> Image {
        Image {
            comm: "".into(),
            since_ns,
            generation: self.next_generation(),
            builds_on: Some(pid),
            program: None,
            has_gaps: false,
            mappings: Arc::new(Mappings::new(&self.bytes)),
        }
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn begin(&mut self, pid: u32, image: Image) {
        let is_new = !self.processes.contains_key(&pid);
        if is_new && self.processes.len() >= MAX_PROCESSES && !self.forget_one() {
            self.left_out += 1;
            return;
        }
        let process = self.processes.entry(pid).or_default();
        process.ended_ns = None;
        let kept_ns = image.since_ns.saturating_sub(KEPT_NS);
        process.images.push_back(image);
        while process.images.len() > MAX_IMAGES
            || process
                .images
                .get(1)
                .is_some_and(|next| next.since_ns < kept_ns)
        {
            process.images.pop_front();
        }
    }

    fn fork(&mut self, pid: u32, time_ns: u64, parent: u32) {
        let image = match self.image_at(parent, time_ns) {
            Some(inherited) => Image {
                since_ns: time_ns,
                ..inherited.clone()
            },
            None => Image {
                builds_on: Some(parent),
                ..self.unknown(pid, time_ns)
            },
        };
        self.begin(pid, image);
    }

    fn exec(&mut self, pid: u32, time_ns: u64, comm: String) {
        let image = Image {
            comm: comm.into(),
            builds_on: None,
            ..self.unknown(pid, time_ns)
        };
        self.begin(pid, image);
    }

    fn rename(&mut self, pid: u32, comm: &str) {
        if let Some(image) = self.current(pid) {
            image.comm = comm.into();
        }
    }

    fn map(&mut self, pid: u32, time_ns: u64, mapping: SideMapping) {
        let has_room = self.bytes.get() < MAX_BYTES || self.forget_one();
        let generation = self.next_generation();
        let name = self.share(mapping.file, mapping.path);
        let Some(image) = self.current(pid) else {
            return;
        };
        if image.builds_on.is_none() && image.program.is_none() {
            image.program = Some(Arc::clone(&name));
        }
        let mapping = ImageMapping {
            start: mapping.start,
            end: mapping.end,
            offset: mapping.offset,
            since_ns: time_ns,
            name,
        };
        if image.mappings.has(&mapping) {
            return;
        }
        image.generation = generation;
        if !has_room || !Arc::make_mut(&mut image.mappings).insert(mapping) {
            image.has_gaps = true;
            self.left_out += 1;
        }
    }

    fn share(&mut self, file: FileId, path: String) -> Arc<MappedName> {
        let name = MappedName { file, path };
        if let Some(known) = self.names.get(&name) {
            return Arc::clone(known);
        }
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        let name = Arc::new(name);
        self.names.insert(Arc::clone(&name));
        name
    }

    fn end(&mut self, pid: u32, time_ns: u64) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.ended_ns = Some(time_ns);
            self.ended.push_back((time_ns, pid));
        }
    }

    /// Whose records were lost is not known.
    fn have_gaps(&mut self) {
        for process in self.processes.values_mut() {
            if let Some(image) = process.images.back_mut() {
                image.has_gaps = true;
            }
        }
    }

    fn forget_before(&mut self, time_ns: u64) {
        while self.ended.front().is_some_and(|ended| ended.0 < time_ns) {
            self.forget_one();
        }
    }

    /// Forgets the process that ended first; false: none has.
    fn forget_one(&mut self) -> bool {
        while let Some((ended_ns, pid)) = self.ended.pop_front() {
            // Else the process id is another's by now.
            if let Some(process) = self.processes.get(&pid)
                && process.ended_ns == Some(ended_ns)
            {
                self.processes.remove(&pid);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests;
