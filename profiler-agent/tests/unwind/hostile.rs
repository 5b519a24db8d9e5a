//! Files that lie: no panic, no endless loop, no more memory than allowed.

use std::time::{Duration, Instant};

use profiler_agent::unwind::table::{BuildError, BuildLimits, Unsupported, build};

use crate::{
    elf_file::{CODE, ElfFile},
    frames::{Frames, advance, op},
    table, try_table,
};

/// Some of everything.
fn sample() -> Vec<u8> {
    let instructions = [
        &[advance(1), op::DEF_CFA_OFFSET, 16, op::REMEMBER][..],
        &[advance(2), op::DEF_CFA_EXPRESSION, 3, 0x76, 0x78, 0x06],
        &[advance(2), op::RESTORE_STATE],
    ];
    let frames = Frames::x86_64()
        .function(CODE + 0x40, 0x20, &instructions.concat())
        .function(CODE + 0x80, 0x20, &[op::UNDEFINED, 16]);
    ElfFile::x86_64()
        .size(0x200)
        .code_section(".plt", CODE, &[0xff, 0x25, 1, 2, 0, 0, 0x66, 0x90])
        .entry(CODE + 0x100)
        .data(".eh_frame", frames.bytes)
        .unloaded(
            ".debug_frame",
            0,
            Frames::debug().function(CODE + 0x60, 8, &[]).bytes,
        )
        .symbols(&[("_PyEval_EvalFrameDefault", CODE + 0x40, 0x20)])
        .build()
}

#[test]
fn files_that_end_too_early() {
    let file = sample();
    assert!(try_table(&file).is_ok());
    for len in (0..0x200).chain(0x1000..file.len()) {
        if let Ok(table) = try_table(&file[..len].to_vec()) {
            assert!(table.rows().count() < 1000);
        }
    }
}

#[test]
fn files_with_wrong_bytes() {
    let file = sample();
    // Headers, and everything behind the code.
    let places: Vec<usize> = (0..0x140).chain((0x1200..file.len()).step_by(2)).collect();
    for at in places {
        for value in [0, 0xff, file[at] ^ 0x10] {
            let mut changed = file.clone();
            changed[at] = value;
            if let Ok(table) = try_table(&changed) {
                assert!(table.bytes() < 8 << 20);
            }
        }
    }
}

#[test]
fn states_are_not_remembered_for_ever() {
    let frames = Frames::x86_64().function(CODE, 8, &[op::REMEMBER; 100_000]);
    let file = ElfFile::x86_64().data(".eh_frame", frames.bytes).build();
    let report = table(&file).report;
    assert_eq!(report.unsupported[Unsupported::Malformed as usize], 1);
}

#[test]
fn tables_have_limits() {
    // 1,000 functions that each claim the same 64 MiB.
    let mut frames = Frames::x86_64();
    for size in 0..1000 {
        frames = frames.function(CODE, (64 << 20) - size, &[]);
    }
    let file = ElfFile::x86_64().size(64 << 20);
    let file = file.data(".eh_frame", frames.bytes).build();
    let limits = BuildLimits {
        bytes: 1 << 20,
        ..BuildLimits::default()
    };
    let error = build(&file, &limits).unwrap_err();
    assert!(matches!(error, BuildError::TooLarge(_)), "{error}");
    let limits = BuildLimits {
        time: Duration::ZERO,
        ..BuildLimits::default()
    };
    let error = build(&file, &limits).unwrap_err();
    assert!(matches!(error, BuildError::TooSlow(_)), "{error}");
}

#[test]
fn overlapping_functions_do_not_multiply_the_time() {
    let mut frames = Frames::x86_64();
    for start in 0..20_000 {
        frames = frames.function(CODE + start % 7, 0xfff0, &[op::DEF_CFA_OFFSET, 16]);
    }
    let file = ElfFile::x86_64().size(0x1_0000);
    let file = file.data(".eh_frame", frames.bytes).build();
    let start = Instant::now();
    assert_eq!(table(&file).report.functions, 20_000);
    // One by one, address by address, it would take minutes.
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn pages_with_too_many_rows_have_none() {
    let mut instructions = Vec::new();
    for _ in 0..20_000 {
        instructions.extend([advance(1), op::DEF_CFA_OFFSET, 16]);
        instructions.extend([advance(1), op::DEF_CFA_OFFSET, 24]);
    }
    let frames = Frames::x86_64().function(CODE, 0x1_0000, &instructions);
    let frames = frames.function(CODE + 0x1_0000, 0x10, &[]);
    let file = ElfFile::x86_64().size(0x1_1000);
    let table = table(&file.data(".eh_frame", frames.bytes).build());
    assert_eq!(table.report.crowded_pages, 1);
    assert_eq!(table.rule(CODE + 0x100), None);
    assert!(table.can_unwind(CODE + 0x1_0000));
}
