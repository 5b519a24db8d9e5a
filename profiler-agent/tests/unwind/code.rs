//! Code that is recognised by its bytes.

use crate::{
    elf_file::{CODE, ElfFile},
    frames::{Frames, advance, op},
    rows, try_table,
};

fn jump(entry: &mut Vec<u8>, bytes: &[u8]) {
    entry.extend(bytes);
    entry.resize(entry.len().next_multiple_of(16), 0x90);
}

#[test]
fn linkage_tables_of_lld() {
    let mut code = Vec::new();
    jump(
        &mut code,
        &[
            0xff, 0x35, 1, 2, 0, 0, 0xff, 0x25, 1, 2, 0, 0, 0x0f, 0x1f, 0x40, 0,
        ],
    );
    for index in 0..2 {
        let push = [0x68, index, 0, 0, 0];
        jump(
            &mut code,
            &[&[0xff, 0x25, 1, 2, 0, 0], &push[..], &[0xe9, 0, 0, 0, 0]].concat(),
        );
    }
    let file = ElfFile::x86_64().code_section(".plt", CODE + 0x20, &code);
    assert_eq!(
        rows(&file.build()),
        [
            "200020: sp+16, fp same",
            "200026: sp+24, fp same",
            "200030: plt sp+8 from 11, fp same",
            "200050: -",
        ]
    );
}

#[test]
fn linkage_tables_with_branch_tracking() {
    let (mut lazy, mut second) = (Vec::new(), Vec::new());
    jump(
        &mut lazy,
        &[
            0xf3, 0x0f, 0x1e, 0xfa, 0x68, 1, 0, 0, 0, 0xe9, 0, 0, 0, 0, 0x66, 0x90,
        ],
    );
    jump(
        &mut second,
        &[
            0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 1, 2, 0, 0, 0x66, 0x0f, 0x1f, 0x44, 0, 0,
        ],
    );
    let file = ElfFile::x86_64()
        .code_section(".plt", CODE + 0x20, &lazy)
        .code_section(".plt.sec", CODE + 0x40, &second);
    assert_eq!(
        rows(&file.build()),
        [
            "200020: plt sp+8 from 9, fp same",
            "200030: -",
            "200040: sp+8, fp same",
            "200050: -",
        ]
    );
}

#[test]
fn sections_are_not_believed_to_hold_what_their_name_says() {
    let file = ElfFile::x86_64().code_section(".plt", CODE, &[0xc3; 64]);
    assert!(try_table(&file.build()).is_err());
    let file = ElfFile::aarch64().code_section(".plt", CODE, &[0xc3; 64]);
    assert!(try_table(&file.build()).is_err());
}

#[test]
fn linkage_tables_that_are_described_stay_so() {
    let frames = Frames::x86_64().function(CODE, 16, &[op::DEF_CFA_OFFSET, 99]);
    let file = ElfFile::x86_64()
        .code_section(".plt", CODE, &[0xff, 0x25, 1, 2, 0, 0, 0x66, 0x90])
        .data(".eh_frame", frames.bytes);
    assert_eq!(rows(&file.build()), ["200000: sp+99, fp same", "200010: -"]);
}

#[test]
fn linkage_tables_of_aarch64() {
    // stp x16, x30, [sp, #-16]!; adrp; ldr; add; br x17; nop; then an entry.
    let words: [u32; 10] = [
        0xa9bf_7bf0,
        0x9000_0010,
        0xf940_0211,
        0x9100_0210,
        0xd61f_0220,
        0xd503_201f,
        0x9000_0010,
        0xf940_0211,
        0x9100_0210,
        0xd61f_0220,
    ];
    let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let file = ElfFile::aarch64().code_section(".plt", CODE, &code);
    assert_eq!(
        rows(&file.build()),
        [
            "200000: sp+0, fp same, ra lr",
            "200004: sp+16, fp same",
            "200014: sp+0, fp same, ra lr",
            "200028: -",
        ]
    );
}

#[test]
fn signal_trampolines_of_musl() {
    let x86_64 = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];
    let file = ElfFile::x86_64().code(CODE + 0x40, &x86_64);
    assert_eq!(rows(&file.build()), ["20003f: signal sp+0", "200049: -"]);
    // Not where something ends that could be executed.
    let file = ElfFile::x86_64().code(CODE + 0x3f, &[0xc3]);
    let file = file.code(CODE + 0x40, &x86_64);
    assert_eq!(rows(&file.build()), ["200040: signal sp+0", "200049: -"]);
    let aarch64 = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
    let file = ElfFile::aarch64().code(CODE + 0x40, &aarch64);
    assert_eq!(rows(&file.build()), ["20003f: signal sp+128", "200048: -"]);
}

#[test]
fn threads_of_musl_begin_in_its_clone() {
    let code = [
        0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1, 0x89, 0xc7, 0x31, 0xc0, 0xb0, 60, 0x0f, 0x05, 0xf4,
    ];
    let file = ElfFile::x86_64().code(CODE + 0x40, &code);
    assert_eq!(rows(&file.build()), ["200040: end", "20004f: -"]);
}

#[test]
fn programs_begin_where_their_header_says() {
    // xor %rbp, %rbp; mov %rsp, %rdi; call
    let start = [0x48, 0x31, 0xed, 0x48, 0x89, 0xe7, 0xe8, 1, 0, 0, 0];
    let file = ElfFile::x86_64()
        .code(CODE + 0x40, &start)
        .entry(CODE + 0x40);
    assert_eq!(rows(&file.build()), ["200040: end", "20004b: -"]);
    let start = [0x1d, 0, 0x80, 0xd2, 0x1e, 0, 0x80, 0xd2, 0x01, 0, 0, 0x94];
    let file = ElfFile::aarch64()
        .code(CODE + 0x40, &start)
        .entry(CODE + 0x40);
    assert_eq!(rows(&file.build()), ["200040: end", "20004c: -"]);
    // Another function: nothing is invented.
    let file = ElfFile::x86_64()
        .code(CODE + 0x40, &[0x55, 0xe8])
        .entry(CODE + 0x40);
    assert!(try_table(&file.build()).is_err());
    // Described: nothing is changed.
    let start = [0x31, 0xed, 0xe8, 1, 0, 0, 0];
    let frames = Frames::x86_64().function(CODE + 0x40, 0x10, &[]);
    let file = ElfFile::x86_64()
        .code(CODE + 0x40, &start)
        .entry(CODE + 0x40)
        .data(".eh_frame", frames.bytes);
    assert_eq!(rows(&file.build()), ["200040: sp+8, fp same", "200050: -"]);
}

const EVALUATE: &str = "_PyEval_EvalFrameDefault";

fn interpreter(symbols: &[(&str, u64, u64)], jumps: usize) -> Vec<String> {
    let framed = [advance(1), op::DEF_CFA_OFFSET, 16];
    let frames = Frames::x86_64()
        // A cold part begins in the middle of a frame.
        .function(CODE, 0x20, &[op::DEF_CFA_OFFSET, 16])
        .function(CODE + 0x100, 0x80, &framed)
        .function(CODE + 0x200, 0x10, &framed);
    let mut file = ElfFile::x86_64();
    for index in 0..jumps as u64 {
        let at = CODE + 0x110 + 8 * index;
        let distance = (CODE + index).wrapping_sub(at + 6) as u32;
        file = file.code(at, &[&[0x0f, 0x84], &distance.to_le_bytes()[..]].concat());
    }
    rows(
        &file
            .data(".eh_frame", frames.bytes)
            .symbols(symbols)
            .build(),
    )
}

#[test]
fn the_function_that_runs_python_is_marked() {
    let body = (EVALUATE, CODE + 0x100, 0x80);
    let marked = [
        "200000: sp+16, fp same, python",
        "200020: -",
        "200100: sp+8, fp same, python",
        "200101: sp+16, fp same, python",
        "200180: -",
        "200200: sp+8, fp same",
        "200201: sp+16, fp same",
        "200210: -",
    ];
    let cold = format!("{EVALUATE}.constprop.0.cold");
    assert_eq!(interpreter(&[body, (&cold, CODE, 0x20)], 0), marked);
    // Without a symbol the cold part is where the function jumps to.
    assert_eq!(interpreter(&[body], 8), marked);
    let lines = interpreter(&[body], 2);
    assert_eq!(lines[0], "200000: sp+16, fp same");
    assert_eq!(lines[2..], marked[2..]);
    let other = format!("{EVALUATE}2");
    let lines = interpreter(&[(&other, CODE + 0x100, 0x80)], 8);
    assert!(lines.iter().all(|line| !line.contains("python")));
}
