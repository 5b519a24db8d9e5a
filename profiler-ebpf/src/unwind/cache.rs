//! The rules found last. The same return addresses come again and again: most
//! frames are found here, without mapping, page and row.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use super::state::State;

/// Rules kept per CPU: 16 KiB. A profile of one program has some hundreds of
/// return addresses.
const ENTRIES: usize = 512;

/// A rule and what it was found for.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    /// [`seal`]: a program that interrupts another one between two of its writes
    /// leaves an entry that does not fit together, and so is not found.
    seal: u64,
    rule: [u64; 2],
}

#[repr(C)]
struct Entries([Entry; ENTRIES]);

#[map]
static RULES: PerCpuArray<Entries> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn entry(address: u64) -> Option<*mut Entry> {
    let entries = RULES.get_ptr_mut(0)?;
    // The upper bits of a product depend on all bits below (Knuth's
    // multiplicative hashing, with 2^64 divided by the golden ratio).
    let index = address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ENTRIES.trailing_zeros());
    // SAFETY: the index has as many bits as there are entries.
    Some(unsafe { (&raw mut (*entries).0[index as usize & (ENTRIES - 1)]).cast() })
}

/// What generation of mappings, address and rule come to.
#[inline(always)]
fn seal(generation: u64, address: u64, [low, high]: [u64; 2]) -> u64 {
    generation ^ address.rotate_left(32) ^ low ^ high.rotate_left(16)
}

/// Takes the rule of an address into the state. False: it is not here.
///
/// # Safety
/// `state` must come from [`State::of`].
#[inline(always)]
pub(super) unsafe fn find(state: *mut State, address: u64) -> bool {
    let Some(entry) = entry(address) else {
        return false;
    };
    // SAFETY: per-CPU map memory, and the caller's promise.
    unsafe {
        let rule = (*entry).rule;
        if (*entry).address != address || (*entry).seal != seal((*state).generation, address, rule)
        {
            return false;
        }
        (*state).rule = rule;
        (*state).has_rule = 1;
    }
    true
}

/// Keeps the rule in the state as that of an address.
///
/// # Safety
/// As [`find`].
#[inline(always)]
pub(super) unsafe fn keep(state: *const State, address: u64) {
    let Some(entry) = entry(address) else {
        return;
    };
    // SAFETY: as in `find`.
    unsafe {
        (*entry).address = address;
        (*entry).seal = seal((*state).generation, address, (*state).rule);
        (*entry).rule = (*state).rule;
    }
}
