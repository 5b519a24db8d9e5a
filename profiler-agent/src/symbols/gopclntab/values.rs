//! Tables of values that hold for ranges of a function's code: differences of
//! values and of addresses, in numbers of variable length.

use crate::unwind::elf::ReadAt;

use super::GoNames;

/// Bytes read at a time. Most tables are shorter.
const WINDOW: usize = 256;

/// Most ranges of one function that are looked through: as many as a function
/// of some megabytes has lines.
const MAX_RANGES: usize = 1 << 18;

/// The value that table number `table` has for `address`, in a function that
/// begins at `entry`. Table 0 is none.
pub(super) fn at(
    go: &GoNames,
    file: &dyn ReadAt,
    table: u32,
    entry: u64,
    address: u64,
) -> Option<i32> {
    if table == 0 {
        return None;
    }
    let mut numbers = Numbers::new(go, file, go.header.values.checked_add(table.into())?);
    let (mut value, mut end) = (-1i32, entry);
    for range in 0..MAX_RANGES {
        let difference = numbers.next()?;
        // A difference of 0 ends the table; the first one may be 0.
        if difference == 0 && range > 0 {
            return None;
        }
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

    #[test]
    fn signs_alternate() {
        assert_eq!([0, 1, 2, 3, 4].map(signed), [0, -1, 1, -2, 2]);
        assert_eq!(signed(u32::MAX), i32::MIN);
    }
}
