//! Reads any bytes as one record of the ring buffer, and as a sequence of them.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run ring_records fuzz/corpus/ring_records fuzz/seeds/ring_records --
//! -max_total_time=60`
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_agent::reader::{Record, parse, records};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    if let Ok(record) = &whole {
        check(record, bytes.len());
    }
    let all: Vec<_> = records(bytes).collect();
    for record in all.iter().flatten() {
        check(record, bytes.len());
    }
    // A record alone is a sequence of one.
    if whole.is_ok() {
        assert!(matches!(all.as_slice(), [Ok(_)]));
    }
    // Where one was wrong in its length, nothing after it is guessed.
    assert!(all.len() <= bytes.len());
});

/// No record holds more than the bytes it came from.
fn check(record: &Record<'_>, bytes: usize) {
    if let Record::Stack { frames, .. } | Record::Account(_, frames) = record {
        assert!(size_of_val(*frames) <= bytes);
    }
}
