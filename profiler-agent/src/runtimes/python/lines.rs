//! Line tables of code objects: which line an instruction belongs to.
//!
//! Formats: `Objects/lnotab_notes.txt` (until 3.9, and 3.10) and
//! `Objects/locations.md` (since 3.11) of CPython's source.

/// A line table, or the part of it that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineTable<'a> {
    /// Minor version of the interpreter.
    pub(super) minor: u32,
    /// Line where the code object begins.
    pub(super) first_line: u32,
    /// The table.
    pub(super) bytes: &'a [u8],
    /// There is more of it.
    pub(super) is_cut: bool,
}

impl LineTable<'_> {
    /// Line of the instruction at `offset` bytes, which is negative before the
    /// first. Nothing where it has none, or where that is not known.
    pub(super) fn line(&self, offset: i32) -> Option<u32> {
        let line = match u32::try_from(offset) {
            Err(_) => Some(i64::from(self.first_line)),
            Ok(offset) if self.minor >= 11 => self.in_locations(offset),
            Ok(offset) if self.minor == 10 => self.in_ranges(offset),
            Ok(offset) => self.in_steps(offset),
        };
        line.and_then(|line| u32::try_from(line).ok())
            .filter(|line| *line > 0)
    }

    /// Until 3.9: steps of instructions and lines; a line holds until the next.
    fn in_steps(&self, offset: u32) -> Option<i64> {
        let mut address = 0_u64;
        let mut line = i64::from(self.first_line);
        for step in self.bytes.as_chunks::<2>().0 {
            address += u64::from(step[0]);
            if address > offset.into() {
                return Some(line);
            }
            line += i64::from(step[1] as i8);
        }
        (!self.is_cut).then_some(line)
    }

    /// 3.10: ranges of instructions, each with its step of lines; -128 stands
    /// for none.
    fn in_ranges(&self, offset: u32) -> Option<i64> {
        let mut end = 0_u64;
        let mut line = i64::from(self.first_line);
        for range in self.bytes.as_chunks::<2>().0 {
            end += u64::from(range[0]);
            let step = range[1] as i8;
            if step != i8::MIN {
                line += i64::from(step);
            }
            if end > offset.into() {
                return (step != i8::MIN).then_some(line);
            }
        }
        None
    }

    /// Since 3.11: entries of a first byte, which has its highest bit set, and
    /// numbers, whose bytes have not.
    fn in_locations(&self, offset: u32) -> Option<i64> {
        let mut end = 0_u64;
        let mut line = i64::from(self.first_line);
        let mut rest = self.bytes;
        while let [first, tail @ ..] = rest {
            // In code units of two bytes.
            end += (u64::from(first & 7) + 1) * 2;
            let step = match first >> 3 & 15 {
                15 => None,
                13 | 14 => Some(signed(tail)),
                kind @ 10..=12 => Some(i64::from(kind) - 10),
                _ => Some(0),
            };
            line = line.saturating_add(step.unwrap_or(0));
            if end > offset.into() {
                return step.map(|_| line);
            }
            let next = tail.iter().position(|byte| byte & 0x80 != 0);
            rest = &tail[next.unwrap_or(tail.len())..];
        }
        None
    }
}

/// A number in groups of six bits, lowest first; bit 6 says that more follow.
/// The lowest bit of the number is its sign.
fn signed(bytes: &[u8]) -> i64 {
    let mut value = 0_u64;
    for (group, byte) in bytes.iter().take(6).enumerate() {
        value |= u64::from(byte & 63) << (6 * group);
        if byte & 64 == 0 {
            break;
        }
    }
    let magnitude = (value >> 1) as i64;
    if value & 1 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(minor: u32, bytes: &[u8], offsets: &[i32]) -> Vec<Option<u32>> {
        let table = LineTable {
            minor,
            first_line: 10,
            bytes,
            is_cut: false,
        };
        offsets.iter().map(|offset| table.line(*offset)).collect()
    }

    #[test]
    fn steps_until_3_9() {
        // 6 bytes of line 10, 50 of line 11, then line 9.
        let bytes = [6, 1, 50, 0xfe];
        let expected = [Some(10), Some(10), Some(11), Some(11), Some(9)];
        assert_eq!(lines(9, &bytes, &[-1, 4, 6, 54, 56]), expected);
        let cut = LineTable {
            minor: 8,
            first_line: 10,
            bytes: &bytes,
            is_cut: true,
        };
        assert_eq!((cut.line(0), cut.line(56)), (Some(10), None));
    }

    #[test]
    fn ranges_of_3_10() {
        // The example of lnotab_notes.txt: lines 11 and 12, a gap, then 14 for long.
        let bytes = [2, 1, 4, 1, 2, 0x80, 254, 2, 20, 0];
        let offsets = [-1, 0, 2, 4, 6, 8, 260, 270, 300];
        let expected = [
            Some(10),
            Some(11),
            Some(12),
            Some(12),
            None,
            Some(14),
            Some(14),
            Some(14),
            None,
        ];
        assert_eq!(lines(10, &bytes, &offsets), expected);
    }

    #[test]
    fn locations_since_3_11() {
        let bytes = [
            0x80 | 13 << 3, // 1 unit, no columns, +0
            0,
            0x80 | 11 << 3 | 1, // 2 units, one line, +1, columns
            4,
            8,
            0x80 | 2 << 3, // 1 unit, short, one byte
            5,
            0x80 | 15 << 3, // 1 unit, none
            0x80 | 14 << 3, // 1 unit, long, -1, numbers of two bytes
            3,
            0,
            65,
            1,
            2,
            0x80 | 13 << 3 | 7, // 8 units, +100
            72,
            3,
        ];
        let offsets = [-2, 0, 2, 4, 6, 8, 10, 12, 26, 28];
        let expected = [
            Some(10),
            Some(10),
            Some(11),
            Some(11),
            Some(11),
            None,
            Some(10),
            Some(110),
            Some(110),
            None,
        ];
        assert_eq!(lines(12, &bytes, &offsets), expected);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut state = 1_u32;
        let mut bytes = Vec::new();
        for _ in 0..4096 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push((state >> 24) as u8);
        }
        for start in 0..64 {
            for minor in [8, 10, 11] {
                let table = LineTable {
                    minor,
                    first_line: u32::MAX,
                    bytes: &bytes[start..],
                    is_cut: start % 2 == 0,
                };
                for offset in [i32::MIN, 0, 100, i32::MAX] {
                    assert!(table.line(offset).is_none_or(|line| line > 0));
                }
            }
        }
    }
}
