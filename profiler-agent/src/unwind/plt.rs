//! Rows of procedure linkage tables that no call frame information describes:
//! LLD writes none. Entries are recognised by their instructions (psABI for
//! x86-64, 5.2 and 13.2, and for aarch64); what is not, gets no row.

use profiler_abi::unwind::{Rule, cfa, saved};

use super::{
    build::Builder,
    elf::{Machine, u32_at},
    rows::CodeRow,
    table::{BuildError, Source},
};

/// Sections that hold entries and nothing else.
const SECTIONS: [&str; 4] = [".plt", ".plt.sec", ".plt.got", ".iplt"];

/// Largest section that is looked at: a million entries.
const MAX_SIZE: u64 = 16 << 20;

/// Bytes of an entry on x86-64, and of most on aarch64.
const ENTRY: usize = 16;

/// The return address is what the stack pointer points at.
const CALLED: Rule = Rule {
    cfa: cfa::STACK_POINTER,
    cfa_offset: 8,
    frame_pointer: saved::SAME,
    frame_pointer_offset: 0,
    return_address: saved::AT_CFA,
    return_address_offset: -8,
    runtime: 0,
    parameter: 0,
};

/// Adds rows of linkage tables that have none yet.
pub(super) fn read(builder: &mut Builder<'_>) -> Result<(), BuildError> {
    let sections = SECTIONS
        .iter()
        .filter_map(|name| builder.image.section(name));
    let sections: Vec<_> = sections
        .filter(|section| section.is_code() && section.size <= MAX_SIZE)
        .map(|section| section.address..section.address.saturating_add(section.size))
        .collect();
    for section in sections {
        let mut code = vec![0; (section.end - section.start) as usize];
        if builder.covers(&section) || !builder.read_code(section.start, &mut code) {
            continue;
        }
        let rules = match builder.image.machine {
            // Rules speak of the place in an entry.
            Machine::X86_64 if section.start % ENTRY as u64 != 0 => continue,
            Machine::X86_64 => x86_64(&code),
            Machine::Aarch64 => aarch64(&code),
        };
        add(builder, section.start, &rules)?;
    }
    Ok(())
}

/// A rule for a part of a section, from one place to another.
type Part = (std::ops::Range<usize>, Rule);

fn add(builder: &mut Builder<'_>, start: u64, parts: &[Part]) -> Result<(), BuildError> {
    for (part, rule) in parts {
        let (from, to) = (start + part.start as u64, start + part.end as u64);
        let row: CodeRow = builder.row(from, *rule);
        if let Some(range) = builder.code_range(from, to - from) {
            builder.add(Source::None, range, &mut [row])?;
        }
    }
    Ok(())
}

fn x86_64(code: &[u8]) -> Vec<Part> {
    let pushing = |parameter| Rule {
        cfa: cfa::PLT,
        parameter,
        ..CALLED
    };
    let pushed = |cfa_offset| Rule {
        cfa_offset,
        ..CALLED
    };
    let mut parts = Vec::new();
    for (index, entry) in code.chunks(ENTRY).enumerate() {
        let at = index * ENTRY;
        let all = at..at + entry.len();
        match entry {
            // The first one: pushes a word more on top of the entry's index.
            [0xff, 0x35, _, _, _, _, 0xff | 0xf2, ..] => {
                parts.push((at..at + 6, pushed(16)));
                parts.push((at + 6..all.end, pushed(24)));
            }
            // Jumps; or pushes its index and jumps to the first one.
            [0xff, 0x25, _, _, _, _, 0x68, _, _, _, _, 0xe9, ..] => parts.push((all, pushing(11))),
            [0xf3, 0x0f, 0x1e, 0xfa, 0x68, _, _, _, _, 0xe9 | 0xf2, ..] => {
                parts.push((all, pushing(9)));
            }
            // Only jumps.
            [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, ..]
            | [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, ..]
            | [0xff, 0x25, _, _, _, _, 0x66, 0x90, 0xff, 0x25, ..]
            | [0xff, 0x25, _, _, _, _, 0x66, 0x90]
            | [0xff, 0x25, _, _, _, _, 0xcc | 0x0f, ..] => parts.push((all, CALLED)),
            _ => {}
        }
    }
    parts
}

/// Instructions of entries are few: an address is loaded and jumped to. The
/// first entry pushes the link register before.
fn aarch64(code: &[u8]) -> Vec<Part> {
    const PUSH: u32 = 0xa9bf_7bf0;
    const JUMP: u32 = 0xd61f_0220;
    const OTHERS: [(u32, u32); 5] = [
        // adrp x16; ldr x17, [x16, ..]; add x16, x16, ..; nop; bti c
        (0x9f00_001f, 0x9000_0010),
        (0xffc0_03ff, 0xf940_0211),
        (0xffc0_03ff, 0x9100_0210),
        (u32::MAX, 0xd503_201f),
        (u32::MAX, 0xd503_245f),
    ];
    let called = Rule {
        cfa_offset: 0,
        return_address: saved::LINK_REGISTER,
        return_address_offset: 0,
        ..CALLED
    };
    let pushed = Rule {
        cfa_offset: 16,
        ..CALLED
    };
    let mut parts = Vec::new();
    let mut rule = called;
    for (index, word) in code.chunks_exact(4).enumerate() {
        let all = 4 * index..4 * index + 4;
        let instruction = u32_at(word, 0);
        let is_other = |(mask, value): &(u32, u32)| instruction & mask == *value;
        if !matches!(instruction, PUSH | JUMP) && !OTHERS.iter().any(is_other) {
            break;
        }
        parts.push((all, rule));
        match instruction {
            PUSH => rule = pushed,
            JUMP => rule = called,
            _ => {}
        }
    }
    parts
}
