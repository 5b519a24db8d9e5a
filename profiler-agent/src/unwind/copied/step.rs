//! How to get from one frame to its caller, and the going.

use profiler_abi::unwind::{Rule, cfa, saved};

use super::{
    Stop,
    expression::{Context, evaluate},
    memory::Memory,
    registers::Registers,
};
use crate::unwind::elf::Machine;

/// A frame whose caller is asked for.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub machine: Machine,
    pub registers: &'a Registers,
    pub memory: Memory<'a>,
}

/// Where a frame's caller continues.
#[derive(Debug)]
pub(super) struct Caller {
    /// All but the program counter are set.
    pub registers: Registers,
    /// Where it continues, as found: on aarch64 it may be signed.
    pub address: u64,
    /// It was interrupted there, and did not call.
    pub interrupted: bool,
}

/// What is known of a range of addresses.
#[derive(Debug)]
pub(super) enum Step {
    /// What call frame information says.
    Rules(Rules),
    /// What the table for the kernel programs says.
    Row(Rule),
    /// The trampoline that a signal handler returns to.
    SignalReturn,
    /// An entry of a procedure linkage table whose caller's stack pointer is
    /// this many bytes above.
    Linkage(u64),
    /// The end of the system call that makes a thread, in a function that keeps
    /// nothing on the stack. In the new thread this is the outermost frame.
    Cloned,
    /// The outermost frame.
    End,
    /// Nothing.
    Unknown,
    /// There is a rule, which cannot be followed.
    Unsupported,
}

impl Step {
    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Rules(rules) => rules.bytes(),
            _ => size_of::<Self>(),
        }
    }
}

/// One row of call frame information.
#[derive(Debug)]
pub(super) struct Rules {
    pub cfa: Cfa,
    /// The register that stands for the return address.
    pub return_address: u16,
    /// Those that have a rule.
    pub registers: Box<[(u16, Saved)]>,
    /// The caller was interrupted by a signal.
    pub is_signal: bool,
}

/// How the canonical frame address is found.
#[derive(Debug)]
pub(super) enum Cfa {
    Register { register: u16, offset: i64 },
    Expression(Box<[u8]>),
}

/// Where a register of the caller is.
#[derive(Debug)]
pub(super) enum Saved {
    Undefined,
    Same,
    /// In memory, this far from the canonical frame address.
    AtCfa(i64),
    /// It is the canonical frame address and this.
    Cfa(i64),
    Register(u16),
    /// In memory, where the expression says.
    AtExpression(Box<[u8]>),
    Expression(Box<[u8]>),
}

impl Rules {
    fn bytes(&self) -> usize {
        let expression = |(_, saved): &(u16, Saved)| match saved {
            Saved::AtExpression(bytes) | Saved::Expression(bytes) => bytes.len(),
            _ => 0,
        };
        let cfa = match &self.cfa {
            Cfa::Expression(bytes) => bytes.len(),
            Cfa::Register { .. } => 0,
        };
        let expressions: usize = self.registers.iter().map(expression).sum();
        size_of::<Step>() + size_of_val(&*self.registers) + cfa + expressions
    }

    fn rule(&self, register: u16) -> Option<&Saved> {
        let mut rules = self.registers.iter();
        rules.find_map(|(of, saved)| (*of == register).then_some(saved))
    }

    /// The caller of a frame.
    ///
    /// # Errors
    /// [`Stop::Whole`] where it has none.
    pub(super) fn apply(&self, frame: &Frame<'_>) -> Result<Caller, Stop> {
        let return_address = match self.rule(self.return_address) {
            Some(Saved::Undefined) => return Err(Stop::Whole),
            Some(saved) => saved,
            // What calls with a link register may leave it there; nothing else may.
            None if frame.machine.link_register() == Some(self.return_address) => &Saved::Same,
            None => return Err(Stop::Unsupported),
        };
        let cfa = self.canonical_frame_address(frame)?;
        let address = value(return_address, self.return_address, frame, cfa)?;
        let mut registers = frame.registers.clone();
        registers.keep(frame.machine.preserved());
        registers.set(frame.machine.stack_pointer(), Some(cfa));
        for (register, saved) in &self.registers {
            let is_link = frame.machine.link_register() == Some(*register);
            if is_link && !self.is_signal {
                // The caller's own call has overwritten it.
                continue;
            }
            // One that cannot be had only matters if it is asked for.
            registers.set(*register, value(saved, *register, frame, cfa).ok());
        }
        Ok(Caller {
            registers,
            address,
            interrupted: self.is_signal,
        })
    }

    fn canonical_frame_address(&self, frame: &Frame<'_>) -> Result<u64, Stop> {
        match &self.cfa {
            Cfa::Register { register, offset } => {
                let base = frame.registers.get(*register).ok_or(Stop::Unsupported)?;
                Ok(base.wrapping_add_signed(*offset))
            }
            Cfa::Expression(bytes) => evaluate(bytes, frame.context(None)),
        }
    }
}

impl<'a> Frame<'a> {
    fn context(&self, cfa: Option<u64>) -> Context<'a> {
        Context {
            registers: self.registers,
            memory: self.memory,
            cfa,
        }
    }

    pub(super) fn stack_pointer(&self) -> Result<u64, Stop> {
        let register = self.machine.stack_pointer();
        self.registers.get(register).ok_or(Stop::Unsupported)
    }

    fn frame_pointer(&self) -> Result<u64, Stop> {
        let register = self.machine.frame_pointer();
        self.registers.get(register).ok_or(Stop::Unsupported)
    }

    /// Of a frame whose caller continues at `address` with this stack pointer
    /// and the registers that calls preserve.
    fn caller(&self, address: u64, stack_pointer: u64) -> Caller {
        let mut registers = self.registers.clone();
        registers.keep(self.machine.preserved());
        registers.set(self.machine.stack_pointer(), Some(stack_pointer));
        Caller {
            registers,
            address,
            interrupted: false,
        }
    }
}

fn value(saved: &Saved, register: u16, frame: &Frame<'_>, cfa: u64) -> Result<u64, Stop> {
    let in_register = |register| frame.registers.get(register).ok_or(Stop::Unsupported);
    match saved {
        Saved::Undefined => Err(Stop::Unsupported),
        Saved::Same => in_register(register),
        Saved::AtCfa(offset) => {
            let address = cfa.wrapping_add_signed(*offset);
            let popped = address < frame.stack_pointer()?;
            match popped && register != frame.machine.program_counter() {
                // It has been taken off the stack, which compilers do not say
                // of an epilogue's registers.
                true => in_register(register),
                false => frame.memory.word(address),
            }
        }
        Saved::Cfa(offset) => Ok(cfa.wrapping_add_signed(*offset)),
        Saved::Register(other) => in_register(*other),
        Saved::AtExpression(bytes) => frame
            .memory
            .word(evaluate(bytes, frame.context(Some(cfa)))?),
        Saved::Expression(bytes) => evaluate(bytes, frame.context(Some(cfa))),
    }
}

/// The caller of a frame by a row for the kernel programs: only what these
/// follow is known of it.
///
/// # Errors
/// [`Stop::Whole`] for the outermost frame.
pub(super) fn by_row(rule: &Rule, frame: &Frame<'_>, pc: u64) -> Result<Caller, Stop> {
    let offset = i64::from(rule.cfa_offset);
    let parameter = i64::from(rule.parameter);
    let at = |base: u64| base.wrapping_add_signed(offset);
    let cfa = match rule.cfa {
        cfa::STACK_POINTER => at(frame.stack_pointer()?),
        cfa::FRAME_POINTER => at(frame.frame_pointer()?),
        cfa::AT_STACK_POINTER => {
            let word = frame.memory.word(at(frame.stack_pointer()?))?;
            word.wrapping_add_signed(parameter)
        }
        cfa::AT_FRAME_POINTER => {
            let word = frame.memory.word(at(frame.frame_pointer()?))?;
            word.wrapping_add_signed(parameter)
        }
        cfa::REGISTER => {
            let register = u16::try_from(rule.parameter).map_err(|_| Stop::Unsupported)?;
            at(frame.registers.get(register).ok_or(Stop::Unsupported)?)
        }
        cfa::PLT => {
            let pushed = i64::try_from(pc % 16).is_ok_and(|place| place >= parameter);
            at(frame.stack_pointer()?).wrapping_add(if pushed { 8 } else { 0 })
        }
        cfa::SIGNAL => return interrupted(frame, offset),
        cfa::END => return Err(Stop::Whole),
        _ => return Err(Stop::Unsupported),
    };
    let saved = |kind, offset: i16, same: Option<u64>| match kind {
        saved::SAME => same.ok_or(Stop::Unsupported),
        saved::AT_CFA => frame.memory.word(cfa.wrapping_add_signed(offset.into())),
        saved::AT_FRAME_POINTER => {
            let base = frame.frame_pointer()?;
            frame.memory.word(base.wrapping_add_signed(offset.into()))
        }
        saved::LINK_REGISTER => {
            let register = frame.machine.link_register().ok_or(Stop::Unsupported)?;
            frame.registers.get(register).ok_or(Stop::Unsupported)
        }
        _ => Err(Stop::Unsupported),
    };
    if rule.return_address == saved::UNDEFINED {
        return Err(Stop::Whole);
    }
    let address = saved(rule.return_address, rule.return_address_offset, None)?;
    let frame_pointer = saved(
        rule.frame_pointer,
        rule.frame_pointer_offset,
        frame.frame_pointer().ok(),
    );
    let mut caller = frame.caller(address, cfa);
    caller.registers.keep(1 << frame.machine.stack_pointer());
    let register = frame.machine.frame_pointer();
    caller.registers.set(register, frame_pointer.ok());
    Ok(caller)
}

/// The caller of an entry of a procedure linkage table: nothing but the stack
/// pointer and what a call may change has changed.
///
/// # Errors
/// Fails where memory ends.
pub(super) fn by_linkage(pushed: u64, frame: &Frame<'_>) -> Result<Caller, Stop> {
    let cfa = frame.stack_pointer()?.wrapping_add(pushed);
    let address = match frame.machine.link_register() {
        Some(register) => frame.registers.get(register).ok_or(Stop::Unsupported)?,
        None => frame.memory.word(cfa.wrapping_sub(8))?,
    };
    Ok(frame.caller(address, cfa))
}

/// The caller of code that comes back from making a thread.
///
/// # Errors
/// [`Stop::Whole`] in the new thread, whose result is 0.
pub(super) fn by_clone(frame: &Frame<'_>) -> Result<Caller, Stop> {
    match frame.registers.get(0) {
        Some(0) => Err(Stop::Whole),
        Some(_) if frame.machine == Machine::Aarch64 => by_linkage(0, frame),
        Some(_) => by_linkage(8, frame),
        None => Err(Stop::Unsupported),
    }
}

/// The caller of a frame of which nothing is known but that it may keep the
/// caller's frame pointer and, above it, the return address where the frame
/// pointer shows. The caller's address has yet to be believed.
///
/// # Errors
/// [`Stop::FramePointers`] where the frame pointer is 0, by convention the end;
/// [`Stop::NoRule`] where it shows no frame.
pub(super) fn by_frame_pointer(frame: &Frame<'_>) -> Result<Caller, Stop> {
    /// Farther up is no frame of a stack: by default it has 8 MiB.
    const MAX_STACK: u64 = 8 << 20;
    let frame_pointer = frame.frame_pointer()?;
    let stack_pointer = frame.stack_pointer()?;
    let above = frame_pointer.checked_sub(stack_pointer);
    match above {
        _ if frame_pointer == 0 => return Err(Stop::FramePointers),
        Some(above) if above <= MAX_STACK && frame_pointer.is_multiple_of(8) => {}
        _ => return Err(Stop::NoRule),
    }
    let saved = frame.memory.word(frame_pointer)?;
    let address = frame.memory.word(frame_pointer.wrapping_add(8))?;
    let mut caller = frame.caller(address, frame_pointer.wrapping_add(16));
    let register = frame.machine.frame_pointer();
    caller.registers.set(register, Some(saved));
    Ok(caller)
}

/// What a signal has interrupted: all registers, from the `ucontext` that is
/// `offset` bytes above the stack pointer.
///
/// # Errors
/// Fails where memory ends.
pub(super) fn interrupted(frame: &Frame<'_>, offset: i64) -> Result<Caller, Stop> {
    /// DWARF numbers in the order of `gregs` (sys/ucontext.h): r8 to r15, rdi,
    /// rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    const X86_64: [u16; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];
    /// Of `uc_mcontext.gregs`, and of `uc_mcontext.regs`, which the program
    /// counter and nothing else follows.
    const REGISTERS_AT: [u64; 2] = [40, 184];
    let context = frame.stack_pointer()?.wrapping_add_signed(offset);
    let [x86_64, aarch64] = REGISTERS_AT.map(|at| context.wrapping_add(at));
    let mut registers = frame.registers.clone();
    let mut restore = |register, base: u64, index: u16| {
        let word = frame.memory.word(base.wrapping_add(u64::from(index) * 8))?;
        registers.set(register, Some(word));
        Ok::<_, Stop>(())
    };
    match frame.machine {
        Machine::X86_64 => {
            for (register, index) in X86_64.into_iter().zip(0..) {
                restore(register, x86_64, index)?;
            }
        }
        Machine::Aarch64 => {
            for register in 0..=frame.machine.program_counter() {
                restore(register, aarch64, register)?;
            }
        }
    }
    let address = registers.get(frame.machine.program_counter());
    Ok(Caller {
        address: address.ok_or(Stop::Unsupported)?,
        registers,
        interrupted: true,
    })
}

/// From the stack pointer of a signal's trampoline to the `ucontext`: on
/// x86-64 the return address that stood before it has been popped, on aarch64 a
/// `siginfo` of 128 bytes comes first (`struct rt_sigframe` in the kernel).
pub(super) const fn context_offset(machine: Machine) -> i64 {
    match machine {
        Machine::X86_64 => 0,
        Machine::Aarch64 => 128,
    }
}
