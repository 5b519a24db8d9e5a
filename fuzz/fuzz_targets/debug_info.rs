//! Reads any bytes as an ELF file with symbols and debug information, and as an entry of the
//! cache of names.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run debug_info fuzz/corpus/debug_info fuzz/seeds/debug_info --
//! -max_total_time=60`
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use profiler_agent::mapped_file::MappedFile;
use profiler_agent::symbols::cache::Entry;
use profiler_agent::symbols::debug_data;
use profiler_agent::symbols::sections::Binary;
use profiler_agent::symbols::sources::Sources;

/// Most bytes of debug information, unpacked.
const LIMIT: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    // Few bytes of the disk must not become many of memory.
    if let Some(entry) = Entry::from_bytes(bytes) {
        assert!(entry.bytes() <= 8 << 20);
    }
    let Ok(file) = MappedFile::from_memory(bytes).map(Arc::new) else {
        return;
    };
    if let Ok(binary) = Binary::new(Arc::clone(&file)) {
        // An error is as good as anything.
        drop(debug_data::unpacked(&binary));
    }
    let Ok(sources) = Sources::of(&file, None) else {
        return;
    };
    if let Ok(Some(debug)) = sources.read_debug(LIMIT) {
        // Addresses all over the code that the file says it has.
        let mut addresses: Vec<u64> = (0..bytes.len() as u64)
            .step_by(64)
            .filter_map(|offset| sources.address_of(offset))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let pass = sources.debug_names(&debug, &addresses, &|| false);
        assert_eq!(pass.names.len(), addresses.len());
        let names = pass.names.iter().flatten();
        assert!(
            names
                .map(|name| name.function.len())
                .all(|len| len <= 1024 + 3)
        );
    }
});
