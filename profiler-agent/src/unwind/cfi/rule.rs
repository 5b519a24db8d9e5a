//! From what call frame instructions say to a rule that the kernel programs follow.

use profiler_abi::unwind::{Rule, cfa, saved};

use super::state::{Cfa, Registers, Saved, State};
use crate::unwind::{elf::Machine, table::Unsupported};

/// The rule of an outermost frame.
pub(in crate::unwind) const END: Rule = Rule {
    cfa: cfa::END,
    frame_pointer: saved::UNDEFINED,
    return_address: saved::UNDEFINED,
    runtime: 0,
    cfa_offset: 0,
    frame_pointer_offset: 0,
    return_address_offset: 0,
    parameter: 0,
};

/// The rule of a signal trampoline with the `ucontext` at stack pointer + offset.
pub(in crate::unwind) const fn signal(offset: i32) -> Rule {
    Rule {
        cfa: cfa::SIGNAL,
        cfa_offset: offset,
        ..END
    }
}

/// Where registers are in the `ucontext` of x86-64 (asm/sigcontext.h).
mod ucontext {
    pub(super) const RBP: i64 = 120;
    pub(super) const RSP: i64 = 160;
    pub(super) const RIP: i64 = 168;
}

/// A rule, and whether the caller's frame pointer is lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Converted {
    pub(super) rule: Rule,
    pub(super) frame_pointer_lost: bool,
}

/// The rule for a state. `is_signal`: its function is a signal trampoline.
///
/// # Errors
/// Says why no rule can express it.
pub(super) fn convert(
    state: &State,
    machine: Machine,
    is_signal: bool,
) -> Result<Converted, Unsupported> {
    let certain = |rule| Converted {
        rule,
        frame_pointer_lost: false,
    };
    if let Some(rule) = signal_rule(state, machine, is_signal) {
        return Ok(certain(rule));
    }
    if state.return_address == Saved::Undefined {
        return Ok(certain(END));
    }
    let registers = Registers::of(machine);
    let mut rule = frame_address(state.cfa, registers)?;
    let (place, offset) = return_address(state, machine)?;
    rule.return_address = place;
    rule.return_address_offset = narrow(offset)?;
    // By default and by the ABI the frame address is the caller's stack pointer.
    if !matches!(state.stack_pointer, Saved::Default | Saved::Value(0)) {
        return Err(Unsupported::StackPointer);
    }
    let place = frame_pointer(state, registers);
    let place = place.and_then(|(place, offset)| Some((place, i16::try_from(offset).ok()?)));
    (rule.frame_pointer, rule.frame_pointer_offset) = place.unwrap_or((saved::UNDEFINED, 0));
    Ok(Converted {
        rule,
        frame_pointer_lost: place.is_none(),
    })
}

/// glibc describes its `__restore_rt` by where each register stands in the
/// `ucontext` that the stack pointer points at.
fn signal_rule(state: &State, machine: Machine, is_signal: bool) -> Option<Rule> {
    let registers = Registers::of(machine);
    let Cfa::At {
        register,
        offset,
        plus: 0,
    } = state.cfa
    else {
        return None;
    };
    let context = offset.checked_sub(ucontext::RSP)?;
    let at = |place: i64| Saved::At {
        register,
        offset: context.saturating_add(place),
    };
    let is_context = machine == Machine::X86_64
        && register == registers.stack_pointer
        && state.return_address == at(ucontext::RIP)
        && state.frame_pointer == at(ucontext::RBP);
    (is_signal && is_context).then_some(signal(context.try_into().ok()?))
}

fn frame_address(address: Cfa, registers: Registers) -> Result<Rule, Unsupported> {
    let is_stack = |register| register == registers.stack_pointer;
    let is_frame = |register| register == registers.frame_pointer;
    let (kind, offset, parameter) = match address {
        Cfa::Register { register, offset } if is_stack(register) => (cfa::STACK_POINTER, offset, 0),
        Cfa::Register { register, offset } if is_frame(register) => (cfa::FRAME_POINTER, offset, 0),
        Cfa::Register { register, offset } => (cfa::REGISTER, offset, register.into()),
        Cfa::At {
            register,
            offset,
            plus,
        } if is_stack(register) => (cfa::AT_STACK_POINTER, offset, plus),
        Cfa::At {
            register,
            offset,
            plus,
        } if is_frame(register) => (cfa::AT_FRAME_POINTER, offset, plus),
        Cfa::Plt { offset, threshold } => (cfa::PLT, offset, signed(threshold)?),
        Cfa::At { .. } | Cfa::Unknown => return Err(Unsupported::FrameAddress),
    };
    Ok(Rule {
        cfa: kind,
        cfa_offset: narrow(offset)?,
        parameter: narrow(parameter)?,
        ..Rule::default()
    })
}

fn return_address(state: &State, machine: Machine) -> Result<(u8, i64), Unsupported> {
    let at_cfa = |offset| Ok((saved::AT_CFA, offset));
    match (machine, state.return_address, state.cfa) {
        (Machine::X86_64, Saved::Offset(-8), _) => at_cfa(-8),
        (
            Machine::X86_64,
            Saved::At { register, offset },
            Cfa::Register {
                register: base,
                offset: size,
            },
        ) if register == base && offset.checked_add(8) == Some(size) => at_cfa(-8),
        (Machine::Aarch64, Saved::Offset(offset), _) => at_cfa(offset),
        (Machine::Aarch64, Saved::Default | Saved::Same, _) => Ok((saved::LINK_REGISTER, 0)),
        _ => Err(Unsupported::ReturnAddress),
    }
}

/// Where the caller's frame pointer is, if it can be said.
fn frame_pointer(state: &State, registers: Registers) -> Option<(u8, i64)> {
    match (state.frame_pointer, state.cfa) {
        (Saved::Default | Saved::Same, _) => Some((saved::SAME, 0)),
        (Saved::Undefined, _) => Some((saved::UNDEFINED, 0)),
        (Saved::Offset(offset), _) => Some((saved::AT_CFA, offset)),
        (Saved::At { register, offset }, _) if register == registers.frame_pointer => {
            Some((saved::AT_FRAME_POINTER, offset))
        }
        (
            Saved::At { register, offset },
            Cfa::Register {
                register: base,
                offset: size,
            },
        ) if register == base => Some((saved::AT_CFA, offset.checked_sub(size)?)),
        _ => None,
    }
}

fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, Unsupported> {
    value.try_into().map_err(|_| Unsupported::Range)
}

fn signed(value: u64) -> Result<i64, Unsupported> {
    value.try_into().map_err(|_| Unsupported::Range)
}
