//! Reads any bytes as a perf map, at once and in parts.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run perf_map fuzz/corpus/perf_map fuzz/seeds/perf_map --
//! -max_total_time=60`
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_agent::symbols::perf_map::PerfMap;

/// Longest name that is kept, with room for bytes that are no UTF-8.
const MAX_NAME: usize = 3 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let mut whole = PerfMap::default();
    whole.push(bytes);
    let mut parts = PerfMap::default();
    for part in bytes.chunks(7) {
        parts.push(part);
    }
    assert_eq!(parts.skipped(), whole.skipped());
    assert_eq!(parts.len(), whole.len());
    // Each entry leaves three ranges at most.
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(whole.len() <= 3 * lines);
    for address in addresses(bytes) {
        let name = whole.name(address);
        assert_eq!(name, parts.name(address));
        if let Some(name) = name {
            assert!((1..=MAX_NAME).contains(&name.function.len()));
        }
    }
});

/// Those that the map itself names, and their neighbours.
fn addresses(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let words = bytes.split(|byte| !byte.is_ascii_hexdigit());
    let numbers = words.filter_map(|word| {
        let text = std::str::from_utf8(word).ok()?;
        u64::from_str_radix(text, 16).ok()
    });
    numbers.flat_map(|number| [number.wrapping_sub(1), number, number.wrapping_add(1)])
}
