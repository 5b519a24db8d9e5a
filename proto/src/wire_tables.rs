//! The dictionary as it arrives: which id each entry that was sent has here.

use crate::assembler::ModelError;
use crate::dictionary::Dictionary;
use crate::pb;
use crate::profile::{
    Attribute, AttributesId, Frame, FrameId, FrameKind, Line, Mapping, MappingId, Process,
    ProcessId, Stack, StackEnd, StackId, StrId, Thread, ThreadId, UnwindMethod,
};

/// For each table, the ids of the entries sent so far, in the order in which they were sent.
#[derive(Debug, Default)]
pub(crate) struct WireTables {
    strings: Vec<StrId>,
    mappings: Vec<MappingId>,
    frames: Vec<FrameId>,
    stacks: Vec<StackId>,
    attributes: Vec<AttributesId>,
    processes: Vec<ProcessId>,
    threads: Vec<ThreadId>,
}

/// The id behind an index of the wire; index 0 is none.
fn resolve<T: Copy + Default>(
    ids: &[T],
    table: &'static str,
    user: &'static str,
    index: u32,
) -> Result<T, ModelError> {
    let Some(position) = index.checked_sub(1) else {
        return Ok(T::default());
    };
    ids.get(position as usize)
        .copied()
        .ok_or(ModelError::Index {
            user,
            table,
            index,
            len: ids.len(),
        })
}

impl WireTables {
    /// Interns the entries of one chunk. An entry refers to the entries before it and to those of
    /// the tables before its own.
    pub(crate) fn extend(
        &mut self,
        dictionary: &mut Dictionary,
        entries: pb::Dictionary,
    ) -> Result<(), ModelError> {
        for string in entries.strings {
            self.strings.push(dictionary.intern_string(&string));
        }
        for mapping in entries.mappings {
            let mapping = self.read_mapping(mapping)?;
            self.mappings.push(dictionary.intern_mapping(mapping));
        }
        for frame in entries.frames {
            let frame = self.read_frame(&frame)?;
            self.frames.push(dictionary.intern_frame(frame));
        }
        for stack in entries.stacks {
            let stack = self.read_stack(&stack)?;
            self.stacks.push(dictionary.intern_stack(stack));
        }
        for set in entries.attribute_sets {
            let attributes = self.read_attributes(&set)?;
            self.attributes
                .push(dictionary.intern_attributes(attributes));
        }
        for process in entries.processes {
            let process = self.read_process(&process)?;
            self.processes.push(dictionary.intern_process(process));
        }
        for thread in entries.threads {
            let thread = self.read_thread(&thread)?;
            self.threads.push(dictionary.intern_thread(thread));
        }
        Ok(())
    }

    pub(crate) fn string(&self, user: &'static str, index: u32) -> Result<StrId, ModelError> {
        resolve(&self.strings, "strings", user, index)
    }

    pub(crate) fn stack(&self, user: &'static str, index: u32) -> Result<StackId, ModelError> {
        resolve(&self.stacks, "stacks", user, index)
    }

    pub(crate) fn attributes(
        &self,
        user: &'static str,
        index: u32,
    ) -> Result<AttributesId, ModelError> {
        resolve(&self.attributes, "attribute sets", user, index)
    }

    pub(crate) fn thread(&self, user: &'static str, index: u32) -> Result<ThreadId, ModelError> {
        resolve(&self.threads, "threads", user, index)
    }

    fn read_mapping(&self, mapping: pb::Mapping) -> Result<Mapping, ModelError> {
        Ok(Mapping {
            path: self.string("a mapping", mapping.path)?,
            build_id: mapping.build_id,
        })
    }

    fn read_frame(&self, frame: &pb::Frame) -> Result<Frame, ModelError> {
        let user = "a frame";
        let line = |line: &pb::Line| {
            Ok(Line {
                function: self.string(user, line.function)?,
                file: self.string(user, line.file)?,
                line: line.line,
            })
        };
        let lines: Result<Vec<_>, ModelError> = frame.lines.iter().map(line).collect();
        Ok(Frame {
            kind: FrameKind::from_wire(frame.kind),
            mapping: resolve(&self.mappings, "mappings", user, frame.mapping)?,
            address: frame.address,
            lines: lines?,
        })
    }

    fn read_stack(&self, stack: &pb::Stack) -> Result<Stack, ModelError> {
        let frames = |frames: &[u32]| -> Result<Vec<FrameId>, ModelError> {
            let frames = frames.iter();
            frames
                .map(|&frame| resolve(&self.frames, "frames", "a stack", frame))
                .collect()
        };
        Ok(Stack {
            user: frames(&stack.user_frames)?,
            user_end: StackEnd::from_wire(stack.user_end),
            user_method: UnwindMethod::from_wire(stack.user_method),
            kernel: frames(&stack.kernel_frames)?,
            kernel_end: StackEnd::from_wire(stack.kernel_end),
        })
    }

    /// Attributes that this version does not know are left out, like fields it does not know.
    fn read_attributes(&self, set: &pb::AttributeSet) -> Result<Vec<Attribute>, ModelError> {
        let attributes = set.attributes.iter();
        attributes
            .filter_map(|attribute| self.read_attribute(attribute).transpose())
            .collect()
    }

    fn read_attribute(&self, attribute: &pb::Attribute) -> Result<Option<Attribute>, ModelError> {
        use pb::AttributeKey as Key;
        let string = |name| match attribute.value {
            Some(pb::attribute::Value::String(index)) => self.string("an attribute", index),
            _ => Err(ModelError::Attribute(name)),
        };
        let number = |name| match attribute.value {
            Some(pb::attribute::Value::Number(number)) => Ok(number),
            _ => Err(ModelError::Attribute(name)),
        };
        let key = Key::try_from(attribute.key).unwrap_or(Key::Unspecified);
        Ok(Some(match key {
            Key::Unspecified => return Ok(None),
            Key::WaitClass => Attribute::WaitClass(string("wait class")?),
            Key::WaitExtent => Attribute::WaitExtent(string("wait extent")?),
            Key::Device => Attribute::Device(string("device")?),
            Key::Operation => Attribute::Operation(string("operation")?),
            Key::IoBytes => Attribute::IoBytes(number("I/O size")?),
            Key::QueueNs => Attribute::QueueNs(number("queue time")?),
        }))
    }

    fn read_process(&self, process: &pb::Process) -> Result<Process, ModelError> {
        let string = |index| self.string("a process", index);
        Ok(Process {
            pid: process.pid,
            start_ns: process.start_ns,
            exec_generation: process.exec_generation,
            comm: string(process.comm)?,
            executable: string(process.executable)?,
            cgroup: string(process.cgroup)?,
            container: string(process.container)?,
            host: string(process.host)?,
        })
    }

    fn read_thread(&self, thread: &pb::Thread) -> Result<Thread, ModelError> {
        let user = "a thread";
        Ok(Thread {
            process: resolve(&self.processes, "processes", user, thread.process)?,
            tid: thread.tid,
            start_ns: thread.start_ns,
            comm: self.string(user, thread.comm)?,
        })
    }
}
