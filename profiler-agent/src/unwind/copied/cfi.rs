//! One row of call frame information, by gimli's evaluation of the one entry
//! that has it.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, Reader, Register, RegisterRule,
    UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow,
};

use super::{
    expression::MAX_EXPRESSION,
    step::{Cfa, Rules, Saved, Step},
};
use crate::unwind::elf::Machine;

/// Largest entry that is evaluated, in bytes. The largest one of Debian's
/// programs (in the evaluation function of an interpreter) takes some thousand.
const MAX_ENTRY: usize = 64 << 10;

/// Most functions of an index. A browser has half as many, and has `.eh_frame_hdr`.
const MAX_FUNCTIONS: usize = 1 << 19;

/// Most entries of all kinds that an index is made from, and most bytes of
/// common entries, each counted as often as it is read.
const MAX_ENTRIES: usize = 2 * MAX_FUNCTIONS;
const MAX_COMMON_BYTES: usize = 64 << 20;

/// A range of addresses and what is known of it.
pub(super) struct Found {
    pub start: u64,
    pub end: u64,
    pub step: Step,
}

/// What may still be done for one stack.
#[derive(Debug)]
pub(super) struct Work {
    /// Bytes of call frame information to evaluate.
    pub bytes: usize,
    /// There was more to do than that.
    pub is_exhausted: bool,
}

impl Default for Work {
    /// Ten times what a stack of 512 frames needs where nothing is known yet.
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            is_exhausted: false,
        }
    }
}

/// Bounds of an evaluation's memory: on aarch64 31 registers and 64 for
/// vectors may have rules; compilers nest states to remember once.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 100];
    type Stack = Box<[UnwindTableRow<usize, Self>; 8]>;
}

/// The row for an address in the entry at an offset of a section, if it is
/// that function's; with it, where the function starts.
///
/// # Errors
/// Fails where the section's bytes do not make sense.
pub(super) fn row<R, S>(
    section: &S,
    bases: &BaseAddresses,
    offset: usize,
    address: u64,
    machine: Machine,
    work: &mut Work,
) -> gimli::Result<(u64, Option<Found>)>
where
    R: Reader<Offset = usize>,
    S: UnwindSection<R>,
{
    let entry = section.fde_from_offset(bases, S::Offset::from(offset), S::cie_from_offset)?;
    let function = entry.initial_address();
    if !entry.contains(address) {
        return Ok((function, None));
    }
    let unsupported = Found {
        start: address,
        end: address.saturating_add(1),
        step: Step::Unsupported,
    };
    let size = entry.entry_len().saturating_add(entry.cie().entry_len());
    if size > MAX_ENTRY {
        return Ok((function, Some(unsupported)));
    }
    let Some(left) = work.bytes.checked_sub(size) else {
        work.is_exhausted = true;
        return Ok((function, Some(unsupported)));
    };
    work.bytes = left;
    let mut context = UnwindContext::<usize, Storage>::new_in();
    let mut rows = entry.rows(section, bases, &mut context)?;
    while let Some(row) = rows.next_row()? {
        if row.contains(address) {
            let is_signal = entry.is_signal_trampoline();
            let step = match is_signal && machine == Machine::Aarch64 {
                // The rules would lead to what called what was interrupted.
                true => Step::SignalReturn,
                false => step(section, row, entry.cie(), is_signal)?,
            };
            let (start, end) = (row.start_address(), row.end_address());
            return Ok((function, Some(Found { start, end, step })));
        }
    }
    Ok((function, Some(unsupported)))
}

fn step<R, S>(
    section: &S,
    row: &UnwindTableRow<usize, Storage>,
    cie: &CommonInformationEntry<R>,
    is_signal: bool,
) -> gimli::Result<Step>
where
    R: Reader<Offset = usize>,
    S: UnwindSection<R>,
{
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Some(Cfa::Register {
            register: register.0,
            offset: *offset,
        }),
        CfaRule::Expression(expression) => copy(section, expression)?.map(Cfa::Expression),
    };
    let Some(cfa) = cfa else {
        return Ok(Step::Unsupported);
    };
    let mut registers = Vec::new();
    for (register, rule) in row.registers() {
        if usize::from(register.0) < profiler_abi::REGISTERS {
            match saved(section, rule)? {
                Some(saved) => registers.push((register.0, saved)),
                None => return Ok(Step::Unsupported),
            }
        }
    }
    Ok(Step::Rules(Rules {
        cfa,
        return_address: cie.return_address_register().0,
        registers: registers.into(),
        is_signal,
    }))
}

fn saved<R, S>(section: &S, rule: &RegisterRule<usize>) -> gimli::Result<Option<Saved>>
where
    R: Reader<Offset = usize>,
    S: UnwindSection<R>,
{
    Ok(Some(match rule {
        RegisterRule::Undefined => Saved::Undefined,
        RegisterRule::SameValue => Saved::Same,
        RegisterRule::Offset(offset) => Saved::AtCfa(*offset),
        RegisterRule::ValOffset(offset) => Saved::Cfa(*offset),
        RegisterRule::Register(register) => Saved::Register(register.0),
        RegisterRule::Expression(expression) => {
            return Ok(copy(section, expression)?.map(Saved::AtExpression));
        }
        RegisterRule::ValExpression(expression) => {
            return Ok(copy(section, expression)?.map(Saved::Expression));
        }
        RegisterRule::Architectural | RegisterRule::Constant(_) => return Ok(None),
    }))
}

/// The bytes of an expression, if it is not too long.
fn copy<R, S>(section: &S, expression: &UnwindExpression<usize>) -> gimli::Result<Option<Box<[u8]>>>
where
    R: Reader<Offset = usize>,
    S: UnwindSection<R>,
{
    if expression.length > MAX_EXPRESSION {
        return Ok(None);
    }
    let bytes = expression.get(section)?.0;
    Ok(Some(bytes.to_slice()?.into_owned().into()))
}

/// Where each function's entry is, for a section without a search table.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Address that those of `functions` are counted from.
    base: u64,
    /// Address and offset of the entry, sorted by address.
    functions: Vec<(u32, u32)>,
}

impl Index {
    /// Reads the heads of all entries of a section. It ends at the first that
    /// makes no sense, or at a bound: 524,288 functions. Functions below
    /// `base`, the lowest address of code, or 4 GiB above it are left out.
    pub(super) fn build<R, S>(section: &S, bases: &BaseAddresses, base: u64) -> Self
    where
        R: Reader<Offset = usize>,
        S: UnwindSection<R>,
    {
        let mut functions = Vec::new();
        let mut entries = section.entries(bases);
        let mut last_cie: Option<(usize, CommonInformationEntry<R>)> = None;
        let mut common_bytes = 0usize;
        for _ in 0..MAX_ENTRIES {
            let partial = match entries.next() {
                Ok(Some(CieOrFde::Fde(partial))) => partial,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) | Err(_) => break,
            };
            let entry = partial.parse(|section, bases, offset| {
                let at = gimli::UnwindOffset::into(offset);
                match &last_cie {
                    Some((known, cie)) if *known == at => Ok(cie.clone()),
                    _ => {
                        let cie = section.cie_from_offset(bases, offset)?;
                        common_bytes = common_bytes.saturating_add(cie.entry_len());
                        last_cie = Some((at, cie.clone()));
                        Ok(cie)
                    }
                }
            });
            let Ok(entry) = entry else {
                continue;
            };
            let address = entry.initial_address().checked_sub(base);
            let address = address.and_then(|address| u32::try_from(address).ok());
            if let (Some(address), Ok(offset)) = (address, u32::try_from(entry.offset())) {
                functions.push((address, offset));
            }
            if functions.len() >= MAX_FUNCTIONS || common_bytes > MAX_COMMON_BYTES {
                break;
            }
        }
        functions.sort_unstable();
        functions.shrink_to_fit();
        Self { base, functions }
    }

    /// Offset of the entry of the last function that starts at or below an address.
    pub(super) fn find(&self, address: u64) -> Option<usize> {
        let address = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let after = self
            .functions
            .partition_point(|(start, _)| *start <= address);
        let (_, offset) = self.functions.get(after.checked_sub(1)?)?;
        usize::try_from(*offset).ok()
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.functions.capacity() * size_of::<(u32, u32)>()
    }
}
