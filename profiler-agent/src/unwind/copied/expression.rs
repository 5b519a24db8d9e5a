//! DWARF expressions, by gimli's evaluation.

use gimli::{
    EndianSlice, Evaluation, EvaluationResult, EvaluationStorage, LittleEndian, Location, Piece,
    Reader, Value,
};

use super::{Stop, memory::Memory, registers::Registers};

/// Longest expression that is followed. The C library's for signal frames take
/// 4 bytes, those of procedure linkage tables 11.
pub(super) const MAX_EXPRESSION: usize = 256;

/// Most operations, because an expression may branch backwards.
const MAX_OPERATIONS: u32 = 1000;

/// Of addresses: all 64 bits.
const ADDRESS_MASK: u64 = u64::MAX;

const ENCODING: gimli::Encoding = gimli::Encoding {
    address_size: 8,
    format: gimli::Format::Dwarf32,
    version: 4,
};

/// What an expression can refer to.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub registers: &'a Registers,
    pub memory: Memory<'a>,
    /// Where it is known already: in expressions for registers.
    pub cfa: Option<u64>,
}

/// Bounds of an evaluation's memory.
struct Storage;

impl<R: Reader> EvaluationStorage<R> for Storage {
    type Stack = [Value; 64];
    type ExpressionStack = [(R, R); 1];
    type Result = [Piece<R>; 1];
}

/// The value of an expression. It begins with `cfa` on its stack where that is known.
///
/// # Errors
/// [`Stop::Unsupported`] for one that is broken or needs what is not known,
/// else where memory ends.
pub(super) fn evaluate(bytes: &[u8], context: Context<'_>) -> Result<u64, Stop> {
    let code = EndianSlice::new(bytes, LittleEndian);
    let mut evaluation: Evaluation<_, Storage> = Evaluation::new_in(code, ENCODING);
    evaluation.set_max_iterations(MAX_OPERATIONS);
    if let Some(cfa) = context.cfa {
        evaluation.set_initial_value(cfa);
    }
    let mut state = evaluation.evaluate();
    loop {
        state = match state.map_err(|_| Stop::Unsupported)? {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory {
                address,
                size,
                space: None,
                ..
            } => {
                let number = context.memory.number(address, size.into())?;
                evaluation.resume_with_memory(Value::Generic(number))
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = context.registers.get(register.0);
                let value = value.ok_or(Stop::Unsupported)?;
                evaluation.resume_with_register(Value::Generic(value))
            }
            EvaluationResult::RequiresCallFrameCfa => {
                evaluation.resume_with_call_frame_cfa(context.cfa.ok_or(Stop::Unsupported)?)
            }
            _ => return Err(Stop::Unsupported),
        };
    }
    match evaluation.as_result() {
        [
            Piece {
                location: Location::Address { address },
                size_in_bits: None,
                ..
            },
        ] => Ok(*address),
        [
            Piece {
                location: Location::Value { value },
                size_in_bits: None,
                ..
            },
        ] => value.to_u64(ADDRESS_MASK).map_err(|_| Stop::Unsupported),
        _ => Err(Stop::Unsupported),
    }
}
