//! Where call frame information is found, and how its entries are laid out.

use std::io::Write;

use profiler_agent::unwind::{
    elf::ElfImage,
    table::{BuildError, Source},
};

use crate::{
    elf_file::{CODE, ElfFile},
    frames::{Frames, op},
    rows, table, try_table,
};

fn debug_frame() -> Vec<u8> {
    let frames = Frames::debug().function(CODE + 0x40, 0x10, &[op::DEF_CFA_OFFSET, 24]);
    // What a linker has dropped is at address 0.
    frames.function(0, CODE + 0x20, &[]).bytes
}

const DEBUG_ROWS: [&str; 2] = ["200040: sp+24, fp same", "200050: -"];

/// With the header of `Elf64_Chdr`.
fn compressed(kind: u8, size: usize, data: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend((size as u64).to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn debug_frame_where_there_is_no_other() {
    let file = ElfFile::x86_64().unloaded(".debug_frame", 0, debug_frame());
    let file = file.build();
    assert_eq!(rows(&file), DEBUG_ROWS);
    assert_eq!(table(&file).report.source, Source::DebugFrame);
}

#[test]
fn debug_frame_for_what_eh_frame_lacks() {
    let frames = Frames::x86_64().function(CODE + 0x48, 0x10, &[]);
    let file = ElfFile::x86_64().data(".eh_frame", frames.bytes).unloaded(
        ".debug_frame",
        0,
        debug_frame(),
    );
    assert_eq!(
        rows(&file.build()),
        [
            "200040: sp+24, fp same",
            "200048: sp+8, fp same",
            "200058: -"
        ]
    );
}

#[test]
fn compressed_debug_frame() {
    const SHF_COMPRESSED: u64 = 1 << 11;
    let frames = debug_frame();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(&frames).unwrap();
    let zlib = compressed(1, frames.len(), zlib.finish().unwrap());
    let zstd = zstd::encode_all(&*frames, 0).unwrap();
    let zstd = compressed(2, frames.len(), zstd);
    for bytes in [zlib, zstd] {
        let file = ElfFile::x86_64().unloaded(".debug_frame", SHF_COMPRESSED, bytes);
        assert_eq!(rows(&file.build()), DEBUG_ROWS);
    }
    // One that says it is larger than anybody's memory, and an unknown way.
    for bytes in [compressed(1, 1 << 60, vec![0]), compressed(9, 1, vec![0])] {
        let file = ElfFile::x86_64().unloaded(".debug_frame", SHF_COMPRESSED, bytes);
        assert!(matches!(try_table(&file.build()), Err(BuildError::NoRules)));
    }
}

#[test]
fn what_is_behind_a_terminator_counts() {
    let mut bytes = Frames::x86_64().function(CODE, 8, &[]).bytes;
    let behind = Frames::x86_64().function(CODE + 0x20, 8, &[]).bytes;
    bytes.extend([0; 4]);
    bytes.extend(behind);
    let file = ElfFile::x86_64().data(".eh_frame", bytes).build();
    assert_eq!(
        rows(&file),
        [
            "200000: sp+8, fp same",
            "200008: -",
            "200020: sp+8, fp same",
            "200028: -",
        ]
    );
}

#[test]
fn eh_frame_is_found_without_section_headers() {
    let mut bytes = Frames::x86_64().function(CODE, 8, &[]).bytes;
    bytes.extend([0; 4]);
    // Behind the end comes something else.
    bytes.extend(Frames::x86_64().function(CODE + 0x20, 8, &[]).bytes);
    // DW_EH_PE_pcrel | DW_EH_PE_sdata4, from behind the first 4 bytes.
    let mut header = vec![1, 0x1b, 3, 0x3b];
    header.extend((-0x1_0000_i32 - 4).to_le_bytes());
    let file = ElfFile::x86_64()
        .data(".eh_frame", bytes)
        .data(".eh_frame_hdr", header)
        .without_sections();
    assert_eq!(rows(&file.build()), ["200000: sp+8, fp same", "200008: -"]);
}

#[test]
fn symbols_are_found_in_large_tables() {
    // Strings and symbols of some windows each.
    let names: Vec<String> = (0..20_000)
        .map(|index| format!("other_name_{index:020}"))
        .collect();
    let mut symbols: Vec<(&str, u64, u64)> = names.iter().map(|name| (&**name, CODE, 1)).collect();
    symbols[13_000].0 = "wanted";
    symbols[13_000].1 = CODE + 8;
    symbols[19_000].0 = "wanted.cold";
    symbols[19_001].0 = "unwanted";
    let file = ElfFile::x86_64().symbols(&symbols).build();
    let image = ElfImage::read(&file).unwrap();
    let found = image.symbols_with_prefix(&file, "wanted");
    let found: Vec<_> = found
        .iter()
        .map(|s| (&*s.name, s.address, s.size))
        .collect();
    assert_eq!(found, [("wanted.cold", CODE, 1), ("wanted", CODE + 8, 1)]);
}

#[test]
fn the_build_id_of_this_program() {
    let path = std::env::current_exe().unwrap();
    let expected = blazesym::helper::read_elf_build_id(&path).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let id = ElfImage::read(&file).unwrap().build_id(&file);
    assert_eq!(id, expected.unwrap().into_owned());
}

#[test]
fn entries_of_64_bit_dwarf() {
    let short = Frames::x86_64().function(CODE, 8, &[]).bytes;
    let mut long = Vec::new();
    let mut at = 0;
    while at < short.len() {
        let size = u32::from_le_bytes(short[at..at + 4].try_into().unwrap()) as usize;
        let mut body = short[at + 4..at + 4 + size].to_vec();
        if at > 0 {
            // How far the common entry is behind the pointer itself.
            body[..4].copy_from_slice(&(long.len() as u32 + 12).to_le_bytes());
        }
        long.extend(u32::MAX.to_le_bytes());
        long.extend((size as u64).to_le_bytes());
        long.extend(body);
        at += 4 + size;
    }
    let file = ElfFile::x86_64().data(".eh_frame", long).build();
    assert_eq!(rows(&file), ["200000: sp+8, fp same", "200008: -"]);
}

#[test]
fn files_without_rules_say_so() {
    let file = ElfFile::x86_64().build();
    assert!(matches!(try_table(&file), Err(BuildError::NoRules)));
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x01\x01"] {
        let error = try_table(&bytes.to_vec()).unwrap_err();
        assert!(matches!(error, BuildError::Elf(_)), "{error}");
    }
}

#[test]
fn addresses_are_not_places_in_the_file() {
    let image = ElfImage::read(&ElfFile::x86_64().build()).unwrap();
    assert_eq!(image.address_of(0x1010), Some(CODE + 0x10));
    // A mapping begins at a page, so before its segment.
    assert_eq!(image.address_of(0xff0), Some(CODE - 0x10));
    assert_eq!(image.address_of(0x2000), None);
    assert_eq!(image.offset_of(CODE + 0x10), Some(0x1010));
    assert_eq!(image.offset_of(CODE - 1), None);
}
