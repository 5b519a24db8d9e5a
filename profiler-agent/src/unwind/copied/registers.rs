//! The registers of a frame, as far as they are known.

use profiler_abi::REGISTERS;

use crate::unwind::elf::Machine;

/// Numbers of registers are those that DWARF gives them: figure 3.36 of the
/// System V ABI for x86-64, table 4.1 of "DWARF for the Arm 64-bit Architecture".
impl Machine {
    /// That of this program.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// Of the stack pointer.
    pub(super) const fn stack_pointer(self) -> u16 {
        match self {
            Self::X86_64 => 7,
            Self::Aarch64 => 31,
        }
    }

    /// Of the frame pointer.
    pub(super) const fn frame_pointer(self) -> u16 {
        match self {
            Self::X86_64 => 6,
            Self::Aarch64 => 29,
        }
    }

    /// Of the program counter.
    pub(super) const fn program_counter(self) -> u16 {
        match self {
            Self::X86_64 => 16,
            Self::Aarch64 => 32,
        }
    }

    /// Of the register that a call leaves the return address in.
    pub(super) const fn link_register(self) -> Option<u16> {
        match self {
            Self::X86_64 => None,
            Self::Aarch64 => Some(30),
        }
    }

    /// Bit `n`: a function leaves register `n` as it was, by the calling
    /// convention: rbx, rbp, r12 to r15; x19 to x29.
    pub(super) const fn preserved(self) -> u64 {
        match self {
            Self::X86_64 => 1 << 3 | 1 << 6 | 0xf << 12,
            Self::Aarch64 => 0x7ff << 19,
        }
    }

    /// Bit `n`: register `n` exists.
    pub(super) const fn all(self) -> u64 {
        (1 << (self.program_counter() + 1)) - 1
    }

    /// A return address without the signature that pointer authentication puts
    /// into its upper bits. User space has addresses of 48 bits, but for those
    /// that ask for more.
    pub(super) const fn strip(self, address: u64) -> u64 {
        match self {
            Self::X86_64 => address,
            Self::Aarch64 => address & ((1 << 48) - 1),
        }
    }
}

/// Registers of one frame. What a call may have changed is not known in the
/// caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    values: [u64; REGISTERS],
    known: u64,
}

impl Registers {
    /// Those of a record: see `profiler_abi::StackCopy`.
    pub fn new(values: &[u64; REGISTERS], known: u64) -> Self {
        Self {
            values: *values,
            known: known & ((1 << REGISTERS) - 1),
        }
    }

    /// Whether all that this machine has are known.
    pub fn are_known(&self) -> bool {
        self.all_known(Machine::NATIVE)
    }

    pub(super) fn get(&self, register: u16) -> Option<u64> {
        let is_known = self.known.checked_shr(register.into())? & 1 == 1;
        is_known
            .then(|| self.values.get(usize::from(register)).copied())
            .flatten()
    }

    /// Makes a register known or, with `None`, unknown.
    pub(super) fn set(&mut self, register: u16, value: Option<u64>) {
        let Some(place) = self.values.get_mut(usize::from(register)) else {
            return;
        };
        let bit = 1u64 << register;
        match value {
            Some(value) => {
                *place = value;
                self.known |= bit;
            }
            None => self.known &= !bit,
        }
    }

    /// Leaves only those known whose bit is in `mask`.
    pub(super) fn keep(&mut self, mask: u64) {
        self.known &= mask;
    }

    /// Whether all that exist are known: nothing has been called since a leaf
    /// or since a signal interrupted the frame.
    pub(super) fn all_known(&self, machine: Machine) -> bool {
        self.known & machine.all() == machine.all()
    }
}
