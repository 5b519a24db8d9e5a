//! Tables of values that hold for ranges of a function's code: differences of
//! values and of addresses, in numbers of variable length.

use std::cell::Cell;

use crate::unwind::elf::ReadAt;

use super::GoNames;

/// Bytes read at a time. Most tables are shorter.
const WINDOW: usize = 256;

/// Most ranges that are looked through for one address, in all tables: as many
/// as functions of a megabyte have. Some milliseconds' work.
pub(super) const MAX_RANGES: usize = 1 << 19;

/// The value that table number `table` has for `address`, in a function that
/// begins at `entry`. Table 0 is none. `left` is how many more ranges may be
/// looked through.
pub(super) fn at(
    go: &GoNames,
    file: &dyn ReadAt,
    table: u32,
    entry: u64,
    address: u64,
    left: &Cell<usize>,
) -> Option<i32> {
    if table == 0 {
        return None;
    }
    let mut numbers = Numbers::new(go, file, go.header.values.checked_add(table.into())?);
    let (mut value, mut end) = (-1i32, entry);
    let mut is_first = true;
    while let Some(ranges) = left.get().checked_sub(1) {
        left.set(ranges);
        let difference = numbers.next()?;
        // A difference of 0 ends the table; the first one may be 0.
        if difference == 0 && !is_first {
            return None;
        }
        is_first = false;
        value = value.wrapping_add(signed(difference));
        let length = u64::from(numbers.next()?).checked_mul(go.header.quantum)?;
        end = end.checked_add(length)?;
        if address < end {
            return Some(value);
        }
    }
    None
}

/// Signed numbers alternate: 0, -1, 1, -2, 2 ...
fn signed(number: u32) -> i32 {
    let half = (number >> 1) as i32;
    if number & 1 == 0 { half } else { !half }
}

/// Numbers of variable length, seven bits in each byte, the lowest first.
struct Numbers<'a> {
    go: &'a GoNames,
    file: &'a dyn ReadAt,
    /// Of the byte behind the window.
    next: u64,
    window: [u8; WINDOW],
    /// Of the window: what is left of it.
    left: std::ops::Range<usize>,
}

impl<'a> Numbers<'a> {
    fn new(go: &'a GoNames, file: &'a dyn ReadAt, at: u64) -> Self {
        Self {
            go,
            file,
            next: at,
            window: [0; WINDOW],
            left: 0..0,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        if self.left.is_empty() {
            let read = self.go.read_some(self.file, self.next, &mut self.window)?;
            self.left = 0..read.len();
            self.next = self.next.checked_add(read.len() as u64)?;
        }
        self.left.next().map(|at| self.window[at])
    }

    fn next(&mut self) -> Option<u32> {
        let mut number = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            number |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        symbols::gopclntab::{
            Module,
            table::{Format, Header},
        },
        unwind::elf::{ElfImage, Place},
    };

    #[test]
    fn all_tables_of_one_address_share_one_budget() {
        let image = ElfImage::read(&std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let file = vec![2; 1 << 12];
        let go = GoNames {
            image,
            table: Place {
                offset: 0,
                address: 0,
                size: file.len() as u64,
            },
            header: Header {
                format: Format::V120,
                quantum: 1,
                count: 1,
                text: 0,
                names: 0,
                units: 0,
                files: 0,
                values: 0,
                functions: 0,
            },
            module: Module::default(),
        };
        // Each range is two bytes of code and one value higher.
        let left = Cell::new(1000);
        let value = |address| at(&go, &file, 1, 0x100, address, &left);
        assert_eq!((value(0x100), left.get()), (Some(0), 999));
        assert_eq!((value(0x100 + 1000), left.get()), (Some(500), 498));
        assert_eq!((value(0x100 + 1000), left.get()), (None, 0));
        assert_eq!(value(0x100), None);
    }

    #[test]
    fn signs_alternate() {
        assert_eq!([0, 1, 2, 3, 4].map(signed), [0, -1, 1, -2, 2]);
        assert_eq!(signed(u32::MAX), i32::MIN);
    }
}
