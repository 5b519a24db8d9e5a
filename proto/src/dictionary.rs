//! What samples refer to, each kept once.

use std::hash::Hash;

use indexmap::{Equivalent, IndexSet};

use crate::profile::{
    Attribute, AttributeSet, AttributesId, Frame, FrameId, FrameKind, Mapping, MappingId, Process,
    ProcessId, Stack, StackEnd, StackId, StrId, Thread, ThreadId, UnwindMethod,
};

static NO_FRAME: Frame = Frame {
    kind: FrameKind::Unknown,
    mapping: MappingId::NONE,
    address: 0,
    lines: Vec::new(),
};
static NO_STACK: Stack = Stack {
    user: Vec::new(),
    user_end: StackEnd::None,
    user_method: UnwindMethod::None,
    kernel: Vec::new(),
    kernel_end: StackEnd::None,
};
static NO_ATTRIBUTES: AttributeSet = AttributeSet::EMPTY;
static NO_PROCESS: Process = Process {
    pid: 0,
    start_ns: 0,
    exec_generation: 0,
    comm: StrId::NONE,
    executable: StrId::NONE,
    cgroup: StrId::NONE,
    container: StrId::NONE,
    host: StrId::NONE,
};
static NO_THREAD: Thread = Thread {
    process: ProcessId::NONE,
    tid: 0,
    start_ns: 0,
    comm: StrId::NONE,
};

/// Values in the order of their first use, each once. Ids start at 1.
#[derive(Clone, Debug)]
pub(crate) struct Table<T>(IndexSet<T>);

impl<T: Hash + Eq> Table<T> {
    /// The id of a value; 0 should the table ever hold 2^32 - 1 values.
    pub(crate) fn intern(&mut self, value: T) -> u32 {
        let (index, _) = self.0.insert_full(value);
        id_at(index)
    }

    fn find<Q: Hash + Equivalent<T> + ?Sized>(&self, value: &Q) -> Option<u32> {
        self.0.get_index_of(value).map(id_at)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        self.0.get_index(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

fn id_at(index: usize) -> u32 {
    u32::try_from(index).map_or(0, |index| index.wrapping_add(1))
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(IndexSet::new())
    }
}

impl<T: Hash + Eq> PartialEq for Table<T> {
    /// Equal ids must mean equal values, so order counts.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice() == other.0.as_slice()
    }
}

/// The strings, mappings, frames, stacks, attributes, processes and threads that samples refer to.
///
/// Every value is kept once: interning it again gives the same id. Ids that occur in a value given
/// to `intern_*` must come from this dictionary. Looking up an id that does not is a bug of the
/// caller; it gives some other value or an empty one, and never panics.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dictionary {
    pub(crate) strings: Table<Box<str>>,
    pub(crate) mappings: Table<Mapping>,
    pub(crate) frames: Table<Frame>,
    pub(crate) stacks: Table<Stack>,
    pub(crate) attributes: Table<AttributeSet>,
    pub(crate) processes: Table<Process>,
    pub(crate) threads: Table<Thread>,
}

impl Dictionary {
    /// An empty dictionary.
    pub fn new() -> Self {
        Self::default()
    }

    /// The id of a string; [`StrId::NONE`] for the empty one.
    pub fn intern_string(&mut self, string: &str) -> StrId {
        if string.is_empty() {
            return StrId::NONE;
        }
        let known = self.strings.find(string);
        StrId::from_raw(known.unwrap_or_else(|| self.strings.intern(string.into())))
    }

    /// The id of a mapping.
    pub fn intern_mapping(&mut self, mapping: Mapping) -> MappingId {
        MappingId::from_raw(self.mappings.intern(mapping))
    }

    /// The id of a frame.
    pub fn intern_frame(&mut self, frame: Frame) -> FrameId {
        FrameId::from_raw(self.frames.intern(frame))
    }

    /// The id of a stack.
    pub fn intern_stack(&mut self, stack: Stack) -> StackId {
        StackId::from_raw(self.stacks.intern(stack))
    }

    /// The id of a set of attributes; [`AttributesId::NONE`] for the empty one.
    pub fn intern_attributes(&mut self, attributes: Vec<Attribute>) -> AttributesId {
        if attributes.is_empty() {
            return AttributesId::NONE;
        }
        AttributesId::from_raw(self.attributes.intern(AttributeSet::new(attributes)))
    }

    /// The id of a process.
    pub fn intern_process(&mut self, process: Process) -> ProcessId {
        ProcessId::from_raw(self.processes.intern(process))
    }

    /// The id of a thread.
    pub fn intern_thread(&mut self, thread: Thread) -> ThreadId {
        ThreadId::from_raw(self.threads.intern(thread))
    }

    /// The string; empty for none.
    pub fn string(&self, id: StrId) -> &str {
        self.strings.get(id.raw()).map_or("", |string| string)
    }

    /// The mapping, unless the id is none.
    pub fn mapping(&self, id: MappingId) -> Option<&Mapping> {
        self.mappings.get(id.raw())
    }

    /// The frame; one without a name and a kind for none.
    pub fn frame(&self, id: FrameId) -> &Frame {
        self.frames.get(id.raw()).unwrap_or(&NO_FRAME)
    }

    /// The stack; one without frames for none.
    pub fn stack(&self, id: StackId) -> &Stack {
        self.stacks.get(id.raw()).unwrap_or(&NO_STACK)
    }

    /// The attributes; empty for none.
    pub fn attributes(&self, id: AttributesId) -> &AttributeSet {
        self.attributes.get(id.raw()).unwrap_or(&NO_ATTRIBUTES)
    }

    /// The process; one with pid 0 and no names for none.
    pub fn process(&self, id: ProcessId) -> &Process {
        self.processes.get(id.raw()).unwrap_or(&NO_PROCESS)
    }

    /// The thread; one with tid 0 and no name for none.
    pub fn thread(&self, id: ThreadId) -> &Thread {
        self.threads.get(id.raw()).unwrap_or(&NO_THREAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_has_the_same_id() {
        let mut dictionary = Dictionary::new();
        let a = dictionary.intern_string("a");
        let b = dictionary.intern_string("b");
        assert_ne!(a, b);
        assert_eq!(dictionary.intern_string("a"), a);
        assert_eq!((a.index(), b.index()), (1, 2));
        assert_eq!(dictionary.string(b), "b");
        let mapping = Mapping {
            path: a,
            build_id: vec![1],
        };
        let id = dictionary.intern_mapping(mapping.clone());
        assert_eq!(dictionary.intern_mapping(mapping.clone()), id);
        assert_eq!(dictionary.mapping(id), Some(&mapping));
    }

    #[test]
    fn none_is_empty_and_never_panics() {
        let mut dictionary = Dictionary::new();
        assert!(dictionary.intern_string("").is_none());
        assert!(dictionary.intern_attributes(Vec::new()).is_none());
        assert_eq!(dictionary.string(StrId::NONE), "");
        assert_eq!(dictionary.mapping(MappingId::NONE), None);
        assert_eq!(dictionary.frame(FrameId::NONE), &Frame::default());
        assert!(dictionary.stack(StackId::NONE).user.is_empty());
        assert_eq!(dictionary.thread(ThreadId::from_raw(7)).tid, 0);
    }

    #[test]
    fn attributes_are_a_set() {
        let mut dictionary = Dictionary::new();
        let one =
            dictionary.intern_attributes(vec![Attribute::QueueNs(1), Attribute::IoBytes(4096)]);
        let two =
            dictionary.intern_attributes(vec![Attribute::IoBytes(4096), Attribute::QueueNs(1)]);
        assert_eq!(one, two);
        assert_eq!(dictionary.attributes(one).as_slice().len(), 2);
    }

    #[test]
    fn dictionaries_with_different_ids_differ() {
        let (mut one, mut two) = (Dictionary::new(), Dictionary::new());
        one.intern_string("a");
        one.intern_string("b");
        two.intern_string("b");
        two.intern_string("a");
        assert_ne!(one, two);
    }
}
