//! Reads any bytes as a jitdump, at once and as it grows.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run jitdump fuzz/corpus/jitdump fuzz/seeds/jitdump --
//! -max_total_time=60`
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_agent::symbols::jitdump::Jitdump;

fuzz_target!(|bytes: &[u8]| {
    let Ok(whole) = Jitdump::read(&bytes.to_vec()) else {
        return;
    };
    // Each record takes 16 bytes and leaves four ranges at most for each that it covers.
    assert!(whole.len() <= 4 * bytes.len());
    let mut grown = Jitdump::read(&bytes[..40].to_vec()).expect("it has a header");
    for len in (40..bytes.len()).step_by(23) {
        grown
            .refresh(&bytes[..len].to_vec())
            .expect("memory can be read");
    }
    grown.refresh(&bytes.to_vec()).expect("memory can be read");
    assert_eq!(grown.len(), whole.len());
    for number in bytes.windows(8).step_by(4) {
        let address = u64::from_le_bytes(number.try_into().expect("eight bytes"));
        for time in [None, Some(0), Some(address), Some(u64::MAX)] {
            assert_eq!(whole.name(address, time), grown.name(address, time));
        }
    }
});
