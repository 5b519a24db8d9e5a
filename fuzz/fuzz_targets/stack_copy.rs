//! Walks any bytes as a copied stack, through code of any bytes as a file. The first byte says for
//! which machine, then come the registers, the length of the stack in 16 bits, the stack, the file.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run stack_copy fuzz/corpus/stack_copy fuzz/seeds/stack_copy --
//! -max_total_time=60 -timeout=5`
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_agent::unwind::{
    copied::{Code, CopiedStack, Mapping, Registers, StackWalker},
    elf::Machine,
};

const REGISTERS: usize = 33;
const MAX_USER_FRAMES: usize = 512;
const BUDGET: usize = 1 << 20;

/// Where the file, code made at run time and the vDSO are.
const FILE: u64 = 0x40_0000;
const JIT: u64 = 0x5000_0000;
const VDSO: u64 = 0x7fff_0000_0000;
const SIZE: u64 = 0x10_0000;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[kind, known], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((values, bytes)) = bytes.split_at_checked(8 * REGISTERS) else {
        return;
    };
    let Some((&len, bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes(len)).min(bytes.len());
    let (memory, file) = bytes.split_at(len);
    let file = file.to_vec();
    let mut registers = [0; REGISTERS];
    for (register, value) in registers.iter_mut().zip(values.chunks_exact(8)) {
        *register = u64::from_le_bytes(value.try_into().expect("8 bytes"));
    }
    let known = match known {
        0 => u64::MAX,
        known => u64::from_le_bytes([known; 8]) | 1 << 7 | 1 << 16 | 1 << 31 | 1 << 32,
    };
    let machine = match kind & 1 {
        0 => Machine::X86_64,
        _ => Machine::Aarch64,
    };
    let stack = CopiedStack {
        registers: &Registers::new(&registers, known),
        memory,
    };
    let mapping = |start, code| Mapping {
        start,
        end: start + SIZE,
        offset: 0,
        code,
    };
    let file_code = Code::File { id: 1, file: &file };
    let mappings = [
        mapping(FILE, file_code),
        mapping(JIT, Code::Jit),
        mapping(VDSO, Code::Vdso),
    ];
    let mut walker = StackWalker::for_machine(machine, file.clone(), BUDGET + file.len());
    let first = walker.walk(&stack, mappings.as_slice());
    assert!(first.frames.len() <= MAX_USER_FRAMES);
    assert!(walker.bytes() <= BUDGET + file.capacity());
    // By what was kept.
    let again = walker.walk(&stack, mappings.as_slice());
    assert!(again.frames.len() <= MAX_USER_FRAMES);
});
