//! What the kernel tells of processes as it happens: which code they map, whom
//! they fork, what they execute, when they end. Unlike `/proc` it describes
//! processes that are gone, and carries the clock of the samples.
//!
//! A software event that never fires is opened on each CPU; the kernel writes
//! the records into its ring, which is read every few milliseconds.

mod images;
mod record;
mod ring;

use std::{collections::BTreeMap, io, mem};

pub use self::{
    images::{Image, ImageMapping, Images, ImagesStatus, MappedName},
    record::{SideEvent, SideMapping, SideRecord},
};
use self::{record::Parsed, ring::Ring};
use crate::monotonic::now_ns;

/// How long after its time a record can still be on its way into a ring: the
/// kernel takes about a microsecond, unless the machine itself stands still.
const WRITING_NS: u64 = 200_000;

/// What failed on which CPU.
#[derive(Debug, thiserror::Error)]
#[error("follow the processes of cpu {cpu}: {source}")]
pub struct SidebandError {
    /// The CPU.
    pub cpu: u32,
    /// What the kernel says.
    pub source: io::Error,
}

/// What happened, in the order of time.
#[derive(Debug, Default)]
pub struct Drained {
    /// What is told of the time up to `until_ns` and was not before.
    pub records: Vec<SideRecord>,
    /// CLOCK_MONOTONIC. What happens before is known now.
    pub until_ns: u64,
}

/// How complete the records are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidebandStatus {
    /// Records handed out.
    pub records: u64,
    /// Records that found no room in a ring.
    pub lost: u64,
    /// Records, or rests of rings, that are not as they should be.
    pub malformed: u64,
    /// Locked memory of the rings.
    pub ring_bytes: usize,
}

/// The events of one session.
#[derive(Debug)]
pub struct Sideband {
    rings: BTreeMap<u32, Ring>,
    /// Too new to be handed out: what comes from other CPUs may be older.
    held: Vec<SideRecord>,
    bytes: Vec<u8>,
    status: SidebandStatus,
}

impl Sideband {
    /// Follows the processes on these CPUs.
    ///
    /// # Errors
    /// Fails where one of them cannot be followed.
    pub fn open(cpus: &[u32]) -> Result<Self, SidebandError> {
        let mut sideband = Self {
            rings: BTreeMap::new(),
            held: Vec::new(),
            bytes: Vec::new(),
            status: SidebandStatus::default(),
        };
        cpus.iter().try_for_each(|cpu| sideband.open_on(*cpu))?;
        Ok(sideband)
    }

    fn open_on(&mut self, cpu: u32) -> Result<(), SidebandError> {
        let ring = Ring::open(cpu).map_err(|source| SidebandError { cpu, source })?;
        self.rings.insert(cpu, ring);
        Ok(())
    }

    /// Reads all rings. Records that are newer than the begin of the reading
    /// are kept for the next time, so that the order holds across CPUs.
    pub fn drain(&mut self) -> Drained {
        let until_ns = now_ns().saturating_sub(WRITING_NS);
        self.read_rings();
        let is_due = |record: &SideRecord| record.time_ns < until_ns;
        let (due, held) = mem::take(&mut self.held).into_iter().partition(is_due);
        self.held = held;
        self.hand_out(due, until_ns)
    }

    /// Reads all rings for the last time and keeps nothing back.
    pub fn finish(mut self) -> (Drained, SidebandStatus) {
        let until_ns = now_ns();
        self.read_rings();
        let rest = mem::take(&mut self.held);
        let drained = self.hand_out(rest, until_ns);
        (drained, self.status())
    }

    fn read_rings(&mut self) {
        let mut parsed = Parsed::default();
        for ring in self.rings.values_mut() {
            self.bytes.clear();
            ring.take(&mut self.bytes);
            parsed.add(&self.bytes);
        }
        self.status.malformed += parsed.malformed;
        self.held.append(&mut parsed.records);
    }

    fn hand_out(&mut self, mut records: Vec<SideRecord>, until_ns: u64) -> Drained {
        // Stable: those of one CPU are in order already.
        records.sort_by_key(|record| record.time_ns);
        self.status.records += records.len() as u64;
        for record in &records {
            if let SideEvent::Lost { count } = record.event {
                self.status.lost = self.status.lost.saturating_add(count);
            }
        }
        Drained { records, until_ns }
    }

    /// Follows CPUs that went or came: the kernel takes the event of a CPU that
    /// goes offline and does not give it back. To be called about once a
    /// second. Errors concern CPUs that cannot be followed (again).
    pub fn follow_hotplug(&mut self, online: &[u32]) -> Vec<SidebandError> {
        self.read_rings();
        self.rings
            .retain(|cpu, ring| online.contains(cpu) && ring.is_alive());
        let missing = online.iter().filter(|cpu| !self.rings.contains_key(cpu));
        let missing: Vec<u32> = missing.copied().collect();
        missing
            .into_iter()
            .filter_map(|cpu| self.open_on(cpu).err())
            .collect()
    }

    /// How complete the records are.
    pub fn status(&self) -> SidebandStatus {
        SidebandStatus {
            ring_bytes: self.rings.values().map(Ring::bytes).sum(),
            ..self.status
        }
    }
}

#[cfg(test)]
mod tests;
