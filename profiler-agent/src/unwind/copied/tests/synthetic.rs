//! Stacks and files made by hand, one question each.

use std::time::Duration;

use profiler_abi::{INTERRUPTED, MAX_USER_FRAMES, REGISTERS, STACK_COPY_BYTES, stack_end};

use super::{
    super::{
        Code, CopiedStack, Mapping, Registers, StackWalker, Walk, builds::Builds, cfi::Work,
        file::FileRules, step::Step, walk::FileKey,
    },
    image::{BASE, CODE, Image, op},
};
use crate::unwind::elf::Machine;

/// Address of the first byte of the stack.
const STACK: u64 = 0x7000_0000;

/// Where code is made at run time.
const JIT: u64 = 0x5000_0000;

const RSP: u8 = 7;
const RBP: u8 = 6;
const RBX: u8 = 3;
const RIP: u8 = 16;

/// The frame is what a call has pushed.
const CALLED: &[u8] = &[op::DEF_CFA, RSP, 8, op::OFFSET | RIP, 1];

/// A thread's first function.
const FIRST: &[u8] = &[op::UNDEFINED, RIP];

/// What a walk begins with.
struct Stack {
    machine: Machine,
    registers: [u64; REGISTERS],
    known: u64,
    memory: Vec<u8>,
}

impl Stack {
    /// A stack of these words, whose leaf is interrupted at `pc`.
    fn at(pc: u64, words: &[u64]) -> Self {
        let mut registers = [0; REGISTERS];
        registers[usize::from(RSP)] = STACK;
        registers[usize::from(RIP)] = pc;
        Self {
            machine: Machine::X86_64,
            registers,
            known: u64::MAX,
            memory: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }

    fn with(mut self, register: u8, value: u64) -> Self {
        self.registers[usize::from(register)] = value;
        self
    }

    fn walk(&self, file: &[u8]) -> Walk {
        let mut walker = StackWalker::for_machine(self.machine, Vec::new(), 1 << 20);
        self.walk_by(&mut walker, file)
    }

    fn walk_by(&self, walker: &mut StackWalker, file: &[u8]) -> Walk {
        let bytes = file.to_vec();
        let mappings = [
            Mapping {
                start: BASE,
                end: BASE + file.len() as u64,
                offset: 0,
                code: Code::File {
                    id: 1,
                    file: &bytes,
                },
            },
            Mapping {
                start: JIT,
                end: JIT + 0x1000,
                offset: 0,
                code: Code::Jit,
            },
        ];
        let stack = CopiedStack {
            registers: &Registers::new(&self.registers, self.known),
            memory: &self.memory,
        };
        walker.walk(&stack, mappings.as_slice())
    }
}

fn whole(frames: &[u64]) -> Walk {
    ended(stack_end::WHOLE, frames)
}

fn ended(end: u8, frames: &[u64]) -> Walk {
    Walk {
        frames: frames.to_vec(),
        end,
        frame_pointers: false,
    }
}

/// Functions at 0, 0x100 and 0x200 of the code: called, called with 16 bytes
/// more on the stack, and first.
fn three_functions() -> Vec<u8> {
    Image::new(Machine::X86_64, CALLED)
        .function(0, 0x100, &[])
        .function(0x100, 0x100, &[op::DEF_CFA, RSP, 24])
        .function(0x200, 0x100, FIRST)
        .build()
}

#[test]
fn from_the_leaf_to_the_first_function() {
    let stack = Stack::at(CODE + 0x10, &[CODE + 0x110, 1, 2, CODE + 0x210]);
    let expected = whole(&[CODE + 0x10, CODE + 0x110, CODE + 0x210]);
    assert_eq!(stack.walk(&three_functions()), expected);
}

#[test]
fn a_call_at_a_functions_end_belongs_to_it() {
    // Returns to where the next function begins, which has another rule.
    let stack = Stack::at(CODE, &[CODE + 0x200, 1, 2, CODE + 0x210]);
    let expected = whole(&[CODE, CODE + 0x200, CODE + 0x210]);
    assert_eq!(stack.walk(&three_functions()), expected);
    // An interrupted leaf may be at its first byte.
    let stack = Stack::at(CODE + 0x200, &[]);
    assert_eq!(stack.walk(&three_functions()), whole(&[CODE + 0x200]));
}

#[test]
fn registers_that_are_not_all_known_are_a_callers() {
    let mut stack = Stack::at(CODE + 0x200, &[1, 2, CODE + 0x210]);
    stack.known = 1 << RSP | 1 << RBP | 1 << RIP;
    let expected = whole(&[CODE + 0x200, CODE + 0x210]);
    assert_eq!(stack.walk(&three_functions()), expected);
}

#[test]
fn what_was_not_copied() {
    let file = Image::new(Machine::X86_64, CALLED)
        .function(0, 0x100, &[])
        .function(0x100, 0x100, &[op::DEF_CFA, RBX, 8])
        .build();
    let ends = Stack::at(CODE, &[CODE + 1]).walk(&file);
    assert_eq!(ends, ended(stack_end::UNREADABLE, &[CODE, CODE + 1]));
    // No longer copy is taken.
    let words = [CODE + 0x110; STACK_COPY_BYTES / 8];
    let cut = Stack::at(CODE, &words).with(RBX, STACK + STACK_COPY_BYTES as u64);
    let expected = ended(stack_end::CUT, &[CODE, CODE + 0x110]);
    assert_eq!(cut.walk(&file), expected);
    let below = Stack::at(CODE + 0x100, &[0]).with(RBX, STACK - 64);
    let expected = ended(stack_end::UNREADABLE, &[CODE + 0x100]);
    assert_eq!(below.walk(&file), expected);
}

#[test]
fn what_calls_may_change_is_not_known_in_the_caller() {
    const RAX: u8 = 0;
    let file = Image::new(Machine::X86_64, CALLED)
        .function(0, 0x100, &[])
        .function(0x100, 0x100, &[op::DEF_CFA, RAX, 8])
        .function(0x200, 0x100, &[op::DEF_CFA, RBX, 8])
        .function(0x300, 0x100, FIRST)
        .build();
    let words = [CODE + 0x110, CODE + 0x310];
    let stack = Stack::at(CODE, &words).with(RAX, STACK + 8);
    let expected = ended(stack_end::UNSUPPORTED, &[CODE, CODE + 0x110]);
    assert_eq!(stack.walk(&file), expected);
    // In the leaf it is; and what calls preserve is known further on.
    let leaf = Stack::at(CODE + 0x110, &words[1..]).with(RAX, STACK);
    assert_eq!(leaf.walk(&file), whole(&[CODE + 0x110, CODE + 0x310]));
    let preserved = Stack::at(CODE, &[CODE + 0x210, CODE + 0x310]).with(RBX, STACK + 8);
    let expected = whole(&[CODE, CODE + 0x210, CODE + 0x310]);
    assert_eq!(preserved.walk(&file), expected);
}

#[test]
fn registers_taken_off_the_stack_are_what_they_were() {
    // The frame pointer stands 16 below the frame address: popped already.
    let saved = [op::OFFSET | RBP, 2];
    let file = Image::new(Machine::X86_64, CALLED)
        .function(0, 0x100, &saved)
        .function(0x100, 0x100, &[op::DEF_CFA, RBP, 16])
        .function(0x200, 0x100, FIRST)
        .build();
    let stack = Stack::at(CODE, &[CODE + 0x110, 0, CODE + 0x210]).with(RBP, STACK + 8);
    let expected = whole(&[CODE, CODE + 0x110, CODE + 0x210]);
    assert_eq!(stack.walk(&file), expected);
}

#[test]
fn frame_pointers_lead_past_code_without_rules() {
    let file = three_functions();
    let words = [9, 9, 0, CODE + 0x210];
    let stack = Stack::at(JIT + 4, &words).with(RBP, STACK + 16);
    let mut expected = Walk {
        frame_pointers: true,
        ..ended(stack_end::FRAME_POINTERS, &[JIT + 4, CODE + 0x210])
    };
    // That the first function has no caller proves nothing after a guess.
    assert_eq!(stack.walk(&file), expected);

    let words = [9, 9, 0, CODE + 0x10, CODE + 0x210];
    let stack = Stack::at(JIT + 4, &words).with(RBP, STACK + 16);
    expected.frames = vec![JIT + 4, CODE + 0x10, CODE + 0x210];
    expected.end = stack_end::WHOLE;
    assert_eq!(stack.walk(&file), expected);
}

#[test]
fn frame_pointers_that_lead_nowhere() {
    let file = three_functions();
    let in_gap = CODE + 0x800;
    let walk = |pc, frame_pointer| {
        let words = [9, 9, 0, 0x1234];
        Stack::at(pc, &words)
            .with(RBP, frame_pointer)
            .walk(&file)
            .end
    };
    assert_eq!(walk(JIT, 0), stack_end::FRAME_POINTERS);
    assert_eq!(walk(in_gap, 0), stack_end::FRAME_POINTERS);
    // Code without frame pointers keeps anything in the register.
    assert_eq!(walk(JIT, 12345), stack_end::FRAME_POINTERS);
    assert_eq!(walk(in_gap, 12345), stack_end::NO_RULE);
    assert_eq!(walk(in_gap, STACK + 17), stack_end::NO_RULE);
    assert_eq!(walk(in_gap, STACK + 16), stack_end::FRAME_POINTERS);
    assert_eq!(walk(in_gap, STACK + 0x1000), stack_end::UNREADABLE);
}

#[test]
fn addresses_that_are_no_code() {
    let file = three_functions();
    assert_eq!(
        Stack::at(0x1000, &[]).walk(&file),
        ended(stack_end::NO_MAPPING, &[])
    );
    let stack = Stack::at(CODE, &[STACK]);
    assert_eq!(stack.walk(&file), ended(stack_end::NO_MAPPING, &[CODE]));
    // 0 is what the maker of a stack ends it with.
    assert_eq!(Stack::at(CODE, &[0]).walk(&file), whole(&[CODE]));
}

#[test]
fn a_stack_that_does_not_grow_ends() {
    let file = Image::new(Machine::X86_64, CALLED)
        .function(0, 0x100, &[op::DEF_CFA, RBX, 8])
        .build();
    let stack = Stack::at(CODE, &[CODE + 1, CODE + 1]).with(RBX, STACK);
    let expected = ended(stack_end::NO_PROGRESS, &[CODE, CODE + 1]);
    assert_eq!(stack.walk(&file), expected);
}

#[test]
fn no_more_frames_than_are_kept() {
    let words = vec![CODE + 1; STACK_COPY_BYTES / 8];
    let walk = Stack::at(CODE, &words).walk(&three_functions());
    assert_eq!(walk.end, stack_end::CUT);
    assert_eq!(walk.frames.len(), MAX_USER_FRAMES);
}

#[test]
fn expressions() {
    const DEREF: u8 = 0x06;
    const SKIP: u8 = 0x2f;
    const RSP_PLUS: u8 = 0x77;
    let walk = |expression: &[u8]| {
        let mut instructions = vec![op::DEF_CFA_EXPRESSION, expression.len() as u8];
        instructions.extend_from_slice(expression);
        let file = Image::new(Machine::X86_64, CALLED)
            .function(0, 0x100, &instructions)
            .function(0x200, 0x100, FIRST)
            .build();
        let words = [7, STACK + 32, 7, CODE + 0x210];
        Stack::at(CODE, &words).walk(&file)
    };
    assert_eq!(walk(&[RSP_PLUS, 8, DEREF]), whole(&[CODE, CODE + 0x210]));
    let unsupported = ended(stack_end::UNSUPPORTED, &[CODE]);
    // Back to itself, for ever; nothing; what is no expression.
    assert_eq!(walk(&[SKIP, 0xfd, 0xff]), unsupported);
    assert_eq!(walk(&[]), unsupported);
    assert_eq!(walk(&[0xff; 20]), unsupported);
    assert_eq!(
        walk(&[RSP_PLUS, 0xc0, 0, DEREF]),
        ended(stack_end::UNREADABLE, &[CODE])
    );
}

/// `.eh_frame_hdr` with one entry.
fn search_table(function: u64, entry: u64) -> Vec<u8> {
    let mut bytes = vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0, 1, 0, 0, 0];
    let at = CODE + 0xf00;
    for address in [function, entry] {
        bytes.extend_from_slice(&(address.wrapping_sub(at) as u32).to_le_bytes());
    }
    bytes
}

#[test]
fn a_search_table_is_used_and_not_trusted() {
    let image = || Image::new(Machine::X86_64, CALLED).function(0x300, 0x100, &[]);
    let entry = image().next_entry();
    let build = |table: &[u8]| {
        let image = image().function(0x200, 0x100, FIRST);
        image.section(".eh_frame_hdr", 0xf00, table).build()
    };
    let stack = Stack::at(CODE + 0x210, &[]);
    let expected = whole(&[CODE + 0x210]);
    assert_eq!(
        stack.walk(&build(&search_table(CODE + 0x200, entry))),
        expected
    );
    // To another entry, to no entry, to outside.
    let lies = [entry - 36, entry + 3, entry + 1000, 0, u64::MAX];
    for lie in lies {
        let table = search_table(CODE + 0x200, lie);
        assert_eq!(stack.walk(&build(&table)), expected, "{lie:#x}");
    }
    // More entries than there are: only what is there is searched.
    let mut table = search_table(CODE + 0x200, entry);
    table[8..12].fill(0xff);
    assert_eq!(stack.walk(&build(&table)), expected);
}

#[test]
fn code_that_ends_a_signal_handler() {
    const SIGRETURN: &[u8] = &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];
    // Right behind another function, as in C libraries without rules for it.
    let file = Image::new(Machine::X86_64, CALLED)
        .function(0, 0x100, &[])
        .function(0x200, 0x100, &[op::DEF_CFA, RBX, 8])
        .function(0x300, 0x100, FIRST)
        .code(0x100, SIGRETURN)
        .build();
    // The context's registers begin 40 bytes behind the return address: rbx is
    // the 12th, the stack pointer the 16th, the program counter the 17th.
    let mut words = vec![0; 40];
    words[0] = CODE + 0x100;
    words[1 + 5 + 11] = STACK + 8 * 30;
    words[1 + 5 + 15] = STACK + 8 * 25;
    words[1 + 5 + 16] = CODE + 0x200;
    words[30] = CODE + 0x310;
    let interrupted = (CODE + 0x200) | INTERRUPTED;
    let expected = whole(&[CODE, CODE + 0x100, interrupted, CODE + 0x310]);
    assert_eq!(Stack::at(CODE, &words).walk(&file), expected);
}

#[test]
fn code_that_is_known_by_its_bytes() {
    const COROUTINE: &[u8] = &[
        0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff, 0x74, 0x08,
    ];
    const THREAD: &[u8] = &[0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1];
    const MAIN: &[u8] = &[
        0xff, 0xd3, 0x89, 0xc7, 0xe8, 1, 2, 3, 4, 0x66, 0x2e, 0x0f, 0x1f,
    ];
    let walk = |code: &[u8], returns_to: u64| {
        let file = Image::new(Machine::X86_64, CALLED)
            .function(0, 0x100, &[])
            .code(0x800, code)
            .build();
        Stack::at(CODE, &[CODE + 0x800 + returns_to, 3])
            .walk(&file)
            .end
    };
    assert_eq!(walk(COROUTINE, 0), stack_end::WHOLE);
    assert_eq!(walk(THREAD, 6), stack_end::WHOLE);
    assert_eq!(walk(MAIN, 2), stack_end::WHOLE);
    // One byte is another one.
    for (code, returns_to) in [(COROUTINE, 0), (THREAD, 6), (MAIN, 2)] {
        let mut other = code.to_vec();
        other[1] ^= 0x10;
        assert_eq!(walk(&other, returns_to), stack_end::FRAME_POINTERS);
    }
}

#[test]
fn code_that_makes_a_thread() {
    const CLONE: &[u8] = &[0x0f, 0x05, 0x48, 0x85, 0xc0];
    const RAX: u8 = 0;
    let file = Image::new(Machine::X86_64, CALLED)
        .function(0x200, 0x100, FIRST)
        .code(0x800, CLONE)
        .build();
    let stack = Stack::at(CODE + 0x802, &[CODE + 0x210]);
    assert_eq!(stack.walk(&file), whole(&[CODE + 0x802]));
    let parent = stack.with(RAX, 1234);
    let expected = whole(&[CODE + 0x802, CODE + 0x210]);
    assert_eq!(parent.walk(&file), expected);
}

#[test]
fn linkage_tables_without_rules() {
    let file = Image::new(Machine::X86_64, CALLED)
        .function(0x200, 0x100, FIRST)
        .section(".plt", 0x400, &[0xcc; 64])
        .build();
    let cases = [
        (0x400, 1),
        (0x406, 2),
        (0x410, 0),
        (0x416, 0),
        (0x41b, 1),
        (0x43f, 1),
    ];
    for (at, pushed) in cases {
        let mut words = vec![3; pushed];
        words.push(CODE + 0x210);
        let walk = Stack::at(CODE + at, &words).walk(&file);
        assert_eq!(walk, whole(&[CODE + at, CODE + 0x210]), "{at:#x}");
    }
}

#[test]
fn aarch64_registers_and_signed_addresses() {
    const SP: u8 = 31;
    const FP: u8 = 29;
    const LR: u8 = 30;
    const PC: u8 = 32;
    const SIGNATURE: u64 = 0x00aa_0000_0000_0000;
    let called = [op::DEF_CFA, SP, 0];
    // Stores the frame record after its first instruction.
    let stores = [
        op::ADVANCE | 4,
        op::DEF_CFA,
        SP,
        16,
        op::OFFSET | FP,
        2,
        op::OFFSET | LR,
        1,
    ];
    let file = Image::new(Machine::Aarch64, &called)
        .function(0, 0x100, &[])
        .function(0x100, 0x100, &stores)
        .function(0x200, 0x100, &[op::UNDEFINED, LR])
        .build();
    let mut stack = Stack::at(0, &[STACK + 64, (CODE + 0x210) | SIGNATURE])
        .with(RSP, 0)
        .with(RIP, 0)
        .with(SP, STACK)
        .with(LR, (CODE + 0x110) | SIGNATURE)
        .with(PC, CODE + 0x10);
    stack.machine = Machine::Aarch64;
    let expected = whole(&[CODE + 0x10, CODE + 0x110, CODE + 0x210]);
    assert_eq!(stack.walk(&file), expected);
    // A caller without a frame record cannot have kept its return address.
    let stack = stack.with(LR, CODE + 0x20);
    let expected = ended(stack_end::UNSUPPORTED, &[CODE + 0x10, CODE + 0x20]);
    assert_eq!(stack.walk(&file), expected);
}

#[test]
fn what_is_kept_is_bounded_and_what_is_used_stays() {
    let mut image = Image::new(Machine::X86_64, CALLED);
    for function in 0..0x40 {
        image = image.function(function * 0x40, 0x40, &[]);
    }
    let file = image.build();
    let budget = 28 << 10;
    let mut walker = StackWalker::for_machine(Machine::X86_64, Vec::new(), budget);
    for round in 0..0x400 {
        let pc = CODE + round % 0x40 * 0x40;
        let walk = Stack::at(pc, &[0]).walk_by(&mut walker, &file);
        assert_eq!(walk, whole(&[pc]));
        assert!(walker.bytes() <= budget, "{}", walker.bytes());
    }
    assert!(walker.bytes() > budget / 2);
}

#[test]
fn without_time_for_an_index_code_has_no_rules_for_now() {
    let bytes = three_functions();
    let mut file = FileRules::read(&bytes, Machine::X86_64);
    let mut step = |builds: &mut Builds| {
        builds.begin(FileKey::File(1));
        let work = &mut Work::default();
        let step = file.step(&bytes, CODE + 0x10, true, 1, work, builds);
        matches!(step, Step::Rules(_))
    };
    let mut none = Builds::within(Duration::ZERO);
    assert!(!step(&mut none));
    assert!(none.is_refused);
    assert!(step(&mut Builds::new()));
    // What is there stays.
    assert!(step(&mut none));
}
