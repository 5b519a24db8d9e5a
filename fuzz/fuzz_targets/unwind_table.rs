//! Builds the unwind table of any bytes: as a file, and as the call frame
//! information of a file that is otherwise right.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run unwind_table fuzz/corpus/unwind_table fuzz/seeds/unwind_table --
//! -max_total_time=60 -timeout=10 -rss_limit_mb=512`
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use profiler_agent::unwind::table::{BuildLimits, Table, build};

const LIMITS: BuildLimits = BuildLimits {
    bytes: 8 << 20,
    time: Duration::from_secs(5),
};

/// Most rows whose addresses are looked up again.
const CHECKED_ROWS: usize = 1000;

fuzz_target!(|bytes: &[u8]| {
    for file in [
        bytes.to_vec(),
        with_frames(bytes, 62),
        with_frames(bytes, 183),
    ] {
        if let Ok(table) = build(&file, &LIMITS) {
            check(&table);
        }
    }
});

/// What holds for every table.
fn check(table: &Table) {
    // Heads and rules come on top of the rows.
    assert!(table.bytes() <= LIMITS.bytes + 140 * table.pages.len() + (2 << 20));
    assert!(table.pages.iter().flatten().all(|page| page.len() % 8 == 0));
    let mut before = None;
    for (address, _) in table.rows() {
        assert!(before.is_none_or(|before| before < address));
        before = Some(address);
    }
    for (address, rule) in table.rows().take(CHECKED_ROWS) {
        assert_eq!(table.rule(address), rule);
    }
}

/// A file with 128 KiB of code at 1 MiB, and `.eh_frame` at 4 MiB.
fn with_frames(frames: &[u8], machine: u16) -> Vec<u8> {
    const CODE: u64 = 1 << 20;
    const CODE_SIZE: u64 = 128 << 10;
    const FRAMES: u64 = 4 << 20;
    let names = b"\0.eh_frame\0";
    let size = frames.len() as u64;
    let offset: u64 = 64 + 2 * 56 + 3 * 64 + names.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for number in [0, 64, 64 + 2 * 56] {
        file.extend(u64::to_le_bytes(number));
    }
    file.extend([0; 4]);
    for number in [64_u16, 56, 2, 64, 3, 2] {
        file.extend(number.to_le_bytes());
    }
    for (flags, from, address, size) in [(5, 0, CODE, CODE_SIZE), (4, offset, FRAMES, size)] {
        file.extend([1_u32, flags].iter().flat_map(|word| word.to_le_bytes()));
        for number in [from, address, address, size, size, 0x1000] {
            file.extend(number.to_le_bytes());
        }
    }
    let sections: [[u64; 10]; 3] = [
        [0; 10],
        [1, 1, 2, FRAMES, offset, size, 0, 0, 8, 0],
        [
            0,
            3,
            0,
            0,
            offset - names.len() as u64,
            names.len() as u64,
            0,
            0,
            1,
            0,
        ],
    ];
    for section in sections {
        for (index, field) in section.into_iter().enumerate() {
            let is_short = matches!(index, 0 | 1 | 6 | 7);
            file.extend(&field.to_le_bytes()[..if is_short { 4 } else { 8 }]);
        }
    }
    file.extend(names);
    file.extend(frames);
    // The code: as much as its segment says.
    file.resize(file.len().max(CODE_SIZE as usize), 0);
    file
}
