//! Code of C libraries that is written in assembly and not described by
//! anything, but recognised for certain by its bytes: where a signal handler
//! returns to, where a thread begins, where a program begins.

use std::ops::Range;

use memchr::memmem::Finder;
use profiler_abi::unwind::Rule;

use super::{
    build::Builder,
    cfi::{END, signal},
    elf::{Machine, u32_at, u64_at},
    table::{BuildError, Source},
};

/// Most bytes of code that are searched: more than any C library has.
const MAX_CODE: u64 = 16 << 20;

/// `mov $15, %rax` and `syscall` (`rt_sigreturn`).
const X86_64_SIGRETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];

/// `mov x8, #139` and `svc #0` (`rt_sigreturn`).
const AARCH64_SIGRETURN: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];

/// Bytes of the `siginfo` that stands before the `ucontext` on aarch64
/// (arch/arm64/kernel/signal.c, `struct rt_sigframe`).
const AARCH64_SIGINFO: i32 = 128;

/// How musl's `__clone` goes on in the new thread on x86-64: clears the frame
/// pointer, calls the thread's function and exits with what it returns.
const X86_64_THREAD: [u8; 15] = [
    0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1, 0x89, 0xc7, 0x31, 0xc0, 0xb0, 60, 0x0f, 0x05, 0xf4,
];

/// Most bytes of a program's begin up to its first call.
const MAX_START: usize = 64;

/// Adds what is known by its bytes wherever it is, in files that may hold a
/// C library: those that need no other file.
pub(super) fn read(builder: &mut Builder<'_>) -> Result<(), BuildError> {
    let size: u64 = builder.image.code().map(|segment| segment.size).sum();
    if size > MAX_CODE || needs_libraries(builder) {
        return Ok(());
    }
    let segments: Vec<_> = builder.image.code().copied().collect();
    for segment in segments {
        let mut code = vec![0; segment.size as usize];
        if !builder.read_code(segment.address, &mut code) {
            continue;
        }
        let trampoline: &[u8] = match builder.image.machine {
            Machine::X86_64 => &X86_64_SIGRETURN,
            Machine::Aarch64 => &AARCH64_SIGRETURN,
        };
        for at in Finder::new(trampoline).find_iter(&code) {
            let end = segment.address + (at + trampoline.len()) as u64;
            if let Some((rule, start)) = trampoline_at(builder, segment.address + at as u64) {
                add(builder, start..end, rule)?;
            }
        }
        for at in Finder::new(&X86_64_THREAD).find_iter(&code) {
            let start = segment.address + at as u64;
            add(builder, start..start + X86_64_THREAD.len() as u64, END)?;
        }
    }
    Ok(())
}

/// Adds the begin of the program, where nothing else describes it: it clears
/// the frame pointer and calls what never returns.
pub(super) fn read_start(builder: &mut Builder<'_>) -> Result<(), BuildError> {
    let start = builder.image.entry;
    let mut code = [0; MAX_START];
    let is_described = builder.covers(&(start..start.saturating_add(1)));
    if start == 0 || is_described || !builder.read_code(start, &mut code) {
        return Ok(());
    }
    let size = match builder.image.machine {
        Machine::X86_64 => x86_64_start(&code),
        Machine::Aarch64 => aarch64_start(&code),
    };
    match size {
        Some(size) => add(builder, start..start.saturating_add(size as u64), END),
        None => Ok(()),
    }
}

/// The rule of the signal trampoline that begins at an address, and where its
/// rows begin: return addresses are looked up one before, so at what fills the
/// space there.
pub(super) fn trampoline_at(builder: &Builder<'_>, address: u64) -> Option<(Rule, u64)> {
    let mut code = [0; X86_64_SIGRETURN.len()];
    if !builder.read_code(address, &mut code) {
        return None;
    }
    let rule = match builder.image.machine {
        Machine::X86_64 if code == X86_64_SIGRETURN => signal(0),
        Machine::Aarch64 if code.starts_with(&AARCH64_SIGRETURN) => signal(AARCH64_SIGINFO),
        _ => return None,
    };
    Some((rule, before(builder, address)))
}

/// One before an address, if no instruction ends there that code could stop
/// at: only what fills space does, or is a part of it.
fn before(builder: &Builder<'_>, address: u64) -> u64 {
    const FILLERS: [u8; 3] = [0x90, 0xcc, 0];
    let mut byte = [0];
    let before = address.saturating_sub(1);
    let is_filler = builder.image.machine == Machine::Aarch64
        || builder.read_code(before, &mut byte) && FILLERS.contains(&byte[0]);
    if is_filler { before } else { address }
}

/// `xor %ebp, %ebp` (32 or 64 bits), behind an `endbr64` or not, up to and with
/// the first call.
fn x86_64_start(code: &[u8]) -> Option<usize> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let body = code.strip_prefix(&ENDBR64).unwrap_or(code);
    if !body.starts_with(&[0x31, 0xed]) && !body.starts_with(&[0x48, 0x31, 0xed]) {
        return None;
    }
    // A call's first byte can also be part of another instruction's distance.
    let mut body = body;
    while let Some(rest) = after_start_instruction(body) {
        body = rest;
    }
    let skipped = code.len() - body.len();
    let call = body.windows(2).position(|bytes| match bytes {
        [0xe8, _] => true,
        bytes => bytes == [0xff, 0x15],
    })?;
    let size = if body[call] == 0xe8 { 5 } else { 6 };
    Some(skipped + call + size)
}

/// What follows the first instruction, if that is one with which C libraries
/// (glibc's sysdeps/x86_64/start.S, musl's arch/x86_64/crt_arch.h) set up the
/// arguments of that call.
fn after_start_instruction(code: &[u8]) -> Option<&[u8]> {
    /// Its first bytes, and how many bytes of a number or distance follow.
    const INSTRUCTIONS: [(&[u8], usize); 18] = [
        (&[0x31, 0xed], 0),             // xor %ebp, %ebp
        (&[0x48, 0x31, 0xed], 0),       // xor %rbp, %rbp
        (&[0x48, 0x89, 0xe7], 0),       // mov %rsp, %rdi
        (&[0x48, 0x8d, 0x35], 4),       // lea _DYNAMIC(%rip), %rsi
        (&[0x48, 0x83, 0xe4, 0xf0], 0), // and $-16, %rsp
        (&[0x49, 0x89, 0xd1], 0),       // mov %rdx, %r9
        (&[0x5e], 0),                   // pop %rsi
        (&[0x48, 0x89, 0xe2], 0),       // mov %rsp, %rdx
        (&[0x50], 0),                   // push %rax
        (&[0x54], 0),                   // push %rsp
        (&[0x45, 0x31, 0xc0], 0),       // xor %r8d, %r8d
        (&[0x31, 0xc9], 0),             // xor %ecx, %ecx
        (&[0x49, 0xc7, 0xc0], 4),       // mov $__libc_csu_fini, %r8
        (&[0x48, 0xc7, 0xc1], 4),       // mov $__libc_csu_init, %rcx
        (&[0x48, 0xc7, 0xc7], 4),       // mov $main, %rdi
        (&[0x4c, 0x8d, 0x05], 4),       // lea __libc_csu_fini(%rip), %r8
        (&[0x48, 0x8d, 0x0d], 4),       // lea __libc_csu_init(%rip), %rcx
        (&[0x48, 0x8d, 0x3d], 4),       // lea main(%rip), %rdi
    ];
    INSTRUCTIONS.iter().find_map(|(first, more)| {
        let rest = code.strip_prefix(*first)?;
        rest.get(*more..)
    })
}

/// `mov x29, #0` and `mov x30, #0`, up to and with the first branch.
fn aarch64_start(code: &[u8]) -> Option<usize> {
    const CLEAR: u64 = 0xd280_001e_d280_001d;
    const B: u32 = 0b00_0101;
    const BL: u32 = 0b10_0101;
    if u64_at(code, 0) != CLEAR {
        return None;
    }
    let mut words = code.chunks_exact(4);
    let branch = words.position(|word| matches!(u32_at(word, 0) >> 26, B | BL))?;
    Some(4 * (branch + 1))
}

/// Whether it is linked to other files (`DT_NEEDED`).
fn needs_libraries(builder: &Builder<'_>) -> bool {
    const MAX_SIZE: u64 = 64 << 10;
    const SIZE: usize = 16;
    const DT_NEEDED: u64 = 1;
    let Some(section) = builder.image.section(".dynamic") else {
        return false;
    };
    let contents = builder.image.contents(builder.file, section, MAX_SIZE);
    let contents = contents.unwrap_or_default();
    let mut entries = contents.chunks_exact(SIZE);
    entries.any(|entry| u64_at(entry, 0) == DT_NEEDED)
}

fn add(builder: &mut Builder<'_>, range: Range<u64>, rule: Rule) -> Result<(), BuildError> {
    let row = builder.row(range.start, rule);
    match builder.code_range(range.start, range.end - range.start) {
        Some(range) => builder.add(Source::None, range, &mut [row]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_no_call() {
        let mut musl = vec![0x48, 0x31, 0xed, 0x48, 0x89, 0xe7];
        musl.extend([0x48, 0x8d, 0x35, 0xe8, 0x3d, 0xff, 0x15]);
        musl.extend([0x48, 0x83, 0xe4, 0xf0, 0xe8, 0, 0, 0, 0]);
        let size = musl.len();
        musl.resize(MAX_START, 0xe8);
        assert_eq!(x86_64_start(&musl), Some(size));
    }

    #[test]
    fn the_first_call_ends_it() {
        let mut glibc = vec![0xf3, 0x0f, 0x1e, 0xfa, 0x31, 0xed, 0x49, 0x89, 0xd1, 0x5e];
        glibc.extend([0x48, 0x89, 0xe2, 0x48, 0x83, 0xe4, 0xf0, 0x50, 0x54]);
        glibc.extend([
            0x45, 0x31, 0xc0, 0x31, 0xc9, 0x48, 0x8d, 0x3d, 1, 0xe8, 2, 3,
        ]);
        glibc.extend([0xff, 0x15, 4, 5, 6, 7]);
        let size = glibc.len();
        glibc.resize(MAX_START, 0xe8);
        assert_eq!(x86_64_start(&glibc), Some(size));
        assert_eq!(x86_64_start(&glibc[6..]), None);
        // With an instruction that is not known.
        assert_eq!(x86_64_start(&[0x31, 0xed, 0x90, 0xe8, 1, 2, 3, 4]), Some(8));
        assert_eq!(x86_64_start(&[0x31, 0xed, 0x90, 0x90]), None);
    }
}
