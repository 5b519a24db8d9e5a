//! Compares a table with what gimli computes for every row of a file: both
//! unwind the same made-up registers and memory, and must come to the same
//! frame address, return address and frame pointer.

use std::{collections::BTreeMap, error::Error};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, EndianSlice, EvaluationResult,
    LittleEndian, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection,
    UnwindTableRow, Value,
};
use profiler_abi::unwind::{Rule, cfa, saved};
use profiler_agent::unwind::{
    elf::{ElfImage, Machine, ReadAt},
    table::Table,
};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// What a comparison saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Comparison {
    /// Rows of gimli's that were compared.
    pub rows: u64,
    /// Of these, rows that the table says it cannot follow.
    pub unsupported: u64,
    /// Of these, rows of which the table says that the frame pointer is lost.
    pub frame_pointers_lost: u64,
    /// Functions left out because an earlier one has some of their addresses.
    pub overlapping: u64,
    /// Rows of the table in no function of the file's call frame information.
    pub others: u64,
    /// What differs; the first few.
    pub differences: Vec<String>,
    /// How much differs.
    pub different: u64,
}

/// The frame address, return address and frame pointer of the caller; the
/// return address is none in an outermost frame, the frame pointer where lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Caller {
    cfa: u64,
    return_address: u64,
    frame_pointer: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Caller(Caller),
    End,
    Unknown,
}

/// A register's made-up value.
fn register(number: u16) -> u64 {
    0x7000_0000_0000 + u64::from(number) * 0x0123_4560
}

/// The made-up 8 bytes at an address.
fn memory(address: u64) -> u64 {
    let mixed = (address ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}

/// Compares all rows of a file with its table.
///
/// # Errors
/// Fails where the file cannot be read.
pub(crate) fn compare(file: &dyn ReadAt, table: &Table) -> Result<Comparison, Box<dyn Error>> {
    let image = ElfImage::read(file)?;
    let mut walk = Walk {
        table: table.rows().collect(),
        machine: image.machine,
        seen: BTreeMap::new(),
        is_go: false,
        result: Comparison::default(),
    };
    let address = |name| image.section(name).map_or(0, |s| s.address);
    let bases = BaseAddresses::default()
        .set_text(address(".text"))
        .set_got(address(".got"));
    if let Some(place) = image.eh_frame(file) {
        let mut bytes = vec![0; place.size as usize];
        file.read_exact_at(&mut bytes, place.offset)?;
        let section = EhFrame::new(&bytes, LittleEndian);
        walk.section(&section, &bases.clone().set_eh_frame(place.address), &image);
    }
    if let Some(section) = image.section(".debug_frame") {
        let bytes = image.contents(file, section, 1 << 30)?;
        walk.is_go = image.section(".go.buildinfo").is_some();
        walk.section(&DebugFrame::new(&bytes, LittleEndian), &bases, &image);
    }
    walk.count_others();
    Ok(walk.result)
}

struct Walk {
    table: Vec<(u64, Option<Rule>)>,
    machine: Machine,
    /// Go's `.debug_frame` says nothing of the frame pointer, and does not know
    /// where stacks are switched.
    is_go: bool,
    /// End by start of functions that were compared.
    seen: BTreeMap<u64, u64>,
    result: Comparison,
}

impl Walk {
    fn section<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        image: &ElfImage,
    ) {
        let mut context = UnwindContext::new();
        let mut entries = section.entries(bases);
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else {
                continue;
            };
            let Ok(function) = partial.parse(S::cie_from_offset) else {
                continue;
            };
            let (start, end) = (function.initial_address(), function.end_address());
            if start >= end || start == 0 || !image.is_code(start) || !image.is_code(end - 1) {
                continue;
            }
            let before = self.seen.range(..end).next_back();
            if before.is_some_and(|(_, earlier)| *earlier > start) {
                self.result.overlapping += 1;
                continue;
            }
            self.seen.insert(start, end);
            let Ok(mut rows) = function.rows(section, bases, &mut context) else {
                continue;
            };
            while let Ok(Some(row)) = rows.next_row() {
                let range = row.start_address()..row.end_address().min(end);
                if range.start < range.end {
                    self.row(section, row, range);
                }
            }
        }
    }

    fn row<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        section: &S,
        row: &UnwindTableRow<usize>,
        range: std::ops::Range<u64>,
    ) {
        self.result.rows += 1;
        let first = self
            .table
            .partition_point(|(address, _)| *address <= range.start);
        let rows = self.table[first.saturating_sub(1)..].iter();
        let rows: Vec<_> = rows
            .copied()
            .take_while(|(address, _)| *address < range.end)
            .collect();
        for (address, rule) in rows {
            // What a linkage table's entry does depends on the place in it.
            for pc in [address.max(range.start), range.end - 1] {
                let expected = self.by_gimli(section, row, pc);
                let got = rule.map(|rule| self.by_rule(rule, pc));
                self.judge(pc, expected, got, rule, row);
            }
        }
    }

    fn judge(
        &mut self,
        pc: u64,
        expected: Outcome,
        got: Option<Outcome>,
        rule: Option<Rule>,
        row: &UnwindTableRow<usize>,
    ) {
        let same = match (expected, got) {
            (_, Some(Outcome::Unknown)) => {
                self.result.unsupported += 1;
                true
            }
            (_, Some(_)) if self.is_go && rule.is_some_and(|r| r.cfa != cfa::STACK_POINTER) => true,
            // To Go a signal handler has no caller.
            (Outcome::End, Some(Outcome::Caller(_))) if self.is_go => true,
            (Outcome::Caller(expected), Some(Outcome::Caller(got))) if self.is_go => {
                (expected.cfa, expected.return_address) == (got.cfa, got.return_address)
            }
            (Outcome::Caller(expected), Some(Outcome::Caller(got))) => {
                let lost = got.frame_pointer.is_none() && expected.frame_pointer.is_some();
                self.result.frame_pointers_lost += u64::from(lost);
                let frame_pointer = if lost { None } else { expected.frame_pointer };
                got == Caller {
                    frame_pointer,
                    ..expected
                }
            }
            (expected, got) => Some(expected) == got,
        };
        if !same {
            self.result.different += 1;
            if self.result.differences.len() < 10 {
                self.result.differences.push(format!(
                    "{pc:#x}: {expected:x?} by {row:?}, {got:x?} by {rule:?}"
                ));
            }
        }
    }

    /// What gimli says of an address.
    fn by_gimli<'a, S: UnwindSection<Bytes<'a>>>(
        &self,
        section: &S,
        row: &UnwindTableRow<usize>,
        pc: u64,
    ) -> Outcome {
        let (fp, ra) = match self.machine {
            Machine::X86_64 => (Register(6), Register(16)),
            Machine::Aarch64 => (Register(29), Register(30)),
        };
        if matches!(row.register(ra), Some(RegisterRule::Undefined)) {
            return Outcome::End;
        }
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset {
                register: number,
                offset,
            } => Some(register(number.0).wrapping_add_signed(*offset)),
            CfaRule::Expression(expression) => evaluate(*expression, section, None, ra, pc),
        };
        let Some(cfa) = cfa else {
            return Outcome::Unknown;
        };
        let value = |number: Register| match row.register(number) {
            None | Some(RegisterRule::SameValue) => Some(register(number.0)),
            Some(RegisterRule::Undefined) => None,
            Some(RegisterRule::Offset(offset)) => Some(memory(cfa.wrapping_add_signed(offset))),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::Register(other)) => Some(register(other.0)),
            Some(RegisterRule::Expression(expression)) => {
                evaluate(expression, section, Some(cfa), ra, pc).map(memory)
            }
            Some(RegisterRule::ValExpression(expression)) => {
                evaluate(expression, section, Some(cfa), ra, pc)
            }
            Some(RegisterRule::Constant(value)) => Some(value),
            Some(_) => None,
        };
        match value(ra) {
            Some(return_address) => Outcome::Caller(Caller {
                cfa,
                return_address,
                frame_pointer: value(fp),
            }),
            None => Outcome::Unknown,
        }
    }

    /// What the kernel programs make of a rule.
    fn by_rule(&self, rule: Rule, pc: u64) -> Outcome {
        let (sp, fp, lr) = match self.machine {
            Machine::X86_64 => (register(7), register(6), register(16)),
            Machine::Aarch64 => (register(31), register(29), register(30)),
        };
        let plus = |base: u64| base.wrapping_add_signed(rule.cfa_offset.into());
        let parameter = i64::from(rule.parameter);
        let cfa = match rule.cfa {
            cfa::STACK_POINTER => plus(sp),
            cfa::FRAME_POINTER => plus(fp),
            cfa::AT_STACK_POINTER => memory(plus(sp)).wrapping_add_signed(parameter),
            cfa::AT_FRAME_POINTER => memory(plus(fp)).wrapping_add_signed(parameter),
            cfa::REGISTER => plus(register(rule.parameter as u16)),
            cfa::PLT if (pc % 16) as i64 >= parameter => plus(sp) + 8,
            cfa::PLT => plus(sp),
            cfa::SIGNAL => {
                return Outcome::Caller(Caller {
                    cfa: memory(plus(sp) + 160),
                    return_address: memory(plus(sp) + 168),
                    frame_pointer: Some(memory(plus(sp) + 120)),
                });
            }
            cfa::END => return Outcome::End,
            _ => return Outcome::Unknown,
        };
        let value = |kind: u8, offset: i16, same: u64| match kind {
            saved::SAME => Some(same),
            saved::LINK_REGISTER => Some(lr),
            saved::AT_CFA => Some(memory(cfa.wrapping_add_signed(offset.into()))),
            saved::AT_FRAME_POINTER => Some(memory(fp.wrapping_add_signed(offset.into()))),
            _ => None,
        };
        match value(rule.return_address, rule.return_address_offset, lr) {
            Some(return_address) => Outcome::Caller(Caller {
                cfa,
                return_address,
                frame_pointer: value(rule.frame_pointer, rule.frame_pointer_offset, fp),
            }),
            None => Outcome::Unknown,
        }
    }

    fn count_others(&mut self) {
        for (address, rule) in &self.table {
            let function = self.seen.range(..=address).next_back();
            if rule.is_some() && function.is_none_or(|(_, end)| end <= address) {
                self.result.others += 1;
            }
        }
    }
}

/// The value of an expression; `initial` is what stands on its stack at first.
fn evaluate<'a, S: UnwindSection<Bytes<'a>>>(
    expression: UnwindExpression<usize>,
    section: &S,
    initial: Option<u64>,
    return_address: Register,
    pc: u64,
) -> Option<u64> {
    let encoding = gimli::Encoding {
        format: gimli::Format::Dwarf32,
        version: 4,
        address_size: 8,
    };
    let mut evaluation = expression.get(section).ok()?.evaluation(encoding);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut result = evaluation.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister {
                register: number, ..
            } => {
                let value = match number == return_address {
                    true => pc,
                    false => register(number.0),
                };
                evaluation
                    .resume_with_register(Value::Generic(value))
                    .ok()?
            }
            EvaluationResult::RequiresMemory { address, .. } => evaluation
                .resume_with_memory(Value::Generic(memory(address)))
                .ok()?,
            _ => return None,
        };
    }
    match evaluation.as_result().first()?.location {
        gimli::Location::Address { address } => Some(address),
        _ => None,
    }
}
