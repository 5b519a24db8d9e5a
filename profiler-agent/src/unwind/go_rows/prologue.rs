//! What the first instructions of a function do to the frame pointer.

use super::function::Deltas;
use crate::unwind::{
    build::Builder,
    elf::{Machine, u32_at},
};

/// How a function keeps its caller's frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prologue {
    /// It does not, or not in a way that is known.
    Unknown,
    /// Where Go always puts it.
    Saved {
        /// From here on it is there.
        from: u64,
        /// From here on the frame pointer is the function's own.
        own: u64,
    },
}

impl Prologue {
    /// Looks at the instructions around the first one that makes a frame.
    pub(super) fn find(builder: &Builder<'_>, deltas: &Deltas) -> Self {
        let Some(first) = deltas.steps.iter().find(|delta| delta.value != 0) else {
            return Self::Unknown;
        };
        let saved = match builder.image.machine {
            Machine::X86_64 => x86_64(builder, first.start, first.value),
            Machine::Aarch64 => aarch64(builder, first.start),
        };
        saved.unwrap_or(Self::Unknown)
    }
}

/// `push %rbp` and `mov %rsp, %rbp` (Go 1.21), or `mov %rbp, N-8(%rsp)` and
/// `lea N-8(%rsp), %rbp`, of the same length, after `sub $N, %rsp`.
fn x86_64(builder: &Builder<'_>, at: u64, delta: i64) -> Option<Prologue> {
    let mut code = [0; 9];
    if !builder.read_code(at.checked_sub(1)?, &mut code) {
        return None;
    }
    let place = delta.checked_sub(8)?;
    let by_move = |length| {
        Some(Prologue::Saved {
            from: at + length,
            own: at + 2 * length,
        })
    };
    match code {
        [0x55, 0x48, 0x89, 0xe5, ..] if delta == 8 => Some(Prologue::Saved {
            from: at,
            own: at + 3,
        }),
        [_, 0x48, 0x89, 0x2c, 0x24, ..] if place == 0 => by_move(4),
        [_, 0x48, 0x89, 0x6c, 0x24, low, ..] if place == i64::from(low as i8) => by_move(5),
        [_, 0x48, 0x89, 0xac, 0x24, a, b, c, d]
            if place == i64::from(i32::from_le_bytes([a, b, c, d])) =>
        {
            by_move(8)
        }
        _ => None,
    }
}

/// `str x30, [sp, #-N]!`, `stur x29, [sp, #-8]` and `sub x29, sp, #8`, or
/// `stp x29, x30, [x20, #-8]`, `mov sp, x20` and the latter.
fn aarch64(builder: &Builder<'_>, at: u64) -> Option<Prologue> {
    const MOV_SP_X20: u32 = 0x9100_029f;
    const STUR_X29: u32 = 0xf81f_83fd;
    let mut code = [0; 8];
    if !builder.read_code(at.checked_sub(4)?, &mut code) {
        return None;
    }
    match (u32_at(&code, 0), u32_at(&code, 4)) {
        (MOV_SP_X20, _) => Some(Prologue::Saved {
            from: at,
            own: at + 4,
        }),
        (before, STUR_X29) if before & 0xffe0_0fff == 0xf800_0ffe => Some(Prologue::Saved {
            from: at + 4,
            own: at + 8,
        }),
        _ => None,
    }
}

/// Where in a function's code its frame pointer has been cleared: behind
/// `mov $0, %rbp`, which Go's assembler writes in 7 bytes, or `mov x29, #0`.
pub(super) fn cleared(machine: Machine, code: &[u8]) -> Option<usize> {
    const X86_64: [u8; 7] = [0x48, 0xc7, 0xc5, 0, 0, 0, 0];
    const AARCH64: [[u8; 4]; 2] = [[0x1d, 0, 0x80, 0xd2], [0xfd, 0x03, 0x1f, 0xaa]];
    match machine {
        Machine::X86_64 => {
            let at = code
                .windows(X86_64.len())
                .position(|bytes| bytes == X86_64)?;
            Some(at + X86_64.len())
        }
        Machine::Aarch64 => {
            let mut words = code.chunks_exact(4);
            let at = words.position(|word| AARCH64.iter().any(|clear| clear == word))?;
            Some(4 * (at + 1))
        }
    }
}
