//! From an address to its rule. Functions of their own to the verifier, which
//! checks each once.

use profiler_abi::unwind::{
    GRANULE_BITS, GRANULES, MappingEntry, NO_RULE, PAGE_BITS, PageHead, Row, Rule, SEARCH_STEPS,
    TableHead,
};

use super::{heap::Place, state::State};

/// Steps to find one of 65,536 mappings.
const MAPPING_STEPS: u32 = 17;

/// Finds the mapping that holds an address and keeps it in the state. Returns
/// 1, or 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_mapping(slot: u32, address: u64) -> u32 {
    let Some(state) = State::of(slot) else {
        return 0;
    };
    // SAFETY: per-CPU memory that only this kind of program uses.
    unsafe {
        let Some(list) = Place::of((*state).mappings) else {
            return 0;
        };
        let entry = |index: u32| list.add(u64::from(index) * size_of::<MappingEntry>() as u64);
        // The first mapping that ends behind the address.
        let (mut low, mut high) = (0, (*state).mapping_count);
        for _ in 0..MAPPING_STEPS {
            if low >= high {
                break;
            }
            let middle = (low + high) >> 1;
            if entry(middle).add(8).read_u64() <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low >= (*state).mapping_count {
            return 0;
        }
        let found = entry(low);
        let start = found.read_u64();
        if address < start {
            return 0;
        }
        (*state).map_start = start;
        (*state).map_end = found.add(8).read_u64();
        (*state).map_bias = found.add(16).read_u64();
        (*state).map_table = found.add(24).read_u32();
        (*state).map_kind = found.add(28).read_u32();
        1
    }
}

/// Finds the rule that holds at an address of the mapping in the state, and
/// keeps it there. Returns 1, or 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_rule(slot: u32, address: u64) -> u32 {
    let Some(state) = State::of(slot) else {
        return 0;
    };
    // SAFETY: per-CPU memory that only this kind of program uses.
    unsafe {
        let Some(head) = Place::of((*state).map_table) else {
            return 0;
        };
        let relative = address.wrapping_sub((*state).map_bias);
        let number = relative >> PAGE_BITS;
        if number >= u64::from(head.read_u32()) {
            return 0;
        }
        let directory = head.add(size_of::<TableHead>() as u64);
        let page = directory.add(number * 4).read_u32();
        if page == 0 {
            return 0;
        }
        let Some(page) = Place::of(page) else {
            return 0;
        };
        let rule = search(page, relative as u32 & ((1 << PAGE_BITS) - 1));
        if rule == NO_RULE {
            return 0;
        }
        let rule = head
            .add(u64::from(head.add(8).read_u32()) + u64::from(rule) * size_of::<Rule>() as u64);
        (*state).rule = [rule.read_u64(), rule.add(8).read_u64()];
        1
    }
}

/// The rule of the last row of a page that is not behind `pc`.
#[inline(always)]
fn search(page: Place, pc: u32) -> u16 {
    let granule = u64::from(pc >> GRANULE_BITS) & (GRANULES as u64 - 1);
    let mut low = u32::from(page.add(granule * 2).read_u16());
    let mut high = u32::from(page.add(granule * 2 + 2).read_u16());
    let rows = page.add(size_of::<PageHead>() as u64);
    let row = |index: u32| rows.add(u64::from(index) * size_of::<Row>() as u64);
    for _ in 0..=SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = (low + high + 1) >> 1;
        if u32::from(row(middle).read_u16()) <= pc {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    row(low).add(2).read_u16()
}
