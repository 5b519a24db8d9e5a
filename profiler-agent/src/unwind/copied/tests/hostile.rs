//! Files and stacks that were changed at random: whatever comes out, it comes
//! out soon, and within bounds.

use profiler_abi::{MAX_USER_FRAMES, REGISTERS, stack_end};

use super::{
    super::{Code, CopiedStack, Mapping, Registers, StackWalker},
    image::{BASE, CODE, Image, op},
};
use crate::unwind::elf::Machine;

/// Changed files that are tried.
const ROUNDS: u64 = 3000;

/// Marsaglia's generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn file() -> Vec<u8> {
    let table = [
        &[1, 0x1b, 3, 0x3b, 0, 0, 0, 0, 2, 0, 0, 0][..],
        &0xffff_f100_u32.to_le_bytes(),
        &0x0000_0118_u32.to_le_bytes(),
        &0xffff_f300_u32.to_le_bytes(),
        &0x0000_0134_u32.to_le_bytes(),
    ];
    Image::new(Machine::X86_64, &[op::DEF_CFA, 7, 8, op::OFFSET | 16, 1])
        .function(0, 0x100, &[op::ADVANCE | 1, op::DEF_CFA, 7, 16])
        .function(0x100, 0x100, &[op::DEF_CFA_EXPRESSION, 3, 0x77, 8, 6])
        .function(0x200, 0x100, &[op::OFFSET | 6, 2, 0x0a, 0x0b, 0x2e, 8])
        .section(".plt", 0x400, &[0xcc; 64])
        .section(".eh_frame_hdr", 0xf00, &table.concat())
        .build()
}

#[test]
fn changed_files_and_stacks() {
    let file = file();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut not_whole = 0;
    for round in 0..ROUNDS {
        let mut changed = file.clone();
        for _ in 0..random.below(8) {
            // Most of the file is code that is not looked at.
            let from = [0, 0x1f00, 0x2000][random.below(3)];
            let at = from + random.below(changed.len().min(from + 0x200) - from);
            changed[at] = random.next() as u8;
        }
        if round % 7 == 0 {
            changed.truncate(random.below(changed.len()));
        }
        not_whole += usize::from(walk(&changed, &mut random) != stack_end::WHOLE);
    }
    assert!(not_whole > 0);
}

/// Walks some stacks through a file. Returns how the last one ended.
fn walk(file: &[u8], random: &mut Random) -> u8 {
    const BUDGET: usize = 256 << 10;
    let bytes = file.to_vec();
    let mut walker = StackWalker::for_machine(Machine::X86_64, bytes.clone(), BUDGET);
    let stack = 0x7000_0000;
    let mut end = 0;
    for _ in 0..4 {
        let mut registers = [0; REGISTERS];
        registers.fill_with(|| stack + random.next() % 256);
        registers[7] = stack;
        registers[16] = CODE + random.next() % 0x500;
        let words = (0..64).map(|_| match random.below(4) {
            0 => random.next(),
            1 => stack + random.next() % 512,
            _ => CODE + random.next() % 0x500,
        });
        let memory: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let mappings = [Mapping {
            start: BASE,
            end: BASE + 0x10_0000,
            offset: 0,
            code: Code::File {
                id: 1,
                file: &bytes,
            },
        }];
        let stack = CopiedStack {
            registers: &Registers::new(&registers, random.next() | u64::MAX << random.below(20)),
            memory: &memory,
        };
        let walk = walker.walk(&stack, mappings.as_slice());
        assert!(walk.frames.len() <= MAX_USER_FRAMES);
        assert!(walker.bytes() <= BUDGET);
        end = walk.end;
    }
    end
}
