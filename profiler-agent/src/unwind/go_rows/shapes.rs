//! Rules of Go's frames, by how far the stack pointer is below the caller's.

use profiler_abi::unwind::{Rule, cfa, saved};

use crate::unwind::elf::Machine;

/// The rules that can hold where a function's stack delta is known.
#[derive(Debug)]
pub(super) struct Shapes {
    /// Before it has made a frame, and when it is gone.
    pub(super) outside: Rule,
    /// The frame is there, the caller's frame pointer still in its register.
    pub(super) unsaved: Rule,
    /// The frame is there, and the caller's frame pointer in it.
    pub(super) saved: Rule,
    /// As `saved`, but the stack pointer may be anywhere.
    pub(super) switched: Rule,
    /// The frame is there, and what became of the frame pointer is not known.
    pub(super) lost: Option<Rule>,
}

impl Shapes {
    /// None where a number does not fit a rule.
    pub(super) fn of(machine: Machine, delta: i64) -> Option<Self> {
        match machine {
            Machine::X86_64 => Self::x86_64(delta),
            Machine::Aarch64 => Self::aarch64(delta),
        }
    }

    /// The return address is above the frame, the frame pointer below it.
    fn x86_64(delta: i64) -> Option<Self> {
        let unsaved = Rule {
            cfa: cfa::STACK_POINTER,
            cfa_offset: delta.checked_add(8)?.try_into().ok()?,
            return_address: saved::AT_CFA,
            return_address_offset: -8,
            frame_pointer: saved::SAME,
            ..Rule::default()
        };
        let saved = Rule {
            frame_pointer: saved::AT_CFA,
            frame_pointer_offset: -16,
            ..unsaved
        };
        Some(Self {
            outside: unsaved,
            unsaved,
            saved,
            // It points at where the caller's is saved.
            switched: Rule {
                cfa: cfa::FRAME_POINTER,
                parameter: cfa::SWITCHED,
                cfa_offset: 16,
                ..saved
            },
            // Who does not save it may change it.
            lost: Some(Rule {
                frame_pointer: saved::UNDEFINED,
                ..unsaved
            }),
        })
    }

    /// The return address is at the stack pointer, the frame pointer below it.
    fn aarch64(delta: i64) -> Option<Self> {
        let outside = Rule {
            cfa: cfa::STACK_POINTER,
            return_address: saved::LINK_REGISTER,
            frame_pointer: saved::SAME,
            ..Rule::default()
        };
        let unsaved = Rule {
            cfa_offset: delta.try_into().ok()?,
            return_address: saved::AT_CFA,
            return_address_offset: delta.checked_neg()?.try_into().ok()?,
            ..outside
        };
        let below = delta.checked_neg()?.checked_sub(8)?;
        let saved = Rule {
            frame_pointer: saved::AT_CFA,
            frame_pointer_offset: below.try_into().ok()?,
            ..unsaved
        };
        Some(Self {
            outside,
            unsaved,
            saved,
            switched: Rule {
                cfa: cfa::FRAME_POINTER,
                parameter: cfa::SWITCHED,
                cfa_offset: delta.checked_add(8)?.try_into().ok()?,
                ..saved
            },
            // Without its prologue, where the return address is is not known either.
            lost: None,
        })
    }
}
