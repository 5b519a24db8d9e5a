//! From a capture to chunks of about 1 MiB.

use crate::capture::{Capture, DeviceStatistics, ThreadAccount};
use crate::dictionary::Dictionary;
use crate::facts::CommandResult;
use crate::pb;
use crate::profile::{
    Attribute, AttributesId, Frame, FrameId, Mapping, MappingId, Process, ProcessId, Sample, Stack,
    StackId, StrId, Thread, ThreadId,
};

/// Size at which a chunk is closed, before compression: small beside the 4 MiB that gRPC accepts
/// by default, large enough to compress well.
const TARGET_BYTES: usize = 1 << 20;
/// About what a sample takes in six columns of variable-length numbers.
const SAMPLE_BYTES: usize = 20;
/// About what a thread's account takes.
const ACCOUNT_BYTES: usize = 40;
/// About what the numbers of a dictionary entry take beside its strings.
const ENTRY_BYTES: usize = 16;

/// Splits a capture into chunks of about 1 MiB. Each holds the dictionary entries that it is the
/// first to use; facts and ledger are in the last.
pub fn chunks(capture: &Capture) -> impl Iterator<Item = pb::Chunk> {
    Chunks {
        capture,
        writer: DictionaryWriter::new(&capture.dictionary),
        profile: 0,
        sample: 0,
        account: 0,
        device: 0,
        finished: false,
    }
}

/// What a client alone knows, as a chunk to be appended to those of the agent.
pub fn client_chunk(warnings: Vec<String>, command: Option<&CommandResult>) -> pb::Chunk {
    pb::Chunk {
        facts: Some(pb::Facts {
            warnings,
            command: command.map(Into::into),
            ..pb::Facts::default()
        }),
        ..pb::Chunk::default()
    }
}

struct Chunks<'a> {
    capture: &'a Capture,
    writer: DictionaryWriter<'a>,
    profile: usize,
    sample: usize,
    account: usize,
    device: usize,
    finished: bool,
}

impl Iterator for Chunks<'_> {
    type Item = pb::Chunk;

    fn next(&mut self) -> Option<pb::Chunk> {
        if self.finished {
            return None;
        }
        let mut chunk = pb::Chunk::default();
        let complete = self.fill(&mut chunk);
        if complete {
            chunk.facts = Some((&self.capture.facts).into());
            chunk.ledger = Some((&self.capture.ledger).into());
            self.finished = true;
        }
        chunk.dictionary = self.writer.take();
        Some(chunk)
    }
}

impl Chunks<'_> {
    /// Adds what fits; true when nothing is left.
    fn fill(&mut self, chunk: &mut pb::Chunk) -> bool {
        let capture = self.capture;
        while let Some(profile) = capture.profiles.get(self.profile) {
            if self.writer.bytes >= TARGET_BYTES {
                return false;
            }
            let mut batch = pb::SampleBatch {
                event: profile.event.to_wire(),
                ..pb::SampleBatch::default()
            };
            self.sample += self.batch(&mut batch, &profile.samples[self.sample..]);
            chunk.batches.push(batch);
            if self.sample == profile.samples.len() {
                self.profile += 1;
                self.sample = 0;
            }
        }
        while let Some(account) = capture.accounts.get(self.account) {
            if self.writer.bytes >= TARGET_BYTES {
                return false;
            }
            chunk.accounts.push(self.writer.account(account));
            self.account += 1;
        }
        while let Some(device) = capture.devices.get(self.device) {
            if self.writer.bytes >= TARGET_BYTES {
                return false;
            }
            chunk.devices.push(self.writer.device(device));
            self.device += 1;
        }
        true
    }

    /// Adds samples until the chunk is full; returns how many.
    fn batch(&mut self, batch: &mut pb::SampleBatch, samples: &[Sample]) -> usize {
        let mut before_ns = 0;
        let mut taken = 0;
        for sample in samples {
            if self.writer.bytes >= TARGET_BYTES {
                break;
            }
            let delta = sample.time_ns.wrapping_sub(before_ns).cast_signed();
            before_ns = sample.time_ns;
            batch.time_delta_ns.push(delta);
            batch.thread.push(self.writer.thread(sample.thread));
            batch.stack.push(self.writer.stack(sample.stack));
            batch
                .attributes
                .push(self.writer.attributes(sample.attributes));
            batch.weight.push(sample.weight);
            batch.count.push(sample.count);
            self.writer.bytes += SAMPLE_BYTES;
            taken += 1;
        }
        taken
    }
}

/// Which index each id of one table has on the wire.
struct WireIds {
    /// By id; 0 where the entry has not been sent.
    indices: Vec<u32>,
    sent: u32,
}

impl WireIds {
    fn new(entries: usize) -> Self {
        Self {
            indices: vec![0; entries + 1],
            sent: 0,
        }
    }

    fn get(&self, id: usize) -> Option<u32> {
        self.indices.get(id).copied().filter(|&index| index != 0)
    }

    fn assign(&mut self, id: usize) -> u32 {
        self.sent += 1;
        self.indices[id] = self.sent;
        self.sent
    }
}

/// Sends each entry of a dictionary with its first use.
struct DictionaryWriter<'a> {
    dictionary: &'a Dictionary,
    strings: WireIds,
    mappings: WireIds,
    frames: WireIds,
    stacks: WireIds,
    attribute_sets: WireIds,
    processes: WireIds,
    threads: WireIds,
    pending: pb::Dictionary,
    /// About how large the current chunk is.
    bytes: usize,
}

/// An id's index on the wire: the one it has, none where the id is none or foreign to the
/// dictionary, or else a new one for an entry that is then added to the chunk.
macro_rules! send {
    ($self:ident, $table:ident, $ids:ident, $id:ident, |$entry:ident| $message:expr) => {{
        if let Some(index) = $self.$ids.get($id.index()) {
            return index;
        }
        let Some($entry) = $self.dictionary.$table.get($id.raw()) else {
            return 0;
        };
        let message = $message;
        $self.bytes += ENTRY_BYTES;
        $self.pending.$ids.push(message);
        $self.$ids.assign($id.index())
    }};
}

impl<'a> DictionaryWriter<'a> {
    fn new(dictionary: &'a Dictionary) -> Self {
        Self {
            dictionary,
            strings: WireIds::new(dictionary.strings.len()),
            mappings: WireIds::new(dictionary.mappings.len()),
            frames: WireIds::new(dictionary.frames.len()),
            stacks: WireIds::new(dictionary.stacks.len()),
            attribute_sets: WireIds::new(dictionary.attributes.len()),
            processes: WireIds::new(dictionary.processes.len()),
            threads: WireIds::new(dictionary.threads.len()),
            pending: pb::Dictionary::default(),
            bytes: 0,
        }
    }

    /// The entries of the current chunk, if any; the next chunk begins.
    fn take(&mut self) -> Option<pb::Dictionary> {
        self.bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        (pending != pb::Dictionary::default()).then_some(pending)
    }

    fn string(&mut self, id: StrId) -> u32 {
        send!(self, strings, strings, id, |text| {
            self.bytes += text.len();
            text.to_string()
        })
    }

    fn mapping(&mut self, id: MappingId) -> u32 {
        send!(self, mappings, mappings, id, |mapping| {
            let Mapping { path, build_id } = mapping;
            self.bytes += build_id.len();
            pb::Mapping {
                path: self.string(*path),
                build_id: build_id.clone(),
            }
        })
    }

    fn frame(&mut self, id: FrameId) -> u32 {
        send!(self, frames, frames, id, |frame| {
            let Frame {
                kind,
                mapping,
                address,
                lines,
            } = frame;
            self.bytes += lines.len() * ENTRY_BYTES;
            pb::Frame {
                kind: kind.to_wire(),
                mapping: self.mapping(*mapping),
                address: *address,
                lines: lines
                    .iter()
                    .map(|line| pb::Line {
                        function: self.string(line.function),
                        file: self.string(line.file),
                        line: line.line,
                    })
                    .collect(),
            }
        })
    }

    fn stack(&mut self, id: StackId) -> u32 {
        send!(self, stacks, stacks, id, |stack| {
            let Stack {
                user,
                user_end,
                kernel,
                kernel_end,
            } = stack;
            self.bytes += (user.len() + kernel.len()) * 3;
            pb::Stack {
                user_frames: user.iter().map(|&frame| self.frame(frame)).collect(),
                user_end: user_end.to_wire(),
                kernel_frames: kernel.iter().map(|&frame| self.frame(frame)).collect(),
                kernel_end: kernel_end.to_wire(),
            }
        })
    }

    fn attributes(&mut self, id: AttributesId) -> u32 {
        send!(self, attributes, attribute_sets, id, |set| {
            let attributes = set.as_slice().iter();
            pb::AttributeSet {
                attributes: attributes.map(|one| self.attribute(*one)).collect(),
            }
        })
    }

    fn attribute(&mut self, attribute: Attribute) -> pb::Attribute {
        use pb::attribute::Value;
        self.bytes += ENTRY_BYTES;
        let mut string = |id| Value::String(self.string(id));
        let (key, value) = match attribute {
            Attribute::WaitClass(id) => (pb::AttributeKey::WaitClass, string(id)),
            Attribute::WaitExtent(id) => (pb::AttributeKey::WaitExtent, string(id)),
            Attribute::Device(id) => (pb::AttributeKey::Device, string(id)),
            Attribute::Operation(id) => (pb::AttributeKey::Operation, string(id)),
            Attribute::IoBytes(number) => (pb::AttributeKey::IoBytes, Value::Number(number)),
            Attribute::QueueNs(number) => (pb::AttributeKey::QueueNs, Value::Number(number)),
        };
        pb::Attribute {
            key: key as i32,
            value: Some(value),
        }
    }

    fn process(&mut self, id: ProcessId) -> u32 {
        send!(self, processes, processes, id, |process| {
            let Process {
                pid,
                start_ns,
                exec_generation,
                comm,
                executable,
                cgroup,
                container,
                host,
            } = process;
            pb::Process {
                pid: *pid,
                start_ns: *start_ns,
                exec_generation: *exec_generation,
                comm: self.string(*comm),
                executable: self.string(*executable),
                cgroup: self.string(*cgroup),
                container: self.string(*container),
                host: self.string(*host),
            }
        })
    }

    fn thread(&mut self, id: ThreadId) -> u32 {
        send!(self, threads, threads, id, |thread| {
            let Thread {
                process,
                tid,
                start_ns,
                comm,
            } = thread;
            pb::Thread {
                process: self.process(*process),
                tid: *tid,
                start_ns: *start_ns,
                comm: self.string(*comm),
            }
        })
    }

    fn account(&mut self, account: &ThreadAccount) -> pb::ThreadAccount {
        let ThreadAccount {
            thread,
            on_cpu_ns,
            runnable_ns,
            blocked_ns,
            blocked_count,
            runnable_count,
            wall_ns,
            unfinished_ns,
        } = *account;
        self.bytes += ACCOUNT_BYTES;
        pb::ThreadAccount {
            thread: self.thread(thread),
            on_cpu_ns,
            runnable_ns,
            blocked_ns,
            blocked_count,
            runnable_count,
            wall_ns,
            unfinished_ns,
        }
    }

    fn device(&mut self, device: &DeviceStatistics) -> pb::DeviceStatistics {
        let DeviceStatistics {
            host,
            device,
            operation,
            count,
            bytes,
            queue_ns,
            device_ns,
            errors,
            queue_histogram,
            device_histogram,
        } = device;
        self.bytes += (queue_histogram.buckets.len() + device_histogram.buckets.len()) * 3;
        pb::DeviceStatistics {
            host: self.string(*host),
            device: self.string(*device),
            operation: self.string(*operation),
            count: *count,
            bytes: *bytes,
            queue_ns: *queue_ns,
            device_ns: *device_ns,
            errors: *errors,
            queue_histogram: queue_histogram.buckets.clone(),
            device_histogram: device_histogram.buckets.clone(),
        }
    }
}
