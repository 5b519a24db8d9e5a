//! Moves values from one dictionary to another.

use crate::capture::{DeviceStatistics, ThreadAccount};
use crate::profile::{
    Attribute, AttributeSet, AttributesId, Frame, FrameId, Line, Mapping, MappingId, Process,
    ProcessId, Sample, Stack, StackId, StrId, Thread, ThreadId,
};

/// The new id of each old one, by table. What has none becomes none.
#[derive(Default)]
pub(crate) struct Relabel {
    pub(crate) strings: Vec<StrId>,
    pub(crate) mappings: Vec<MappingId>,
    pub(crate) frames: Vec<FrameId>,
    pub(crate) stacks: Vec<StackId>,
    pub(crate) attributes: Vec<AttributesId>,
    pub(crate) processes: Vec<ProcessId>,
    pub(crate) threads: Vec<ThreadId>,
}

fn new_id<T: Copy + Default>(ids: &[T], old: usize) -> T {
    ids.get(old).copied().unwrap_or_default()
}

impl Relabel {
    pub(crate) fn string(&self, id: StrId) -> StrId {
        new_id(&self.strings, id.index())
    }

    pub(crate) fn mapping(&self, mapping: &Mapping) -> Mapping {
        let Mapping { path, build_id } = mapping;
        Mapping {
            path: self.string(*path),
            build_id: build_id.clone(),
        }
    }

    pub(crate) fn frame(&self, frame: &Frame) -> Frame {
        let Frame {
            kind,
            mapping,
            address,
            lines,
        } = frame;
        let line = |line: &Line| Line {
            function: self.string(line.function),
            file: self.string(line.file),
            line: line.line,
        };
        Frame {
            kind: *kind,
            mapping: new_id(&self.mappings, mapping.index()),
            address: *address,
            lines: lines.iter().map(line).collect(),
        }
    }

    pub(crate) fn stack(&self, stack: &Stack) -> Stack {
        let Stack {
            user,
            user_end,
            user_method,
            kernel,
            kernel_end,
        } = stack;
        let frames = |ids: &[FrameId]| -> Vec<FrameId> {
            let ids = ids.iter();
            ids.map(|id| new_id(&self.frames, id.index())).collect()
        };
        Stack {
            user: frames(user),
            user_end: *user_end,
            user_method: *user_method,
            kernel: frames(kernel),
            kernel_end: *kernel_end,
        }
    }

    pub(crate) fn attribute_set(&self, set: &AttributeSet) -> AttributeSet {
        let attributes = set.as_slice().iter();
        let relabel = |one: &Attribute| one.map_string(|id| self.string(id));
        AttributeSet::new(attributes.map(relabel).collect())
    }

    pub(crate) fn process(&self, process: &Process) -> Process {
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
        Process {
            pid: *pid,
            start_ns: *start_ns,
            exec_generation: *exec_generation,
            comm: self.string(*comm),
            executable: self.string(*executable),
            cgroup: self.string(*cgroup),
            container: self.string(*container),
            host: self.string(*host),
        }
    }

    pub(crate) fn thread(&self, thread: &Thread) -> Thread {
        let Thread {
            process,
            tid,
            start_ns,
            comm,
        } = thread;
        Thread {
            process: new_id(&self.processes, process.index()),
            tid: *tid,
            start_ns: *start_ns,
            comm: self.string(*comm),
        }
    }

    pub(crate) fn sample(&self, sample: &mut Sample) {
        let Sample {
            time_ns: _,
            thread,
            stack,
            attributes,
            weight: _,
            count: _,
        } = sample;
        *thread = new_id(&self.threads, thread.index());
        *stack = new_id(&self.stacks, stack.index());
        *attributes = new_id(&self.attributes, attributes.index());
    }

    pub(crate) fn account(&self, account: &mut ThreadAccount) {
        account.thread = new_id(&self.threads, account.thread.index());
    }

    pub(crate) fn device(&self, statistics: &mut DeviceStatistics) {
        let DeviceStatistics {
            host,
            device,
            operation,
            ..
        } = statistics;
        for id in [host, device, operation] {
            *id = self.string(*id);
        }
    }
}
