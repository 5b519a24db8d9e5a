//! What call frame instructions say becomes rules.

use profiler_agent::unwind::table::{Source, Unsupported};

use crate::{
    elf_file::{CODE, ElfFile},
    frames::{Frames, advance, offset, op},
    rows, table,
};

fn x86_64(instructions: &[u8]) -> Vec<u8> {
    let frames = Frames::x86_64().function(CODE + 0x10, 0x40, instructions);
    ElfFile::x86_64().data(".eh_frame", frames.bytes).build()
}

/// The rows of a function of 0x40 bytes at 0x200010 after one of its
/// instructions, which the given ones follow.
fn after_one(instructions: &[u8]) -> Vec<String> {
    let all = [&[advance(1)], instructions].concat();
    let lines = rows(&x86_64(&all));
    assert_eq!(lines[0], "200010: sp+8, fp same");
    lines[1..].to_vec()
}

#[test]
fn a_function_with_a_frame_pointer() {
    let instructions = [
        &[advance(1), op::DEF_CFA_OFFSET, 16][..],
        &offset(6, 2),
        &[advance(3), op::DEF_CFA_REGISTER, 6],
        &[advance(0x20), op::DEF_CFA, 7, 8],
    ];
    let file = x86_64(&instructions.concat());
    assert_eq!(
        rows(&file),
        [
            "200010: sp+8, fp same",
            "200011: sp+16, fp cfa-16",
            "200014: fp+16, fp cfa-16",
            "200034: sp+8, fp cfa-16",
            "200050: -",
        ]
    );
    let report = table(&file).report;
    assert_eq!(report.source, Source::EhFrame);
    assert_eq!((report.functions, report.rows), (1, 6));
}

#[test]
fn rows_that_say_the_same_are_one() {
    let frames = Frames::x86_64()
        .function(CODE, 8, &[advance(2), op::DEF_CFA_OFFSET, 8])
        .function(CODE + 8, 8, &[]);
    let file = ElfFile::x86_64().data(".eh_frame", frames.bytes).build();
    assert_eq!(rows(&file), ["200000: sp+8, fp same", "200010: -"]);
}

#[test]
fn instructions_behind_the_end_do_not_matter() {
    let instructions = [
        advance(0x3f),
        op::DEF_CFA_OFFSET,
        16,
        advance(8),
        op::DEF_CFA_OFFSET,
        99,
    ];
    assert_eq!(
        rows(&x86_64(&instructions)),
        [
            "200010: sp+8, fp same",
            "20004f: sp+16, fp same",
            "200050: -"
        ]
    );
}

#[test]
fn an_outermost_frame() {
    assert_eq!(
        rows(&x86_64(&[op::UNDEFINED, 16])),
        ["200010: end", "200050: -"]
    );
}

#[test]
fn realigned_stacks() {
    // A register for the moment, then memory that it was saved in.
    let instructions = [
        &[op::DEF_CFA, 10, 0, advance(4)][..],
        // DW_OP_breg6 -8, DW_OP_deref
        &[op::DEF_CFA_EXPRESSION, 3, 0x76, 0x78, 0x06],
        // The caller's frame pointer stands where this one points.
        &[op::EXPRESSION, 6, 2, 0x76, 0],
    ];
    assert_eq!(
        after_one(&instructions.concat()),
        [
            "200011: r10+0, fp same",
            "200015: *(fp-8)+0, fp *(fp+0)",
            "200050: -",
        ]
    );
}

#[test]
fn frames_found_in_memory() {
    let at_stack = |rest: &[u8]| {
        let expression = [&[0x77, 0x10, 0x06], rest].concat();
        let size = expression.len() as u8;
        after_one(&[&[op::DEF_CFA_EXPRESSION, size], &expression[..]].concat())[0].clone()
    };
    assert_eq!(at_stack(&[]), "200011: *(sp+16)+0, fp same");
    // plus_uconst 8; lit8, plus; const1s -8, plus; lit8, minus
    assert_eq!(at_stack(&[0x23, 8]), "200011: *(sp+16)+8, fp same");
    assert_eq!(at_stack(&[0x38, 0x22]), "200011: *(sp+16)+8, fp same");
    assert_eq!(at_stack(&[0x09, 0xf8, 0x22]), "200011: *(sp+16)-8, fp same");
    assert_eq!(at_stack(&[0x38, 0x1c]), "200011: *(sp+16)-8, fp same");
    // Twice: what no rule can say.
    assert_eq!(at_stack(&[0x06]), "200011: ?");
}

#[test]
fn linkage_tables_of_gnu_ld() {
    // breg7 8, breg16 0, lit15, and, lit11, ge, lit3, shl, plus
    let expression = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
    let instructions = [&[op::DEF_CFA_EXPRESSION, 11], &expression[..]].concat();
    assert_eq!(
        after_one(&instructions)[0],
        "200011: plt sp+8 from 11, fp same"
    );
}

#[test]
fn signal_trampolines() {
    let at = |register, place: u8| [op::EXPRESSION, register, 3, 0x77, place | 0x80, 1];
    // glibc: everything is in the ucontext that the stack pointer points at.
    let instructions = [
        &[op::DEF_CFA_EXPRESSION, 4, 0x77, 0xa0, 1, 0x06][..],
        &at(16, 168 - 128),
        &[op::EXPRESSION, 6, 3, 0x77, 0xf8, 0],
    ]
    .concat();
    let file = |augmentation| {
        let frames = Frames::eh(augmentation, [1, 0x78, 16], &[]);
        let frames = frames.function(CODE, 0x10, &instructions);
        ElfFile::x86_64().data(".eh_frame", frames.bytes).build()
    };
    assert_eq!(rows(&file("zRS")), ["200000: signal sp+0", "200010: -"]);
    assert_eq!(rows(&file("zR")), ["200000: ?", "200010: -"]);
}

#[test]
fn what_cannot_be_followed_is_counted_by_reason() {
    let cases: [(&[u8], Unsupported); 8] = [
        // breg6 0, breg7 0, plus
        (
            &[op::DEF_CFA_EXPRESSION, 5, 0x76, 0, 0x77, 0, 0x22],
            Unsupported::FrameAddress,
        ),
        (&[op::OFFSET_EXTENDED, 16, 2], Unsupported::ReturnAddress),
        (&[op::REGISTER, 16, 2], Unsupported::ReturnAddress),
        (&[op::SAME, 7], Unsupported::StackPointer),
        (
            &[op::DEF_CFA_OFFSET, 0xff, 0xff, 0xff, 0xff, 0x7f],
            Unsupported::Range,
        ),
        (&[op::RESTORE_STATE], Unsupported::Malformed),
        (
            &[op::SET_LOC, 0, 0, 0, 0, 0, 0, 0, 0],
            Unsupported::Malformed,
        ),
        (&[0x3f], Unsupported::Malformed),
    ];
    for (instructions, reason) in cases {
        let table = table(&x86_64(&[&[advance(1)], instructions].concat()));
        let mut expected = [0; Unsupported::ALL.len()];
        expected[reason as usize] = 1;
        assert_eq!(table.report.unsupported, expected, "{reason:?}");
        assert!(table.can_unwind(CODE + 0x10) && !table.can_unwind(CODE + 0x11));
    }
}

#[test]
fn frame_pointers_that_are_lost() {
    let cases: [&[u8]; 4] = [
        &[op::REGISTER, 6, 3],
        &[op::VAL_OFFSET, 6, 2],
        &[op::VAL_EXPRESSION, 6, 2, 0x77, 0],
        // Farther from the frame than a rule can say.
        &[op::OFFSET_EXTENDED, 6, 0x80, 0x80, 1],
    ];
    for instructions in cases {
        let table = table(&x86_64(&[&[advance(1)], instructions].concat()));
        assert_eq!(table.report.frame_pointers_lost, 1);
        assert_eq!(
            crate::show(table.rule(CODE + 0x11).unwrap()),
            "sp+8, fp lost"
        );
    }
}

#[test]
fn states_are_remembered() {
    let instructions = [
        &[advance(1), op::DEF_CFA_OFFSET, 16][..],
        &offset(6, 2),
        &[op::REMEMBER, advance(4), op::DEF_CFA_OFFSET, 8],
        &[op::RESTORE_EXTENDED, 6, advance(1), op::RESTORE_STATE],
    ];
    assert_eq!(
        rows(&x86_64(&instructions.concat())),
        [
            "200010: sp+8, fp same",
            "200011: sp+16, fp cfa-16",
            "200015: sp+8, fp same",
            "200016: sp+16, fp cfa-16",
            "200050: -",
        ]
    );
}

#[test]
fn functions_longer_than_a_page() {
    let instructions = [op::ADVANCE_4, 0x20, 0, 1, 0, op::DEF_CFA_OFFSET, 16];
    let frames = Frames::x86_64().function(CODE + 0x100, 0x2_0000, &instructions);
    let file = ElfFile::x86_64().size(0x3_0000);
    let file = file.data(".eh_frame", frames.bytes).build();
    assert_eq!(
        rows(&file),
        [
            "200100: sp+8, fp same",
            "210120: sp+16, fp same",
            "220100: -"
        ]
    );
    // Each page begins with a row of its own.
    assert_eq!(table(&file).report.rows, 2 + 2 + 2);
}

#[test]
fn overlapping_functions_keep_what_came_first() {
    let frames = Frames::x86_64()
        .function(CODE + 0x100, 0x10, &[op::DEF_CFA_OFFSET, 16])
        // Around it, across its end, inside of it, and before all.
        .function(CODE + 0x80, 0x200, &[op::DEF_CFA_OFFSET, 24])
        .function(CODE + 0x108, 0x10, &[op::DEF_CFA_OFFSET, 32])
        .function(CODE + 0x104, 1, &[op::DEF_CFA_OFFSET, 40])
        .function(CODE + 0x20, 0x10, &[op::DEF_CFA_OFFSET, 48]);
    let file = ElfFile::x86_64().data(".eh_frame", frames.bytes).build();
    assert_eq!(
        rows(&file),
        [
            "200020: sp+48, fp same",
            "200030: -",
            "200080: sp+24, fp same",
            "200100: sp+16, fp same",
            "200110: sp+24, fp same",
            "200280: -",
        ]
    );
}

#[test]
fn functions_outside_of_the_code_are_left_out() {
    let frames = Frames::x86_64()
        .function(0, 0x100, &[])
        .function(CODE - 0x10, 0x20, &[])
        .function(CODE + 0xff0, u64::MAX, &[])
        .function(CODE + 0x100, 0, &[]);
    let file = ElfFile::x86_64().data(".eh_frame", frames.bytes).build();
    assert_eq!(rows(&file), ["200ff0: sp+8, fp same", "201000: -"]);
}

#[test]
fn aarch64_keeps_return_addresses_in_the_link_register() {
    let instructions = [
        &[
            advance(1),
            op::NEGATE_RA_STATE,
            advance(1),
            op::DEF_CFA_OFFSET,
            32,
        ][..],
        &offset(29, 4),
        &offset(30, 3),
        &[advance(1), op::DEF_CFA_REGISTER, 29],
        &[
            advance(4),
            op::DEF_CFA,
            31,
            0,
            op::RESTORE_EXTENDED,
            29,
            op::RESTORE_EXTENDED,
            30,
        ],
        &[advance(1), op::UNDEFINED, 30],
    ];
    let frames = Frames::aarch64().function(CODE, 0x40, &instructions.concat());
    let file = ElfFile::aarch64().data(".eh_frame", frames.bytes).build();
    assert_eq!(
        rows(&file),
        [
            "200000: sp+0, fp same, ra lr",
            "200008: sp+32, fp cfa-32, ra cfa-24",
            "20000c: fp+32, fp cfa-32, ra cfa-24",
            "20001c: sp+0, fp same, ra lr",
            "200020: end",
            "200040: -",
        ]
    );
}
