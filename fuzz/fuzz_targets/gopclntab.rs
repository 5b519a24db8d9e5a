//! Reads any bytes as the table of functions of a Go program, in an ELF file that is made around it.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run gopclntab fuzz/corpus/gopclntab fuzz/seeds/gopclntab --
//! -max_total_time=60`
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_agent::symbols::gopclntab::GoNames;
use profiler_agent::unwind::elf::ElfImage;

/// Where the file is loaded, and the table in it.
const BASE: u64 = 0x40_0000;
const TABLE: u64 = 0x1000;
/// Names of sections, each at the place that [`section`] is told.
const NAMES: &[u8] = b"\0.gopclntab\0.go.module\0.shstrtab\0";
/// Words of the runtime's variable that the table is found through.
const WORDS: usize = 42;

fuzz_target!(|table: &[u8]| {
    let file = program(table);
    let image = ElfImage::read(&file).expect("this is one");
    let Ok(go) = GoNames::find(&file, image) else {
        return;
    };
    for offset in (0..table.len() as u64 + 64).step_by(5) {
        let names = go.names(&file, BASE + offset);
        assert!(names.len() <= 65);
        assert!(names.iter().all(|name| !name.function.is_empty()));
    }
    go.names(&file, 0);
    go.names(&file, u64::MAX);
});

fn program(table: &[u8]) -> Vec<u8> {
    let mut file = vec![0; TABLE as usize];
    file.extend(table);
    file.resize(file.len().next_multiple_of(8), 0);
    let module = file.len() as u64;
    let names = table.get(32..40).map_or(0, |bytes| {
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    });
    let mut words = [0; WORDS];
    words[0] = BASE + TABLE;
    words[1] = (BASE + TABLE).wrapping_add(names);
    // Where the code begins, and, by version, where data of functions do: in the table too.
    words[22] = BASE;
    words[38] = BASE + TABLE;
    words[40] = BASE + TABLE;
    words
        .iter()
        .for_each(|word| file.extend(word.to_le_bytes()));
    let strings = file.len() as u64;
    file.extend(NAMES);
    file.resize(file.len().next_multiple_of(8), 0);
    let sections = file.len() as u64;
    file.extend([0; 64]);
    file.extend(section(1, TABLE, table.len() as u64));
    file.extend(section(12, module, 8 * WORDS as u64));
    file.extend(section(23, strings, NAMES.len() as u64));
    let len = file.len() as u64;
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    // EM_X86_64; program headers, section headers; their sizes and numbers.
    put(&mut file, 18, &62u16.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 40, &sections.to_le_bytes());
    for (at, number) in [(54, 56u16), (56, 1), (58, 64), (60, 4), (62, 3)] {
        put(&mut file, at, &number.to_le_bytes());
    }
    // One segment, PT_LOAD, readable and executable: all of the file.
    put(&mut file, 64, &[1, 0, 0, 0, 5]);
    for (at, number) in [(72, 0), (80, BASE), (88, BASE), (96, len), (104, len)] {
        put(&mut file, at, &number.to_le_bytes());
    }
    file
}

/// A section header: SHT_PROGBITS, loaded.
fn section(name: u32, offset: u64, size: u64) -> Vec<u8> {
    let mut header = vec![0; 64];
    put(&mut header, 0, &name.to_le_bytes());
    put(&mut header, 4, &[1]);
    for (at, number) in [(8, 2), (16, BASE + offset), (24, offset), (32, size)] {
        put(&mut header, at, &number.to_le_bytes());
    }
    header
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
