//! Code that is known by what it is, where no table says how to leave it.

use super::step::Step;
use crate::unwind::elf::{ElfImage, Machine, ReadAt, Section};

/// Bytes from a program's first address that belong to its first function. It
/// takes 40 in every C library; many have no unwind information for it.
const START_BYTES: u64 = 64;

/// Longest pattern of instructions.
const CODE_BYTES: usize = 13;

/// What an address is known for, other than by call frame information.
pub(super) fn known(image: &ElfImage, file: &dyn ReadAt, address: u64) -> Option<Step> {
    // Where a handler returns to is looked up one before.
    let near = [address.wrapping_add(1), address];
    let last = address.wrapping_sub(last_instruction(image.machine));
    if near
        .iter()
        .chain([&last])
        .any(|at| returns_from_signal(image, file, *at))
    {
        return Some(Step::SignalReturn);
    }
    let is_end = starts_coroutine(image, file, address.wrapping_add(1))
        || starts_thread(image, file, address)
        || exits_with(image, file, address);
    if is_end {
        return Some(Step::End);
    }
    if clones(image, file, address) {
        return Some(Step::Cloned);
    }
    if image.entry != 0 && address.wrapping_sub(image.entry) < START_BYTES {
        return Some(Step::End);
    }
    let mut sections = image.sections.iter().filter(|section| is_linkage(section));
    sections.find_map(|section| {
        let place = address.wrapping_sub(section.address);
        (place < section.size).then(|| linkage(image.machine, section, place))
    })
}

/// Whether a section is a procedure linkage table.
pub(super) fn is_linkage(section: &Section) -> bool {
    matches!(
        section.name.as_str(),
        ".plt" | ".plt.got" | ".plt.sec" | ".iplt"
    )
}

/// The linker that writes no unwind information for its tables is LLD
/// (lld/ELF/Arch). On x86-64, entry 0 is entered with a word on the stack,
/// pushes another one in its first 6 bytes and jumps; each other entry
/// jumps in its first 6 bytes, else pushes a word in the next 5 and jumps to
/// entry 0. On aarch64, entry 0 pushes two words in its first 4 bytes.
fn linkage(machine: Machine, section: &Section, place: u64) -> Step {
    let is_lazy = section.name == ".plt";
    Step::Linkage(match machine {
        Machine::X86_64 if is_lazy && place < 6 => 16,
        Machine::X86_64 if is_lazy && place < 16 => 24,
        Machine::X86_64 if is_lazy && place % 16 >= 11 => 16,
        Machine::X86_64 => 8,
        Machine::Aarch64 if is_lazy && (4..32).contains(&place) => 16,
        Machine::Aarch64 => 0,
    })
}

/// Whether the code at an address asks the kernel to end a signal handler. The
/// instructions are part of the kernel's interface because unwinders look for
/// them (arch/arm64/kernel/vdso/sigreturn.S says so).
pub(super) fn returns_from_signal(image: &ElfImage, file: &dyn ReadAt, address: u64) -> bool {
    /// `mov $15, %rax; syscall` with a sign-extended number, and with one of 32 bits.
    const X86_64: [&[u8]; 2] = [
        &[0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05],
        &[0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05],
    ];
    /// `mov x8, #139; svc #0`.
    const AARCH64: [&[u8]; 1] = [&[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]];
    let patterns = match image.machine {
        Machine::X86_64 => X86_64.as_slice(),
        Machine::Aarch64 => AARCH64.as_slice(),
    };
    let bytes = code_at(image, file, address);
    patterns.iter().any(|pattern| bytes.starts_with(pattern))
}

/// Whether the code at an address comes back from the system call that makes a
/// thread, in the C library's `clone` and `clone3`. These leave their unwind
/// information out from there on, because it would be wrong in the new thread,
/// which comes back too.
fn clones(image: &ElfImage, file: &dyn ReadAt, address: u64) -> bool {
    /// `syscall; test %rax, %rax`.
    const X86_64: &[u8] = &[0x0f, 0x05, 0x48, 0x85, 0xc0];
    /// `svc #0; cmp x0, #0`.
    const AARCH64: &[u8] = &[0x01, 0x00, 0x00, 0xd4, 0x1f, 0x00, 0x00, 0xf1];
    let (pattern, first) = match image.machine {
        Machine::X86_64 => (X86_64, 2),
        Machine::Aarch64 => (AARCH64, 4),
    };
    code_at(image, file, address.wrapping_sub(first)).starts_with(pattern)
}

/// Whether the code at an address is where the first function of a coroutine
/// returns to: glibc's `__start_context`, whose address `makecontext` puts on
/// the new stack. What is before it in memory is no call.
fn starts_coroutine(image: &ElfImage, file: &dyn ReadAt, address: u64) -> bool {
    /// `mov %rbx, %rsp; mov (%rsp), %rdi; test %rdi, %rdi; je`, in all versions.
    const X86_64: &[u8] = &[
        0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff, 0x74,
    ];
    image.machine == Machine::X86_64 && code_at(image, file, address).starts_with(X86_64)
}

/// Whether the code at an address calls a new thread's function, in musl's
/// `__clone`, of which nothing tells.
fn starts_thread(image: &ElfImage, file: &dyn ReadAt, address: u64) -> bool {
    /// `xor %ebp, %ebp; pop %rdi; call *%r9`. Its last byte is looked up.
    const X86_64: &[u8] = &[0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1];
    let first = address.wrapping_sub(X86_64.len() as u64 - 1);
    image.machine == Machine::X86_64 && code_at(image, file, first).starts_with(X86_64)
}

/// Whether the code at an address calls a function through a pointer, and then
/// with its result one that does not return, so that only padding
/// follows: `exit(main())` in musl's `__libc_start_main`, of which nothing tells.
fn exits_with(image: &ElfImage, file: &dyn ReadAt, address: u64) -> bool {
    /// No operation, of several lengths, as the assembler pads.
    const PADDING: [&[u8]; 5] = [
        &[0x66, 0x2e, 0x0f, 0x1f],
        &[0x66, 0x66, 0x2e, 0x0f],
        &[0x66, 0x0f, 0x1f],
        &[0x0f, 0x1f],
        &[0x66, 0x90],
    ];
    if image.machine != Machine::X86_64 {
        return false;
    }
    // `call *%reg; mov %eax, %edi; call`: the call's last byte is looked up.
    match code_at(image, file, address.wrapping_sub(1)) {
        [0xff, 0xd0..=0xd7, 0x89, 0xc7, 0xe8, _, _, _, _, after @ ..] => {
            PADDING.iter().any(|padding| after.starts_with(padding))
        }
        _ => false,
    }
}

/// The first bytes of code at an address; none where there is no code.
fn code_at(image: &ElfImage, file: &dyn ReadAt, address: u64) -> [u8; CODE_BYTES] {
    let mut bytes = [0; CODE_BYTES];
    let offset = image.offset_of(address).filter(|_| image.is_code(address));
    let read = offset.map(|offset| file.read_exact_at(&mut bytes, offset));
    match read {
        Some(Ok(())) => bytes,
        _ => [0; CODE_BYTES],
    }
}

/// From the first instruction of such code to the last.
const fn last_instruction(machine: Machine) -> u64 {
    match machine {
        Machine::X86_64 => 7,
        Machine::Aarch64 => 4,
    }
}
