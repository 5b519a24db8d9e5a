//! What call frame instructions say of one address: the three registers that
//! matter to a walk, and how the frame address is computed (DWARF 5, 6.4.1).

use gimli::{
    CallFrameInstruction, EndianSlice, Expression, LittleEndian, Operation, Register,
    UnwindExpression, UnwindSection,
};

use crate::unwind::elf::Machine;

/// Bytes of a section.
pub(super) type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Most states that `DW_CFA_remember_state` keeps. Compilers need one.
const MAX_REMEMBERED: usize = 64;

/// Most operations of an expression that is understood.
const MAX_OPERATIONS: usize = 9;

/// DWARF numbers of the registers that matter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) stack_pointer: u16,
    pub(super) frame_pointer: u16,
    /// The column of the return address.
    pub(super) return_address: u16,
}

impl Registers {
    /// Of the processor supplements of the System V ABI.
    pub(super) fn of(machine: Machine) -> Self {
        match machine {
            Machine::X86_64 => Self {
                stack_pointer: 7,
                frame_pointer: 6,
                return_address: 16,
            },
            Machine::Aarch64 => Self {
                stack_pointer: 31,
                frame_pointer: 29,
                return_address: 30,
            },
        }
    }
}

/// How the canonical frame address is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Cfa {
    /// Not at all, or in a way that is not understood.
    #[default]
    Unknown,
    /// Register + offset.
    Register { register: u16, offset: i64 },
    /// What stands at register + offset, + plus.
    At {
        register: u16,
        offset: i64,
        plus: i64,
    },
    /// Stack pointer + offset, and 8 more where `pc % 16 >= threshold`.
    Plt { offset: i64, threshold: u64 },
}

/// Where the caller's value of a register is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Saved {
    /// Nothing was said of it.
    #[default]
    Default,
    /// `DW_CFA_undefined`.
    Undefined,
    /// `DW_CFA_same_value`.
    Same,
    /// In memory, at the frame address + offset.
    Offset(i64),
    /// It is the frame address + offset.
    Value(i64),
    /// In memory, at register + offset.
    At { register: u16, offset: i64 },
    /// In another register, or in a way that is not understood.
    Unknown,
}

/// What holds at one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) cfa: Cfa,
    pub(super) frame_pointer: Saved,
    pub(super) return_address: Saved,
    pub(super) stack_pointer: Saved,
}

impl State {
    fn saved(&mut self, register: Register, registers: Registers) -> Option<&mut Saved> {
        match register.0 {
            number if number == registers.frame_pointer => Some(&mut self.frame_pointer),
            number if number == registers.return_address => Some(&mut self.return_address),
            number if number == registers.stack_pointer => Some(&mut self.stack_pointer),
            _ => None,
        }
    }
}

/// The instructions are not valid from here on.
#[derive(Debug)]
pub(super) struct Malformed;

/// What an instruction does to the address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    By(u64),
    To(u64),
}

/// Executes the instructions of an entry.
#[derive(Debug)]
pub(super) struct Program {
    registers: Registers,
    code_factor: u64,
    data_factor: i64,
    /// What the common part says.
    initial: State,
    state: State,
    remembered: Vec<State>,
}

impl Program {
    pub(super) fn new(registers: Registers) -> Self {
        Self {
            registers,
            code_factor: 1,
            data_factor: 1,
            initial: State::default(),
            state: State::default(),
            remembered: Vec::new(),
        }
    }

    /// Begins with a common part that has these factors.
    pub(super) fn reset(&mut self, code_factor: u64, data_factor: i64) {
        self.code_factor = code_factor;
        self.data_factor = data_factor;
        self.initial = State::default();
        self.state = State::default();
        self.remembered.clear();
    }

    /// What was executed until now is the common part.
    pub(super) fn begin_function(&mut self) {
        self.initial = self.state;
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Executes one instruction of `section`.
    pub(super) fn execute<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        instruction: CallFrameInstruction<usize>,
        section: &S,
    ) -> Result<Step, Malformed> {
        use CallFrameInstruction as I;
        match instruction {
            I::SetLoc { address } => return Ok(Step::To(address)),
            I::AdvanceLoc { delta } => {
                let by = u64::from(delta).checked_mul(self.code_factor);
                return by.map(Step::By).ok_or(Malformed);
            }
            I::RememberState if self.remembered.len() < MAX_REMEMBERED => {
                self.remembered.push(self.state);
            }
            I::RememberState => return Err(Malformed),
            I::RestoreState => self.state = self.remembered.pop().ok_or(Malformed)?,
            I::DefCfa { .. }
            | I::DefCfaSf { .. }
            | I::DefCfaRegister { .. }
            | I::DefCfaOffset { .. }
            | I::DefCfaOffsetSf { .. }
            | I::DefCfaExpression { .. } => self.define_cfa(instruction, section)?,
            // How much of the frame is arguments, and whether the return address is
            // signed, does not change where things are.
            I::ArgsSize { .. } | I::NegateRaState | I::Nop => {}
            _ => self.save(instruction, section)?,
        }
        Ok(Step::Stay)
    }

    fn define_cfa<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        instruction: CallFrameInstruction<usize>,
        section: &S,
    ) -> Result<(), Malformed> {
        use CallFrameInstruction as I;
        let cfa = match (instruction, self.state.cfa) {
            (I::DefCfa { register, offset }, _) => Cfa::Register {
                register: register.0,
                offset: signed(offset)?,
            },
            (
                I::DefCfaSf {
                    register,
                    factored_offset,
                },
                _,
            ) => Cfa::Register {
                register: register.0,
                offset: self.unfactored(factored_offset)?,
            },
            (I::DefCfaRegister { register }, Cfa::Register { offset, .. }) => Cfa::Register {
                register: register.0,
                offset,
            },
            (I::DefCfaOffset { offset }, Cfa::Register { register, .. }) => Cfa::Register {
                register,
                offset: signed(offset)?,
            },
            (I::DefCfaOffsetSf { factored_offset }, Cfa::Register { register, .. }) => {
                Cfa::Register {
                    register,
                    offset: self.unfactored(factored_offset)?,
                }
            }
            (I::DefCfaExpression { expression }, _) => self.cfa_by(expression, section),
            // Half a definition without the other half.
            _ => return Err(Malformed),
        };
        self.state.cfa = cfa;
        Ok(())
    }

    fn save<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        instruction: CallFrameInstruction<usize>,
        section: &S,
    ) -> Result<(), Malformed> {
        use CallFrameInstruction as I;
        let (register, saved) = match instruction {
            I::Undefined { register } => (register, Saved::Undefined),
            I::SameValue { register } => (register, Saved::Same),
            I::Offset {
                register,
                factored_offset,
            } => {
                let offset = self.unfactored(signed(factored_offset)?)?;
                (register, Saved::Offset(offset))
            }
            I::OffsetExtendedSf {
                register,
                factored_offset,
            } => (register, Saved::Offset(self.unfactored(factored_offset)?)),
            I::ValOffset {
                register,
                factored_offset,
            } => {
                let offset = self.unfactored(signed(factored_offset)?)?;
                (register, Saved::Value(offset))
            }
            I::ValOffsetSf {
                register,
                factored_offset,
            } => (register, Saved::Value(self.unfactored(factored_offset)?)),
            I::Register { dest_register, .. } => (dest_register, Saved::Unknown),
            I::Expression {
                register,
                expression,
            } => (register, saved_by(expression, section)),
            I::ValExpression { register, .. } => (register, Saved::Unknown),
            I::Restore { register } => {
                let initial = self.initial.saved(register, self.registers).copied();
                (register, initial.unwrap_or_default())
            }
            _ => return Err(Malformed),
        };
        if let Some(place) = self.state.saved(register, self.registers) {
            *place = saved;
        }
        Ok(())
    }

    fn unfactored(&self, offset: i64) -> Result<i64, Malformed> {
        offset.checked_mul(self.data_factor).ok_or(Malformed)
    }

    /// The frame address by an expression: what compilers, linkers and the C
    /// library write. `DW_OP_deref` is of 8 bytes in all of them.
    fn cfa_by<'a, S: UnwindSection<Bytes<'a>>>(
        &self,
        expression: UnwindExpression<usize>,
        section: &S,
    ) -> Cfa {
        use Operation as O;
        let is = |register: Register, number: u16| register.0 == number;
        let Some(operations) = operations(expression, section) else {
            return Cfa::Unknown;
        };
        match *operations.as_slice() {
            [
                O::RegisterOffset {
                    register, offset, ..
                },
            ] => Cfa::Register {
                register: register.0,
                offset,
            },
            [
                O::RegisterOffset {
                    register, offset, ..
                },
                O::Deref { size: 8, .. },
                ref rest @ ..,
            ] => constant(rest).map_or(Cfa::Unknown, |plus| Cfa::At {
                register: register.0,
                offset,
                plus,
            }),
            // Entries of .plt, by GNU ld.
            [
                O::RegisterOffset {
                    register: sp,
                    offset,
                    ..
                },
                O::RegisterOffset {
                    register: pc,
                    offset: 0,
                    ..
                },
                O::UnsignedConstant { value: 15 },
                O::And,
                O::UnsignedConstant { value: threshold },
                O::Ge,
                O::UnsignedConstant { value: 3 },
                O::Shl,
                O::Plus,
            ] if is(sp, self.registers.stack_pointer) && is(pc, self.registers.return_address) => {
                Cfa::Plt { offset, threshold }
            }
            _ => Cfa::Unknown,
        }
    }
}

/// What operations at the end of an expression add to it.
fn constant(operations: &[Operation<Bytes<'_>>]) -> Option<i64> {
    use Operation as O;
    match *operations {
        [] => Some(0),
        [O::PlusConstant { value }] => value.try_into().ok(),
        [O::UnsignedConstant { value }, O::Plus] => value.try_into().ok(),
        [O::SignedConstant { value }, O::Plus] => Some(value),
        [O::UnsignedConstant { value }, O::Minus] => i64::try_from(value).ok()?.checked_neg(),
        [O::SignedConstant { value }, O::Minus] => value.checked_neg(),
        _ => None,
    }
}

/// Where a register is by an expression.
fn saved_by<'a, S: UnwindSection<Bytes<'a>>>(
    expression: UnwindExpression<usize>,
    section: &S,
) -> Saved {
    use Operation as O;
    match operations(expression, section).as_deref() {
        Some(
            [
                O::RegisterOffset {
                    register, offset, ..
                },
                rest @ ..,
            ],
        ) => match constant(rest).and_then(|plus| offset.checked_add(plus)) {
            Some(offset) => Saved::At {
                register: register.0,
                offset,
            },
            None => Saved::Unknown,
        },
        _ => Saved::Unknown,
    }
}

/// The operations of an expression, if they are few.
fn operations<'a, S: UnwindSection<Bytes<'a>>>(
    expression: UnwindExpression<usize>,
    section: &S,
) -> Option<Vec<Operation<Bytes<'a>>>> {
    let Expression(mut bytes) = expression.get(section).ok()?;
    // What matters of it is the size of addresses.
    let encoding = gimli::Encoding {
        format: gimli::Format::Dwarf32,
        version: 4,
        address_size: 8,
    };
    let mut operations = Vec::with_capacity(MAX_OPERATIONS);
    while !bytes.is_empty() {
        if operations.len() == MAX_OPERATIONS {
            return None;
        }
        operations.push(Operation::parse(&mut bytes, encoding).ok()?);
    }
    Some(operations)
}

fn signed(value: u64) -> Result<i64, Malformed> {
    value.try_into().map_err(|_| Malformed)
}
