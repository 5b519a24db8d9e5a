//! From frame to frame, and what is kept between stacks.

use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
};

use profiler_abi::{INTERRUPTED, MAX_USER_FRAMES};

use super::{
    Code, CopiedStack, Mapping, Mappings, Stop, Walk,
    builds::Builds,
    cfi::Work,
    file::FileRules,
    memory::Memory,
    registers::Registers,
    step::{self, Caller, Frame, Step},
};
use crate::unwind::elf::{Machine, ReadAt};

/// Walks copied stacks, and keeps what it learns of files, so that the next
/// stack through the same code costs less.
pub struct StackWalker {
    machine: Machine,
    vdso: Vec<u8>,
    files: HashMap<FileKey, FileRules>,
    budget_bytes: usize,
    builds: Builds,
    /// Grows with every frame: when something was last used.
    now: u64,
}

/// What a file is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FileKey {
    File(u64),
    Vdso,
}

/// One stack's walk.
struct Position {
    registers: Registers,
    pc: u64,
    /// `pc` is where the code was interrupted; else it is a return address.
    exact: bool,
    /// The frame pointer led here: this need not be a frame.
    guessed: bool,
}

impl Position {
    /// Where the code that has led here is: for a return address, the call.
    fn lookup(&self) -> u64 {
        self.pc.wrapping_sub(u64::from(!self.exact))
    }
}

impl StackWalker {
    /// What is kept of all files, unless said otherwise.
    pub const DEFAULT_BUDGET: usize = 8 << 20;

    /// For stacks of this machine. `vdso` is the kernel's image of it, empty
    /// where that is not known; of files at most `budget_bytes` are kept, but
    /// for what a single stack has needed.
    pub fn new(vdso: Vec<u8>, budget_bytes: usize) -> Self {
        Self::for_machine(Machine::NATIVE, vdso, budget_bytes)
    }

    /// For stacks of any machine.
    pub fn for_machine(machine: Machine, vdso: Vec<u8>, budget_bytes: usize) -> Self {
        Self {
            machine,
            vdso,
            files: HashMap::new(),
            budget_bytes,
            builds: Builds::new(),
            now: 0,
        }
    }

    /// Memory that what is kept takes.
    pub fn bytes(&self) -> usize {
        self.files.values().map(FileRules::bytes).sum::<usize>() + self.vdso.capacity()
    }

    /// The frames of a stack and how it ended. Never more than
    /// [`MAX_USER_FRAMES`].
    pub fn walk(&mut self, stack: &CopiedStack<'_>, mappings: &(impl Mappings + ?Sized)) -> Walk {
        let mut walk = Walk {
            frames: Vec::new(),
            end: 0,
            frame_pointers: false,
        };
        walk.end = match self.follow(stack, mappings, &mut walk) {
            Ok(never) => match never {},
            Err(stop) => stop.stack_end(),
        };
        self.forget();
        walk
    }

    fn follow(
        &mut self,
        stack: &CopiedStack<'_>,
        mappings: &(impl Mappings + ?Sized),
        walk: &mut Walk,
    ) -> Result<Infallible, Stop> {
        let register = |number| stack.registers.get(number).ok_or(Stop::Unsupported);
        let memory = Memory {
            start: register(self.machine.stack_pointer())?,
            bytes: stack.memory,
        };
        let mut position = Position {
            registers: stack.registers.clone(),
            pc: register(self.machine.program_counter())?,
            exact: stack.registers.all_known(self.machine),
            guessed: false,
        };
        let mut work = Work::default();
        loop {
            if walk.frames.len() >= MAX_USER_FRAMES {
                return Err(Stop::Cut);
            }
            let mapping = match mappings.at(position.lookup()) {
                Some(mapping) => mapping,
                None if position.guessed => return Err(Stop::FramePointers),
                None => return Err(Stop::NoMapping),
            };
            let interrupted = position.exact && !walk.frames.is_empty();
            let mark = if interrupted { INTERRUPTED } else { 0 };
            walk.frames.push(position.pc | mark);
            let frame = Frame {
                machine: self.machine,
                registers: &position.registers,
                memory,
            };
            let (caller, guessed) = match self.by_rules(&frame, &position, &mapping, &mut work) {
                Ok(Some(caller)) => (caller, false),
                Ok(None) => (by_frame_pointer(&frame, &mapping)?, true),
                // A guess may lead to the outermost function from anywhere.
                Err(Stop::Whole) if position.guessed => return Err(Stop::FramePointers),
                Err(stop) => return Err(stop),
            };
            walk.frame_pointers |= guessed;
            check_progress(&frame, &caller, position.exact)?;
            let pc = self.machine.strip(caller.address);
            if pc == 0 {
                // Whoever made the stack marked its end so.
                return Err(if guessed {
                    Stop::FramePointers
                } else {
                    Stop::Whole
                });
            }
            position = Position {
                pc,
                exact: caller.interrupted,
                guessed,
                registers: caller.registers,
            };
        }
    }

    /// The caller by what is known of the code; `None` where that is nothing.
    fn by_rules(
        &mut self,
        frame: &Frame<'_>,
        position: &Position,
        mapping: &Mapping<'_>,
        work: &mut Work,
    ) -> Result<Option<Caller>, Stop> {
        let (key, file): (_, &dyn ReadAt) = match mapping.code {
            Code::File { id, file } => (FileKey::File(id), file),
            Code::Vdso => (FileKey::Vdso, &self.vdso),
            Code::Jit => return Ok(None),
        };
        self.now += 1;
        let known = match self.files.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(FileRules::read(file, self.machine)),
        };
        known.used = self.now;
        let Some(address) = known.address_of(mapping.offset) else {
            return Ok(None);
        };
        let pc = position
            .pc
            .wrapping_sub(mapping.start)
            .wrapping_add(address);
        let builds = &mut self.builds;
        builds.begin(key);
        let caller = match known.step(file, pc, position.exact, self.now, work, builds) {
            Step::Rules(rules) => rules.apply(frame),
            Step::Row(rule) => step::by_row(rule, frame, pc),
            Step::Linkage(pushed) => step::by_linkage(*pushed, frame),
            Step::Cloned => step::by_clone(frame),
            Step::SignalReturn => step::interrupted(frame, step::context_offset(frame.machine)),
            Step::End => Err(Stop::Whole),
            Step::Unsupported => Err(Stop::Unsupported),
            Step::Unknown => return Ok(None),
        };
        caller.map(Some)
    }

    /// Brings what is kept below the budget: the half of the rows that were not
    /// used for longest goes, and files of which nothing is left.
    fn forget(&mut self) {
        while self.bytes() > self.budget_bytes && !self.files.is_empty() {
            let mut uses: Vec<u64> = self.files.values().flat_map(FileRules::uses).collect();
            uses.extend(self.files.values().map(|file| file.used));
            let middle = uses.len() / 2;
            let (_, since, _) = uses.select_nth_unstable(middle);
            // At least one goes: no two frames have the same time.
            let since = *since + 1;
            let builds = &mut self.builds;
            self.files.retain(|key, file| {
                file.forget_before(since);
                let stays = file.used >= since;
                if !stays && file.has_built() {
                    builds.pause(*key);
                }
                stays
            });
        }
    }
}

/// The caller by the frame pointer. Code made at run time may have none left at
/// its end.
fn by_frame_pointer(frame: &Frame<'_>, mapping: &Mapping<'_>) -> Result<Caller, Stop> {
    match step::by_frame_pointer(frame) {
        Err(Stop::NoRule) if matches!(mapping.code, Code::Jit) => Err(Stop::FramePointers),
        result => result,
    }
}

/// A stack grows upwards from frame to frame. Only a handler may have had a
/// stack of its own, and the return address may be in a register until the
/// next call (on x86-64 in `vfork`).
fn check_progress(frame: &Frame<'_>, caller: &Caller, exact: bool) -> Result<(), Stop> {
    let register = frame.machine.stack_pointer();
    let next = caller.registers.get(register).ok_or(Stop::Unsupported)?;
    match next.cmp(&frame.stack_pointer()?) {
        Ordering::Greater => Ok(()),
        Ordering::Equal if exact => Ok(()),
        _ if caller.interrupted => Ok(()),
        _ => Err(Stop::NoProgress),
    }
}
