//! One function after the other, and its table of stack deltas.

use crate::{
    symbols::gopclntab::GoLayout,
    unwind::{
        elf::{Place, ReadAt, u32_at, u64_at},
        window::Window,
    },
};

/// Bytes of a `_func` that are read: up to and with its flags.
const HEAD: usize = 48;

/// Bytes of a delta table that are read at first, and at most. The longest ones
/// are of functions that push often, in assembly.
const TABLE_SIZES: [usize; 2] = [256, 64 << 10];

/// Longest name that is looked at.
const MAX_NAME: usize = 64;

/// Flags of a function (src/internal/abi/symtab.go).
mod flag {
    pub(super) const TOP_FRAME: u8 = 1;
    pub(super) const SP_WRITE: u8 = 2;
}

/// One function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) start: u64,
    /// Where the next one begins.
    pub(super) end: u64,
    /// Its stack begins with it.
    pub(super) is_top: bool,
    /// It sets its stack pointer to what no table can say.
    pub(super) writes_stack_pointer: bool,
    /// Of its name and its table of stack deltas.
    name: u32,
    deltas: u32,
}

/// From `start` on the stack pointer is `value` below the return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) start: u64,
    pub(super) value: i64,
}

/// All of a function's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Deltas {
    pub(super) steps: Vec<Delta>,
    /// One past the last address.
    pub(super) end: u64,
}

/// Functions in the order of their addresses. Ends where the table is damaged.
pub(super) struct Functions<'f> {
    layout: GoLayout,
    list: Window<'f>,
    bodies: Window<'f>,
    index: u64,
}

impl<'f> Functions<'f> {
    pub(super) fn new(file: &'f dyn ReadAt, layout: GoLayout) -> Self {
        Self {
            layout,
            list: Window::new(file, layout.table),
            bodies: Window::new(file, layout.table),
            index: 0,
        }
    }

    /// Address and place of function `index`; behind the last one stands where
    /// its code ends.
    fn entry(&mut self, index: u64) -> Option<(u64, u64)> {
        let word = if self.layout.has_addresses { 8 } else { 4 };
        let at = index.checked_mul(2 * word)?;
        let at = at.checked_add(self.layout.functions)?;
        let bytes = self.list.get(at, 2 * word as usize).ok()??;
        if self.layout.has_addresses {
            return Some((u64_at(bytes, 0), u64_at(bytes, 8)));
        }
        let address = self.layout.text.checked_add(u32_at(bytes, 0).into())?;
        Some((address, u32_at(bytes, 4).into()))
    }

    fn body(&mut self, start: u64, end: u64, place: u64) -> Option<Function> {
        let at = self.layout.functions.checked_add(place)?;
        let bytes = self.bodies.get(at, HEAD).ok()??;
        // Fields of 4 bytes behind the address, flags at the end: before Go
        // 1.20 there is no first line.
        let entry = if self.layout.has_addresses { 8 } else { 4 };
        let flags = match (self.layout.has_addresses, self.layout.has_lines) {
            (true, _) => entry + 33,
            (false, false) => entry + 33,
            (false, true) => entry + 37,
        };
        let flags = bytes.get(flags).copied().unwrap_or_default();
        Some(Function {
            start,
            end,
            is_top: flags & flag::TOP_FRAME != 0,
            writes_stack_pointer: flags & flag::SP_WRITE != 0,
            name: u32_at(bytes, entry),
            deltas: u32_at(bytes, entry + 12),
        })
    }
}

impl Iterator for Functions<'_> {
    type Item = Function;

    fn next(&mut self) -> Option<Function> {
        loop {
            if self.index >= self.layout.count {
                return None;
            }
            let (start, place) = self.entry(self.index)?;
            let (end, _) = self.entry(self.index + 1)?;
            self.index += 1;
            if start < end {
                return self.body(start, end, place);
            }
        }
    }
}

impl Function {
    /// The begin of its name.
    pub(super) fn name(&self, file: &dyn ReadAt, layout: &GoLayout) -> Vec<u8> {
        let mut name = vec![0; MAX_NAME];
        let at = layout.names.saturating_add(self.name.into());
        let size = read_some(file, layout.table, at, &mut name);
        let end = name[..size].iter().position(|byte| *byte == 0);
        name.truncate(end.unwrap_or(size));
        name
    }

    /// Its stack deltas; none where the table is damaged.
    pub(super) fn deltas(&self, file: &dyn ReadAt, layout: &GoLayout) -> Option<Deltas> {
        if self.deltas == 0 {
            // Nothing was noted: it has no frame.
            return Some(Deltas {
                steps: vec![Delta {
                    start: self.start,
                    value: 0,
                }],
                end: self.end,
            });
        }
        let at = layout.values.checked_add(self.deltas.into())?;
        TABLE_SIZES.iter().find_map(|size| {
            let mut bytes = vec![0; *size];
            let size = read_some(file, layout.table, at, &mut bytes);
            decode(bytes.get(..size)?, self.start, self.end, layout.quantum)
        })
    }
}

/// Reads what there is of the table from `at` on, and says how much that is.
fn read_some(file: &dyn ReadAt, table: Place, at: u64, buffer: &mut [u8]) -> usize {
    let left = table.size.saturating_sub(at);
    let size = left.min(buffer.len() as u64) as usize;
    let from = table.offset.saturating_add(at);
    match file.read_exact_at(&mut buffer[..size], from) {
        Ok(()) => size,
        Err(_) => 0,
    }
}

/// Pairs of how much the value and the address grow, each a number of 7 bits a
/// byte; the value's is in zigzag order, and 0 for it is the end, but in the first pair.
fn decode(mut bytes: &[u8], start: u64, end: u64, quantum: u64) -> Option<Deltas> {
    let mut deltas = Deltas {
        steps: Vec::new(),
        end: start,
    };
    let mut value: i64 = -1;
    while deltas.end < end {
        let growth = number(&mut bytes)?;
        if growth == 0 && deltas.end != start {
            break;
        }
        let sign = -i64::from(growth & 1);
        value = value.checked_add(i64::from(growth >> 1) ^ sign)?;
        if value < 0 {
            return None;
        }
        deltas.steps.push(Delta {
            start: deltas.end,
            value,
        });
        let length = u64::from(number(&mut bytes)?).checked_mul(quantum)?;
        if length == 0 {
            return None;
        }
        deltas.end = deltas.end.checked_add(length)?.min(end);
    }
    Some(deltas)
}

/// A number of 7 bits a byte, of at most 32 bits.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let mut value: u32 = 0;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
