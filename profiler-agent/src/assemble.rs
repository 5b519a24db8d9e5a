//! Raw samples and resolved names -> the [`Capture`] that leaves the agent.

use std::{collections::HashMap, fs};

use profiler_abi::{IoKey, IoTotals, StackIds, stack_end, unwind_method};
use profiler_proto::{
    Attribute, AttributesId, Capture, DeviceStatistics, Dictionary, Event, Facts, Frame, FrameId,
    FrameKind, Histogram, Ledger, Line, Mapping, MappingId, Process, Profile, Sample, Stack,
    StackEnd, StackId, StrId, Thread, ThreadAccount, ThreadId, UnwindMethod,
};

use crate::{
    aggregate::{Aggregate, Extent, RawAttributes, RawSample, RawThread},
    monotonic::UtcOffset,
    resolver::Resolved,
};

/// What the assembler works from.
pub struct Parts<'a> {
    /// Measurements.
    pub aggregate: &'a Aggregate,
    /// Names.
    pub resolved: &'a Resolved,
    /// Exact totals of block I/O.
    pub io_totals: &'a [(IoKey, IoTotals)],
    /// From the kernel's clock to UTC.
    pub utc: UtcOffset,
    /// Events that were measured.
    pub events: &'a [Event],
}

/// Builds the capture. The ledger's counts of stacks and frames are filled in.
pub fn assemble(parts: &Parts<'_>, facts: Facts, ledger: Ledger) -> Capture {
    let mut assembler = Assembler {
        parts,
        dictionary: Dictionary::new(),
        threads: HashMap::new(),
        stacks: HashMap::new(),
        attributes: HashMap::new(),
        devices: HashMap::new(),
        frames: vec![None; parts.resolved.frames.len()],
    };
    let profiles = parts
        .events
        .iter()
        .map(|event| assembler.profile(*event))
        .collect();
    let accounts = assembler.accounts();
    let devices = assembler.devices();
    let mut capture = Capture {
        dictionary: assembler.dictionary,
        profiles,
        accounts,
        devices,
        facts,
        ledger,
    };
    count_stacks(&mut capture);
    capture
}

/// What tells one stack of the capture from another.
type StackKey = (Event, u32, StackIds);

struct Assembler<'a> {
    parts: &'a Parts<'a>,
    dictionary: Dictionary,
    threads: HashMap<u32, ThreadId>,
    stacks: HashMap<StackKey, StackId>,
    attributes: HashMap<u32, AttributesId>,
    devices: HashMap<(u32, u32), StrId>,
    frames: Vec<Option<FrameId>>,
}

impl Assembler<'_> {
    fn profile(&mut self, event: Event) -> Profile {
        let parts = self.parts;
        let mut samples: Vec<Sample> = parts
            .aggregate
            .store()
            .samples(event)
            .iter()
            .map(|raw| self.sample(event, raw))
            .collect();
        samples.sort_by_key(|sample| sample.time_ns);
        Profile { event, samples }
    }

    fn sample(&mut self, event: Event, raw: &RawSample) -> Sample {
        Sample {
            time_ns: self.parts.utc.to_utc_ns(raw.time_ns),
            thread: self.thread(raw.thread),
            stack: self.stack(event, raw),
            attributes: self.attribute_set(raw),
            weight: raw.weight,
            count: u64::from(raw.count),
        }
    }

    fn thread(&mut self, index: u32) -> ThreadId {
        if let Some(id) = self.threads.get(&index) {
            return *id;
        }
        let raw = self.parts.aggregate.threads()[index as usize];
        let process = self.process(&raw);
        let comm = self.comm(&raw.comm);
        let id = self.dictionary.intern_thread(Thread {
            process,
            tid: raw.tid,
            start_ns: raw.start_ns,
            comm,
        });
        self.threads.insert(index, id);
        id
    }

    fn comm(&mut self, comm: &[u8; 16]) -> StrId {
        let end = comm.iter().position(|&byte| byte == 0).unwrap_or(16);
        self.dictionary
            .intern_string(&String::from_utf8_lossy(&comm[..end]))
    }

    fn process(&mut self, thread: &RawThread) -> profiler_proto::ProcessId {
        let raw = self.parts.aggregate.processes()[thread.process as usize];
        let info = self
            .parts
            .resolved
            .processes
            .get(thread.process as usize)
            .and_then(Option::as_ref);
        let (comm, executable, cgroup, container) = match info {
            Some(info) => (
                self.dictionary.intern_string(&info.comm),
                self.dictionary.intern_string(&info.executable),
                self.dictionary.intern_string(&info.cgroup),
                self.dictionary.intern_string(&info.container),
            ),
            None => (
                self.comm(&raw.comm),
                StrId::default(),
                StrId::default(),
                StrId::default(),
            ),
        };
        self.dictionary.intern_process(Process {
            pid: raw.key.pid,
            start_ns: raw.key.start_ns,
            exec_generation: raw.key.exec_id,
            comm,
            executable,
            cgroup,
            container,
            host: StrId::default(),
        })
    }

    fn stack(&mut self, event: Event, raw: &RawSample) -> StackId {
        let resolved = self.parts.resolved;
        let process = self.parts.aggregate.threads()[raw.thread as usize].process;
        let ids = &raw.stack;
        let key = (event, process, *ids);
        if let Some(id) = self.stacks.get(&key) {
            return *id;
        }
        let user = resolved.user_stacks.get(&(process, ids.user));
        let kernel = resolved.kernel_stacks.get(&ids.kernel);
        let (user_end, user_method) = match user {
            Some(user) => user.walked.unwrap_or((ids.user_end, ids.user_method)),
            None if ids.user_end == stack_end::COPIED => (stack_end::LOST, unwind_method::NONE),
            None => (ids.user_end, ids.user_method),
        };
        let stack = Stack {
            user: self.frame_ids(user.map_or(&[], |stack| &stack.frames), FrameKind::User),
            user_end: end(user_end),
            user_method: method(user_method),
            kernel: self.frame_ids(
                match kernel {
                    // A tick interrupts, and a thread that does not run is
                    // looked at from outside: nothing was called.
                    Some(frames)
                        if event == Event::Cpu || ids.user_end == stack_end::NOT_RUNNING =>
                    {
                        frames
                    }
                    Some(frames) => resolved.without_profiler(frames),
                    None => &[],
                },
                FrameKind::Kernel,
            ),
            kernel_end: end(ids.kernel_end),
        };
        let id = self.dictionary.intern_stack(stack);
        self.stacks.insert(key, id);
        id
    }

    fn frame_ids(&mut self, frames: &[u32], kind: FrameKind) -> Vec<FrameId> {
        frames
            .iter()
            .map(|frame| self.frame(*frame, kind))
            .collect()
    }

    fn frame(&mut self, index: u32, kind: FrameKind) -> FrameId {
        if let Some(id) = self.frames[index as usize] {
            return id;
        }
        let resolved = &self.parts.resolved.frames[index as usize];
        let mapping = match resolved.file {
            Some(file) => self.mapping(file),
            None => MappingId::default(),
        };
        let lines = resolved
            .names
            .iter()
            .map(|name| Line {
                function: self.dictionary.intern_string(&name.function),
                file: self.dictionary.intern_string(&name.file),
                line: name.line,
            })
            .collect();
        let kind = match resolved.interpreted {
            true => FrameKind::Interpreted,
            false => kind,
        };
        let id = self.dictionary.intern_frame(Frame {
            kind,
            mapping,
            address: resolved.address,
            lines,
        });
        self.frames[index as usize] = Some(id);
        id
    }

    fn mapping(&mut self, file: u32) -> MappingId {
        let file = &self.parts.resolved.files[file as usize];
        let path = self.dictionary.intern_string(&file.path);
        self.dictionary.intern_mapping(Mapping {
            path,
            build_id: file.build_id.clone(),
        })
    }

    fn attribute_set(&mut self, raw: &RawSample) -> AttributesId {
        if raw.request.is_none()
            && let Some(id) = self.attributes.get(&raw.attributes)
        {
            return *id;
        }
        let mut attributes = match self.parts.aggregate.attributes()[raw.attributes as usize] {
            RawAttributes::None => return AttributesId::default(),
            RawAttributes::Wait { runnable, extent } => self.wait(runnable, extent),
            RawAttributes::Io(key) => vec![
                Attribute::Device(self.device(key)),
                Attribute::Operation(self.dictionary.intern_string(operation(key.operation))),
            ],
        };
        if let Some(request) = raw.request {
            attributes.push(Attribute::IoBytes(request.bytes));
            attributes.push(Attribute::QueueNs(request.queue_ns));
            return self.dictionary.intern_attributes(attributes);
        }
        let id = self.dictionary.intern_attributes(attributes);
        self.attributes.insert(raw.attributes, id);
        id
    }

    fn wait(&mut self, runnable: bool, extent: Extent) -> Vec<Attribute> {
        let class = if runnable { "runnable" } else { "blocked" };
        let mut attributes = vec![Attribute::WaitClass(self.dictionary.intern_string(class))];
        let extent = match extent {
            Extent::Finished => return attributes,
            Extent::Unfinished => "unfinished",
            Extent::WholeWindow => "whole-window",
        };
        attributes.push(Attribute::WaitExtent(self.dictionary.intern_string(extent)));
        attributes
    }

    /// Name of a block device, or "major:minor" where it is gone.
    fn device(&mut self, key: IoKey) -> StrId {
        let number = (key.major, key.minor);
        if let Some(name) = self.devices.get(&number) {
            return *name;
        }
        let text = format!("{}:{}", key.major, key.minor);
        let name = fs::read_link(format!("/sys/dev/block/{text}"))
            .ok()
            .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or(text);
        let name = self.dictionary.intern_string(&name);
        self.devices.insert(number, name);
        name
    }

    fn accounts(&mut self) -> Vec<ThreadAccount> {
        let parts = self.parts;
        parts
            .aggregate
            .accounts()
            .iter()
            .map(|raw| {
                let account = &raw.account;
                let (blocked, runnable) = if account.unfinished_runnable != 0 {
                    (0, account.unfinished_ns)
                } else {
                    (account.unfinished_ns, 0)
                };
                ThreadAccount {
                    thread: self.thread(raw.thread),
                    on_cpu_ns: account.on_cpu_ns,
                    runnable_ns: account.runnable_ns + runnable,
                    blocked_ns: account.blocked_ns + blocked,
                    blocked_count: account.blocked_count,
                    runnable_count: account.runnable_count,
                    wall_ns: account.wall_ns,
                    unfinished_ns: account.unfinished_ns,
                }
            })
            .collect()
    }

    fn devices(&mut self) -> Vec<DeviceStatistics> {
        let parts = self.parts;
        let mut devices: Vec<DeviceStatistics> = parts
            .io_totals
            .iter()
            .map(|(key, totals)| DeviceStatistics {
                host: StrId::default(),
                device: self.device(*key),
                operation: self.dictionary.intern_string(operation(key.operation)),
                count: totals.count,
                bytes: totals.bytes,
                queue_ns: totals.queue_ns,
                device_ns: totals.device_ns,
                errors: totals.errors,
                queue_histogram: histogram(&totals.queue),
                device_histogram: histogram(&totals.device),
            })
            .collect();
        devices.sort_by_key(|statistics| (statistics.device, statistics.operation));
        devices
    }
}

fn histogram(buckets: &[u64]) -> Histogram {
    let used = buckets.iter().rposition(|&n| n != 0).map_or(0, |i| i + 1);
    Histogram {
        buckets: buckets[..used].to_vec(),
    }
}

/// `enum req_op` (include/linux/blk_types.h). Others have had different numbers
/// over time.
fn operation(number: u32) -> &'static str {
    match number {
        0 => "read",
        1 => "write",
        2 => "flush",
        3 => "discard",
        5 => "secure-erase",
        9 => "write-zeroes",
        34 => "driver-in",
        35 => "driver-out",
        _ => "other",
    }
}

fn end(end: u8) -> StackEnd {
    match end {
        stack_end::NONE => StackEnd::None,
        stack_end::WHOLE => StackEnd::Whole,
        stack_end::FRAME_POINTERS => StackEnd::FramePointers,
        stack_end::CUT => StackEnd::Cut,
        stack_end::UNREADABLE => StackEnd::Unreadable,
        stack_end::LOST => StackEnd::Lost,
        stack_end::NOT_RUNNING => StackEnd::NotRunning,
        stack_end::NO_RULE => StackEnd::NoRule,
        stack_end::NO_MAPPING => StackEnd::NoMapping,
        stack_end::NO_TABLE => StackEnd::NoTable,
        stack_end::UNSUPPORTED => StackEnd::Unsupported,
        stack_end::COMPAT => StackEnd::Compat,
        stack_end::NO_PROGRESS => StackEnd::NoProgress,
        _ => StackEnd::Unknown,
    }
}

fn method(method: u8) -> UnwindMethod {
    match method {
        unwind_method::NONE => UnwindMethod::None,
        unwind_method::FRAME_POINTERS => UnwindMethod::FramePointers,
        unwind_method::TABLES => UnwindMethod::Tables,
        unwind_method::MIXED => UnwindMethod::Mixed,
        unwind_method::COPY => UnwindMethod::Copy,
        _ => UnwindMethod::Unknown,
    }
}

impl Resolved {
    /// A kernel stack taken by a program that a tracepoint runs begins with the
    /// program and what called it. That is not what the thread was doing. Where
    /// kernel symbols are hidden the two cannot be told apart, and all stays.
    fn without_profiler<'a>(&self, frames: &'a [u32]) -> &'a [u32] {
        let has_names = |frame: &u32| !self.frames[*frame as usize].names.is_empty();
        if !frames.iter().any(has_names) {
            return frames;
        }
        let machinery = frames
            .iter()
            .take_while(|frame| self.is_machinery(**frame))
            .count();
        &frames[machinery..]
    }

    fn is_machinery(&self, frame: u32) -> bool {
        const PREFIXES: [&str; 4] = [
            "bpf_trace_run",
            "__bpf_trace_",
            "__traceiter_",
            "bpf_get_stack",
        ];
        // Generated code has no name: the program itself, or a trampoline.
        self.frames[frame as usize].names.last().is_none_or(|name| {
            PREFIXES
                .iter()
                .any(|prefix| name.function.starts_with(prefix))
        })
    }
}

/// Fills the ledger's counts of how stacks ended and which frames have names.
fn count_stacks(capture: &mut Capture) {
    for profile in &capture.profiles {
        let Some(ledger) = capture
            .ledger
            .events
            .iter_mut()
            .find(|ledger| ledger.event == profile.event)
        else {
            continue;
        };
        for sample in &profile.samples {
            let stack = capture.dictionary.stack(sample.stack);
            *ledger.user_stacks.entry(stack.user_end).or_default() += sample.count;
            *ledger.kernel_stacks.entry(stack.kernel_end).or_default() += sample.count;
            *ledger.user_methods.entry(stack.user_method).or_default() += sample.count;
            let unnamed = stack
                .user
                .iter()
                .filter(|frame| capture.dictionary.frame(**frame).lines.is_empty())
                .count();
            ledger.user_frames += stack.user.len() as u64 * sample.count;
            ledger.unnamed_user_frames += unnamed as u64 * sample.count;
        }
    }
}
