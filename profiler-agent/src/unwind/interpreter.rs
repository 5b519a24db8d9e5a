//! Where a file's code runs the code of an interpreter.

use std::ops::Range;

use super::elf::{ElfImage, Machine, ReadAt, u32_at};

/// The function of CPython that evaluates. Compilers add `.cold`,
/// `.constprop.0`, `.lto_priv.0` and the like to what they split off or clone.
const PYTHON: &str = "_PyEval_EvalFrameDefault";

/// Largest function that is searched for jumps: four times that of Python 3.13.
const MAX_BODY: u64 = 1 << 20;

/// Jumps to a function that begins in the middle of a frame before it is taken
/// for a part that was split off: one alone could be bytes of another instruction.
const MIN_JUMPS: usize = 4;

/// Where CPython's evaluation function is.
#[derive(Debug, Default)]
pub(super) struct Interpreter {
    /// By symbol.
    bodies: Vec<Range<u64>>,
    /// Where they jump to, ascending: without `.symtab` this is how the cold
    /// part, which handles exceptions, is found.
    exits: Vec<u64>,
}

impl Interpreter {
    pub(super) fn find(file: &dyn ReadAt, image: &ElfImage) -> Self {
        let symbols = image.symbols_with_prefix(file, PYTHON);
        let bodies = symbols.iter().filter_map(|symbol| {
            let suffix = symbol.name.strip_prefix(PYTHON)?;
            let is_part = suffix.is_empty() || suffix.starts_with('.');
            is_part.then(|| symbol.address..symbol.address.saturating_add(symbol.size.max(1)))
        });
        let bodies: Vec<_> = bodies.collect();
        let mut exits = Vec::new();
        for body in &bodies {
            find_exits(file, image, body, &mut exits);
        }
        exits.retain(|exit| !bodies.iter().any(|body| body.contains(exit)));
        exits.sort_unstable();
        Self { bodies, exits }
    }

    /// Whether a function is it or a part of it. `is_entry`: its first row is
    /// that of a function that has just been called.
    pub(super) fn holds(&self, function: &Range<u64>, is_entry: bool) -> bool {
        let mut bodies = self.bodies.iter();
        if bodies.any(|body| body.contains(&function.start)) {
            return true;
        }
        let before = |address| self.exits.partition_point(|exit| *exit < address);
        !is_entry && before(function.end) - before(function.start) >= MIN_JUMPS
    }
}

/// Adds where the code of a function may jump to outside of it.
fn find_exits(file: &dyn ReadAt, image: &ElfImage, body: &Range<u64>, exits: &mut Vec<u64>) {
    let size = body.end - body.start;
    let Some(offset) = image.offset_of(body.start).filter(|_| size <= MAX_BODY) else {
        return;
    };
    let mut code = vec![0; size as usize];
    if file.read_exact_at(&mut code, offset).is_err() {
        return;
    }
    let far = match image.machine {
        Machine::X86_64 => x86_64_jumps(&code),
        Machine::Aarch64 => aarch64_jumps(&code),
    };
    let targets = far
        .into_iter()
        .map(|target| body.start.wrapping_add(target));
    exits.extend(targets.filter(|target| image.is_code(*target)));
}

/// Where `jmp` and `jcc` with 4 bytes of distance lead, from the begin of the code.
fn x86_64_jumps(code: &[u8]) -> Vec<u64> {
    let jumps = code.windows(6).enumerate();
    let jumps = jumps.filter_map(|(at, bytes)| match bytes {
        [0x0f, 0x80..=0x8f, ..] => Some((at + 6, u32_at(bytes, 2))),
        [0xe9, ..] => Some((at + 5, u32_at(bytes, 1))),
        _ => None,
    });
    let targets =
        jumps.map(|(end, distance)| (end as u64).wrapping_add_signed((distance as i32).into()));
    targets.collect()
}

/// Where `b` and `b.cond` lead, from the begin of the code.
fn aarch64_jumps(code: &[u8]) -> Vec<u64> {
    let words = (0_u64..).step_by(4).zip(code.chunks_exact(4));
    let targets = words.filter_map(|(at, word)| {
        let word = u32_at(word, 0);
        // The distance counts words; shifted up, its sign is the word's.
        let distance = match word >> 24 {
            0x14..=0x17 => (word << 6) as i32 >> 4,
            0x54 => ((word & 0x00ff_ffe0) << 8) as i32 >> 11,
            _ => return None,
        };
        Some(at.wrapping_add_signed((distance & !3).into()))
    });
    targets.collect()
}
