//! From chunks to a capture, every index and length checked.

use std::collections::BTreeMap;

use crate::capture::{Capture, DeviceStatistics, ThreadAccount};
use crate::capture_spec::SpecError;
use crate::dictionary::Dictionary;
use crate::event::{Event, UnknownEvent};
use crate::facts::Facts;
use crate::histogram::Histogram;
use crate::ledger::Ledger;
use crate::pb;
use crate::profile::{Profile, Sample};
use crate::wire_tables::WireTables;

/// A chunk that no agent sends: broken, forged, or of an incompatible version.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ModelError {
    /// An index beyond the end of its table.
    #[error("{user} refers to entry {index} of the {table}, which have {len} so far")]
    Index {
        /// What holds the index.
        user: &'static str,
        /// What it points into.
        table: &'static str,
        /// The index.
        index: u32,
        /// How many entries the table has.
        len: usize,
    },
    /// The columns of a batch are not of one length.
    #[error("a batch of {event} samples has {samples} times but {entries} entries in `{column}`")]
    Columns {
        /// Of which event.
        event: Event,
        /// How many times there are.
        samples: usize,
        /// The column that has another length.
        column: &'static str,
        /// Its length.
        entries: usize,
    },
    /// An attribute without a value, or with one of the wrong type.
    #[error("an attribute ({0}) has no value, or one of the wrong type")]
    Attribute(&'static str),
    /// A histogram with more buckets than a number has bits.
    #[error("a histogram has {0} buckets; at most 64 are possible")]
    Buckets(usize),
    /// A parameter that is infinite or not a number.
    #[error("parameter `{name}` is {value}, not a finite number")]
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: f64,
    },
    /// An event that this version does not know, where it cannot be left out.
    #[error(transparent)]
    Event(#[from] UnknownEvent),
    /// Two entries for one event where there can be one.
    #[error("the facts describe event {0} twice")]
    EventTwice(Event),
    /// What was asked for is not valid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Something that can be there once came again.
    #[error("{0} came twice")]
    Twice(&'static str),
    /// Something that must be there did not come.
    #[error("the capture is not complete: {0} did not come")]
    Missing(&'static str),
}

/// Puts a capture together from its chunks, in the order in which they were sent.
///
/// Nothing in a chunk is trusted. What this version does not know is kept where it can be (see
/// the `Unknown` variants); samples of unknown events are left out, counted, and named in a
/// warning.
#[derive(Debug, Default)]
pub struct CaptureAssembler {
    dictionary: Dictionary,
    tables: WireTables,
    profiles: BTreeMap<Event, Vec<Sample>>,
    accounts: Vec<ThreadAccount>,
    devices: Vec<DeviceStatistics>,
    facts: Option<pb::Facts>,
    client_warnings: Vec<String>,
    client_command: Option<pb::CommandResult>,
    ledger: Option<Ledger>,
    unknown_samples: usize,
}

impl CaptureAssembler {
    /// An assembler that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next chunk.
    ///
    /// # Errors
    /// Says what in the chunk is not valid. The assembler must not be used any more after that.
    pub fn push(&mut self, chunk: pb::Chunk) -> Result<(), ModelError> {
        let pb::Chunk {
            dictionary,
            batches,
            accounts,
            devices,
            facts,
            ledger,
        } = chunk;
        if let Some(entries) = dictionary {
            self.tables.extend(&mut self.dictionary, entries)?;
        }
        for batch in batches {
            self.batch(&batch)?;
        }
        for account in accounts {
            self.account(&account)?;
        }
        for device in devices {
            self.device(device)?;
        }
        if let Some(facts) = facts {
            self.facts(facts)?;
        }
        if let Some(ledger) = ledger
            && self.ledger.replace(ledger.into()).is_some()
        {
            return Err(ModelError::Twice("the ledger"));
        }
        Ok(())
    }

    /// The capture.
    ///
    /// # Errors
    /// Fails where facts or ledger did not come, or are not valid.
    pub fn finish(self) -> Result<Capture, ModelError> {
        let mut facts = self.facts.ok_or(ModelError::Missing("the facts"))?;
        let ledger = self.ledger.ok_or(ModelError::Missing("the ledger"))?;
        facts.warnings.extend(self.client_warnings);
        if self.client_command.is_some() {
            facts.command = self.client_command;
        }
        let mut facts = Facts::try_from(facts)?;
        if self.unknown_samples > 0 {
            facts.warnings.push(format!(
                "{} samples of events that this version does not know were left out",
                self.unknown_samples
            ));
        }
        let profiles = self.profiles.into_iter();
        Ok(Capture {
            dictionary: self.dictionary,
            profiles: profiles
                .map(|(event, samples)| Profile { event, samples })
                .collect(),
            accounts: self.accounts,
            devices: self.devices,
            facts,
            ledger,
        })
    }

    fn batch(&mut self, batch: &pb::SampleBatch) -> Result<(), ModelError> {
        let Ok(event) = Event::from_wire(batch.event) else {
            self.unknown_samples = self
                .unknown_samples
                .saturating_add(batch.time_delta_ns.len());
            return Ok(());
        };
        check_columns(event, batch)?;
        let samples = self.profiles.entry(event).or_default();
        samples.reserve(batch.time_delta_ns.len());
        let mut time_ns = 0_u64;
        let columns = batch
            .time_delta_ns
            .iter()
            .zip(&batch.thread)
            .zip(&batch.stack)
            .zip(&batch.attributes)
            .zip(&batch.weight)
            .zip(&batch.count);
        for (((((delta, thread), stack), attributes), weight), count) in columns {
            time_ns = time_ns.wrapping_add_signed(*delta);
            samples.push(Sample {
                time_ns,
                thread: self.tables.thread("a sample", *thread)?,
                stack: self.tables.stack("a sample", *stack)?,
                attributes: self.tables.attributes("a sample", *attributes)?,
                weight: *weight,
                count: *count,
            });
        }
        Ok(())
    }

    fn account(&mut self, account: &pb::ThreadAccount) -> Result<(), ModelError> {
        self.accounts.push(ThreadAccount {
            thread: self.tables.thread("a thread's account", account.thread)?,
            on_cpu_ns: account.on_cpu_ns,
            runnable_ns: account.runnable_ns,
            blocked_ns: account.blocked_ns,
            blocked_count: account.blocked_count,
            runnable_count: account.runnable_count,
            wall_ns: account.wall_ns,
            unfinished_ns: account.unfinished_ns,
        });
        Ok(())
    }

    fn device(&mut self, device: pb::DeviceStatistics) -> Result<(), ModelError> {
        let user = "a device's statistics";
        self.devices.push(DeviceStatistics {
            host: self.tables.string(user, device.host)?,
            device: self.tables.string(user, device.device)?,
            operation: self.tables.string(user, device.operation)?,
            count: device.count,
            bytes: device.bytes,
            queue_ns: device.queue_ns,
            device_ns: device.device_ns,
            errors: device.errors,
            queue_histogram: histogram(device.queue_histogram)?,
            device_histogram: histogram(device.device_histogram)?,
        });
        Ok(())
    }

    /// Facts with nothing but warnings and a command are the client's, and are added.
    fn facts(&mut self, mut facts: pb::Facts) -> Result<(), ModelError> {
        let warnings = std::mem::take(&mut facts.warnings);
        let command = facts.command.take();
        if facts == pb::Facts::default() {
            self.client_warnings.extend(warnings);
            return set_once(&mut self.client_command, command, "the command");
        }
        facts.warnings = warnings;
        facts.command = command;
        set_once(&mut self.facts, Some(facts), "the facts")
    }
}

fn set_once<T>(
    slot: &mut Option<T>,
    value: Option<T>,
    name: &'static str,
) -> Result<(), ModelError> {
    if slot.is_some() && value.is_some() {
        return Err(ModelError::Twice(name));
    }
    *slot = slot.take().or(value);
    Ok(())
}

fn check_columns(event: Event, batch: &pb::SampleBatch) -> Result<(), ModelError> {
    let samples = batch.time_delta_ns.len();
    let columns = [
        ("thread", batch.thread.len()),
        ("stack", batch.stack.len()),
        ("attributes", batch.attributes.len()),
        ("weight", batch.weight.len()),
        ("count", batch.count.len()),
    ];
    for (column, entries) in columns {
        if entries != samples {
            return Err(ModelError::Columns {
                event,
                samples,
                column,
                entries,
            });
        }
    }
    Ok(())
}

fn histogram(buckets: Vec<u64>) -> Result<Histogram, ModelError> {
    if buckets.len() > Histogram::MAX_BUCKETS {
        return Err(ModelError::Buckets(buckets.len()));
    }
    Ok(Histogram { buckets })
}
