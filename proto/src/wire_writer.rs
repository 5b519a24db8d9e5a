//! From values of the model to messages: which index each entry of the dictionary has on the wire.

use crate::capture::{DeviceStatistics, ThreadAccount};
use crate::dictionary::Dictionary;
use crate::pb;
use crate::profile::{
    Attribute, AttributesId, Frame, FrameId, Mapping, MappingId, Process, ProcessId, Stack,
    StackId, StrId, Thread, ThreadId,
};

/// About what a thread's account takes.
const ACCOUNT_BYTES: usize = 40;
/// About what the numbers of a dictionary entry take beside its strings.
const ENTRY_BYTES: usize = 16;

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

/// Turns values into messages, and adds each entry of the dictionary with its first use.
pub(crate) struct WireWriter<'a> {
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
    pub(crate) bytes: usize,
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

impl<'a> WireWriter<'a> {
    pub(crate) fn new(dictionary: &'a Dictionary) -> Self {
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
    pub(crate) fn take(&mut self) -> Option<pb::Dictionary> {
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

    pub(crate) fn stack(&mut self, id: StackId) -> u32 {
        send!(self, stacks, stacks, id, |stack| {
            let Stack {
                user,
                user_end,
                user_method,
                kernel,
                kernel_end,
            } = stack;
            self.bytes += (user.len() + kernel.len()) * 3;
            pb::Stack {
                user_frames: user.iter().map(|&frame| self.frame(frame)).collect(),
                user_end: user_end.to_wire(),
                user_method: user_method.to_wire(),
                kernel_frames: kernel.iter().map(|&frame| self.frame(frame)).collect(),
                kernel_end: kernel_end.to_wire(),
            }
        })
    }

    pub(crate) fn attributes(&mut self, id: AttributesId) -> u32 {
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

    pub(crate) fn thread(&mut self, id: ThreadId) -> u32 {
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

    pub(crate) fn account(&mut self, account: &ThreadAccount) -> pb::ThreadAccount {
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

    pub(crate) fn device(&mut self, device: &DeviceStatistics) -> pb::DeviceStatistics {
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
