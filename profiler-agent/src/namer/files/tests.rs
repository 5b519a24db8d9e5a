use std::fs;

use tempfile::TempDir;

use super::*;
use crate::symbols::{
    shared::SymbolSettings,
    sources::tests::{Bench, SOURCE, check_whole, offsets},
};

fn symbols(folder: &TempDir, debug_bytes: u64) -> Arc<Symbols> {
    Symbols::new(SymbolSettings {
        cache_dir: Some(folder.path().join("cache")),
        debug_bytes,
        ..SymbolSettings::default()
    })
}

/// One session: the names that come at once, and those that come later.
fn session(bench: &Bench, symbols: &Arc<Symbols>, offsets: &[u64]) -> ([Vec<Named>; 2], Shortfall) {
    let mut files = Files::new(Arc::clone(symbols));
    let at_once = files.names(
        Batch {
            file: bench.program(),
            offsets: offsets.to_vec(),
            frames: vec![0, 1],
        },
        &|| false,
    );
    let mut later = Vec::new();
    while files.are_waiting() {
        later.extend(files.refine_one(&|| false));
    }
    files.close();
    ([at_once, later], files.shortfall)
}

fn check(named: &[Named]) {
    let names: Vec<_> = named.iter().map(|(_, names)| names.clone()).collect();
    check_whole(&names);
    assert_eq!((named[0].0, named[1].0), (0, 1));
}

#[test]
fn a_second_session_has_all_names_at_once() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let folder = TempDir::new().unwrap();
    let offsets = offsets(&bench.sources());
    let ([first, then], _) = session(&bench, &symbols(&folder, 1 << 30), &offsets);
    assert!(
        first
            .iter()
            .all(|(_, names)| names.len() == 1 && names[0].line == 0)
    );
    check(&then);
    let ([first, then], shortfall) = session(&bench, &symbols(&folder, 1 << 30), &offsets);
    check(&first);
    assert_eq!(then, []);
    assert_eq!(shortfall, Shortfall::default());
    // By other settings names are others.
    let ([first, then], shortfall) = session(&bench, &symbols(&folder, 10), &offsets);
    assert_eq!((first.len(), then), (2, vec![]));
    assert_eq!((shortfall.large, first[0].1[0].line), (1, 0));
}

#[test]
fn a_debug_file_that_comes_later_is_used() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let folder = TempDir::new().unwrap();
    let symbols = symbols(&folder, 1 << 30);
    let offsets = offsets(&bench.sources());
    let debug = bench.by_build_id();
    bench.run("objcopy --only-keep-debug app/prog kept");
    bench.run("strip app/prog");
    for _ in 0..2 {
        let ([first, then], _) = session(&bench, &symbols, &offsets);
        assert_eq!((first, then), (vec![(0, vec![]), (1, vec![])], vec![]));
    }
    fs::rename(bench.path("kept"), debug).unwrap();
    let ([_, then], _) = session(&bench, &symbols, &offsets);
    check(&then);
    let ([first, _], _) = session(&bench, &symbols, &offsets);
    check(&first);
}

/// Whoever links a file chooses its build-id.
#[test]
fn a_file_of_the_same_build_id_is_another_one() {
    let Some(bench) = Bench::new() else { return };
    let folder = TempDir::new().unwrap();
    let symbols = symbols(&folder, 1 << 30);
    let same = "-Wl,--build-id=0x1234567890";
    bench.compile(&SOURCE.replace("outermost", "hostile"), same);
    let places = offsets(&bench.sources());
    let ([_, then], _) = session(&bench, &symbols, &places);
    assert_eq!(then[1].1[0].function, "hostile");
    bench.compile(SOURCE, same);
    assert_eq!(offsets(&bench.sources()), places);
    let ([first, then], _) = session(&bench, &symbols, &places);
    assert_eq!(first[1].1[0].function, "outermost");
    check(&then);
}

#[test]
fn a_cache_that_cannot_be_written_costs_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("cache"), b"a file").unwrap();
    let symbols = symbols(&folder, 1 << 30);
    assert!(symbols.cache().is_none());
    let ([_, then], _) = session(&bench, &symbols, &offsets(&bench.sources()));
    check(&then);
}

#[test]
fn what_is_not_reached_in_time_keeps_its_symbol() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let folder = TempDir::new().unwrap();
    let symbols = symbols(&folder, 1 << 30);
    let offsets = offsets(&bench.sources());
    let mut files = Files::new(Arc::clone(&symbols));
    let named = files.names(
        Batch {
            file: bench.program(),
            offsets: offsets.clone(),
            frames: vec![0, 1],
        },
        &|| false,
    );
    assert_eq!(named[1].1[0].function, "outermost");
    assert_eq!(files.refine_one(&|| true), []);
    assert_eq!(files.shortfall.late, 2);
    files.close();
    // And is not taken for all there is.
    let ([_, then], _) = session(&bench, &symbols, &offsets);
    check(&then);
}

/// The headers of an ELF file of 64 bits with a symbol table of `size` bytes.
fn elf_with_symbols(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 2 * 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
    // Where the section headers are, the size of each, and how many.
    put(40, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(58, &64_u16.to_le_bytes());
    put(60, &2_u16.to_le_bytes());
    // SHT_SYMTAB, and its size.
    put(128 + 4, &2_u32.to_le_bytes());
    put(128 + 32, &size.to_le_bytes());
    bytes
}

#[test]
fn a_file_that_cannot_be_read_is_counted_once() {
    let mut files = Files::new(Arc::default());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("large");
    // More symbols than are copied.
    fs::write(&path, elf_with_symbols(MAX_COPY + 24)).unwrap();
    let file = Arc::new(MappedFile::for_test(fs::File::open(&path).unwrap(), false));
    for _ in 0..3 {
        let batch = Batch {
            file: Arc::clone(&file),
            offsets: vec![0],
            frames: vec![0],
        };
        assert_eq!(files.names(batch, &|| false), []);
    }
    assert_eq!(files.shortfall.files, 1);
}

#[test]
fn nothing_is_read_when_nobody_waits() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let mut files = Files::new(Arc::default());
    let batch = Batch {
        file: bench.program(),
        offsets: offsets(&bench.sources()),
        frames: vec![0, 1],
    };
    assert_eq!(files.names(batch, &|| true), []);
    assert!(!files.are_waiting());
}
