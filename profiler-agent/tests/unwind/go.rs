//! Programs made by Go, from their own tables.

use profiler_agent::unwind::table::Source;

use crate::{
    elf_file::{CODE, ElfFile},
    rows, table,
};

/// A function: its flags, its code, and pairs of stack delta and length.
type Function<'a> = (u8, &'a [u8], &'a [(i32, u8)]);

const TOP_FRAME: u8 = 1;
const SP_WRITE: u8 = 2;

/// Bytes of code that each function has.
const STEP: u64 = 0x40;

/// A `.gopclntab` of Go 1.20 and later: header, names, values, functions.
fn table_of(functions: &[Function<'_>], quantum: u8) -> Vec<u8> {
    let names = b"\0main.f\0runtime.sigtramp\0";
    let mut values = vec![0];
    let mut places = Vec::new();
    for (_, _, deltas) in functions {
        places.push(values.len() as u32);
        let mut before = -1;
        for (delta, length) in *deltas {
            let growth: i32 = delta - before;
            number(&mut values, ((growth << 1) ^ (growth >> 31)) as u32);
            values.push(length / quantum);
            before = *delta;
        }
        values.push(0);
    }
    let list_size = 8 * functions.len() + 4;
    let (mut list, mut bodies) = (Vec::new(), Vec::new());
    for (index, (flags, _, _)) in functions.iter().enumerate() {
        list.extend((index as u32 * STEP as u32).to_le_bytes());
        list.extend(((list_size + bodies.len()) as u32).to_le_bytes());
        let name = if *flags & 0x80 != 0 { 8 } else { 1 };
        let fields = [
            index as u32 * STEP as u32,
            name,
            0,
            0,
            places[index],
            0,
            0,
            0,
            0,
            1,
        ];
        bodies.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        bodies.extend([0, flags & 0x7f, 0, 0]);
    }
    list.extend((functions.len() as u32 * STEP as u32).to_le_bytes());
    let names_at = 72;
    let values_at = names_at + names.len();
    let functions_at = (values_at + values.len()).next_multiple_of(8);
    let mut table = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, quantum, 8];
    for word in [
        functions.len(),
        1,
        0,
        names_at,
        72,
        72,
        values_at,
        functions_at,
    ] {
        table.extend((word as u64).to_le_bytes());
    }
    table.extend(names);
    table.extend(values);
    table.resize(functions_at, 0);
    table.extend(list);
    table.extend(bodies);
    table
}

fn number(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn file(mut file: ElfFile, functions: &[Function<'_>], quantum: u8) -> Vec<u8> {
    let mut code = vec![0xcc; functions.len() * STEP as usize];
    for (index, (_, bytes, _)) in functions.iter().enumerate() {
        let at = index * STEP as usize;
        code[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file = file.code_section(".text", CODE, &code);
    file.data(".gopclntab", table_of(functions, quantum))
        .build()
}

#[test]
fn functions_with_and_without_frames() {
    // push %rbp; mov %rsp, %rbp; sub $16, %rsp
    let push = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10];
    // Before Go 1.21: sub $24, %rsp; mov %rbp, 16(%rsp)
    let sub = [0x48, 0x83, 0xec, 24, 0x48, 0x89, 0x6c, 0x24, 16];
    let functions: [Function<'_>; 4] = [
        (0, &[0xc3], &[(0, 0x20)]),
        (0, &push, &[(0, 1), (8, 7), (24, 20), (8, 1), (0, 1)]),
        (0, &sub, &[(0, 4), (24, 20), (0, 1)]),
        // In assembly: who knows what it does to the frame pointer.
        (0, &[0x9c], &[(0, 1), (8, 4), (0, 1)]),
    ];
    let file = file(ElfFile::x86_64(), &functions, 1);
    assert_eq!(table(&file).report.source, Source::Go);
    assert_eq!(
        rows(&file),
        [
            "200000: sp+8, fp same",
            "200020: -",
            "200040: sp+8, fp same",
            "200041: sp+16, fp cfa-16",
            "200048: sp+32, fp cfa-16",
            "20005c: sp+16, fp cfa-16",
            "20005d: sp+8, fp same",
            "20005e: -",
            "200080: sp+8, fp same",
            "200084: sp+32, fp same",
            "200089: sp+32, fp cfa-16",
            "200098: sp+8, fp same",
            "200099: -",
            "2000c0: sp+8, fp same",
            "2000c1: sp+16, fp lost",
            "2000c5: sp+8, fp same",
            "2000c6: -",
        ]
    );
}

#[test]
fn where_the_runtime_switches_stacks() {
    let frame = [0x55, 0x48, 0x89, 0xe5];
    // systemstack keeps the frame pointer, mcall clears it.
    let clears = [&frame[..], &[0x48, 0xc7, 0xc5, 0, 0, 0, 0]].concat();
    let deltas = [(0, 1), (8, 20), (0, 1)];
    let functions: [Function<'_>; 5] = [
        (TOP_FRAME, &[0x90], &[(0, 4)]),
        (SP_WRITE, &frame, &deltas),
        (SP_WRITE, &clears, &deltas),
        (SP_WRITE, &[0x90], &[(0, 8)]),
        // The kernel calls it: what it interrupted is behind it.
        (TOP_FRAME | 0x80, &frame, &deltas),
    ];
    assert_eq!(
        rows(&file(ElfFile::x86_64(), &functions, 1)),
        [
            "200000: end",
            "200040: sp+8, fp same",
            "200041: sp+16, fp cfa-16",
            "200044: other stack fp+16, fp cfa-16",
            "200055: sp+8, fp same",
            "200056: -",
            "200080: sp+8, fp same",
            "200081: sp+16, fp cfa-16",
            "200084: other stack fp+16, fp cfa-16",
            "20008b: end",
            "200096: -",
            "2000c0: ?",
            "2000c8: -",
            "200100: sp+8, fp same",
            "200101: sp+16, fp cfa-16",
            "200115: sp+8, fp same",
            "200116: -",
        ]
    );
}

#[test]
fn aarch64_keeps_the_return_address_at_the_stack_pointer() {
    let words =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    // str x30, [sp, #-32]!; stur x29, [sp, #-8]; sub x29, sp, #8
    let small = words(&[0xf81e_0ffe, 0xf81f_83fd, 0xd100_23fd]);
    // sub x20, sp, #..; stp x29, x30, [x20, #-8]; mov sp, x20
    let large = words(&[0xd140_07f4, 0xa93f_fa9d, 0x9100_029f]);
    let functions: [Function<'_>; 3] = [
        (0, &small, &[(0, 4), (32, 24), (0, 4)]),
        (0, &large, &[(0, 12), (4096, 24), (0, 4)]),
        (0, &[0; 4], &[(0, 4), (16, 8)]),
    ];
    assert_eq!(
        rows(&file(ElfFile::aarch64(), &functions, 4)),
        [
            "200000: sp+0, fp same, ra lr",
            "200004: sp+32, fp same, ra cfa-32",
            "200008: sp+32, fp cfa-40, ra cfa-32",
            "20001c: sp+0, fp same, ra lr",
            "200020: -",
            "200040: sp+0, fp same, ra lr",
            "20004c: sp+4096, fp cfa-4104, ra cfa-4096",
            "200064: sp+0, fp same, ra lr",
            "200068: -",
            "200080: sp+0, fp same, ra lr",
            "200084: ?",
            "20008c: -",
        ]
    );
}
