use profiler_abi::python::{BLOCK_BYTES, frame_style};
use zerocopy::FromBytes;

use super::*;

const DATA: u64 = 0x5000;

/// An ELF library whose only segment is `data`, loaded at [`DATA`], with
/// symbols in it by name and offset.
fn library(symbols: &[(&str, u64)], data: &[u8]) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![0; 24];
    for (name, offset) in symbols {
        let at = names.len() as u32;
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        table.extend_from_slice(&at.to_le_bytes());
        // STT_OBJECT and STB_GLOBAL, in section 1.
        table.extend_from_slice(&[0x11, 0, 1, 0]);
        table.extend_from_slice(&(DATA + offset).to_le_bytes());
        table.extend_from_slice(&8_u64.to_le_bytes());
    }
    let (names_at, table_at) = (0x1000, 0x2000);
    let (data_at, sections_at) = (0x3000, 0x4000);
    let mut file = vec![0; sections_at];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    // ET_DYN, EM_X86_64; program headers at 64, sections behind everything.
    put(16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(32, &64_u64.to_le_bytes());
    put(40, &(sections_at as u64).to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 3, 0, 0, 0]);
    // PT_LOAD, readable and writable.
    put(64, &[1, 0, 0, 0, 6, 0, 0, 0]);
    let size = data.len() as u64;
    let load = [data_at as u64, DATA, DATA, size, size];
    for (index, word) in load.iter().enumerate() {
        put(72 + 8 * index, &word.to_le_bytes());
    }
    put(names_at, &names);
    put(table_at, &table);
    put(data_at, data);
    // None, SHT_DYNSYM linked to section 2, SHT_STRTAB.
    file.extend_from_slice(&[0; 64]);
    for (kind, at, size, link) in [
        (11_u32, table_at, table.len(), 2_u32),
        (3, names_at, names.len(), 0),
    ] {
        let mut section = [0; 64];
        section[4..8].copy_from_slice(&kind.to_le_bytes());
        section[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        section[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        section[40..44].copy_from_slice(&link.to_le_bytes());
        file.extend_from_slice(&section);
    }
    file
}

fn find(symbols: &[(&str, u64)], data: &[u8]) -> Result<Option<PythonInfo>, PythonError> {
    let file = library(symbols, data);
    let elf = ElfImage::read(&file).unwrap();
    let binary = PythonBinary::find(&file, &elf)?;
    Ok(binary.map(|binary| PythonInfo::read_from_bytes(&binary.describe(0x10_0000)).unwrap()))
}

/// A data segment with `Py_Version` at 0 and 8 bytes further on what `_PyRuntime` holds.
fn data(version: u64, runtime: &[u8]) -> Vec<u8> {
    let mut data = version.to_le_bytes().to_vec();
    data.extend_from_slice(runtime);
    data
}

/// `_Py_DebugOffsets` as 3.13.0 has it, as far as it is read.
fn debug_offsets() -> Vec<u8> {
    let mut bytes = vec![0; DEBUG_OFFSETS_BYTES];
    bytes[..8].copy_from_slice(b"xdebugpy");
    for (at, value) in [
        (8, 0x030d_00f0),
        (40, 632),
        (64, 7264),
        (72, 7344),
        (168, 8),
        (184, 72),
        (192, 152),
        (224, 88),
        (232, 8),
        (240, 0),
        (248, 56),
        (264, 70),
        (280, 112),
        (296, 128),
        (304, 136),
        (312, 68),
        (344, 200),
        (360, 8),
        (520, 16),
        (528, 32),
        (544, 32),
        (552, 16),
        (560, 40),
    ] {
        bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    bytes
}

#[test]
fn a_file_without_interpreter_has_none() {
    assert_eq!(find(&[("_PyRuntimeState_Init", 8)], &[0; 64]), Ok(None));
}

#[test]
fn versions_are_told_by_what_they_have() {
    let old = [
        ("_PyRuntime", 8),
        ("PyCode_Type", 16),
        ("PyCode_NewWithPosOnlyArgs", 24),
        ("PyFrame_GetBack", 24),
        ("PyIter_Send", 24),
    ];
    let minor = |symbols| find(symbols, &[0; 64]).map(|info| info.map(|info| info.minor));
    assert_eq!(minor(&old), Ok(Some(10)));
    assert_eq!(minor(&old[..4]), Ok(Some(9)));
    assert_eq!(minor(&old[..3]), Ok(Some(8)));
    assert_eq!(minor(&old[..2]), Err(PythonError::Version(7)));
    let info = find(&old, &[0; 64]).unwrap().unwrap();
    assert_eq!(info.interpreters, 0x10_0000 + DATA + 8 + 32);
    assert_eq!(info.code_type, 0x10_0000 + DATA + 16);
    assert_eq!(info.frame_style, frame_style::ONE_EACH);
}

#[test]
fn versions_that_say_what_they_are() {
    let symbols = [("Py_Version", 0), ("_PyRuntime", 8)];
    let version = |hex| find(&symbols, &data(hex, &[0; 64]));
    let info = version(0x030b_02f0).unwrap().unwrap();
    assert_eq!((info.minor, info.code_type), (11, 0));
    assert_eq!(info.frame_style, frame_style::FLAGGED);
    let info = version(0x030c_01f0).unwrap().unwrap();
    assert_eq!((info.minor, info.frame_style), (12, frame_style::SHIM));
    assert_eq!(version(0x030e_00f0), Err(PythonError::Version(14)));
    assert_eq!(version(0x020b_00f0), Err(PythonError::NoVersion));
    assert_eq!(version(0x030d_00f0), Err(PythonError::DebugOffsets));
    let outside = [("Py_Version", 1 << 40), ("_PyRuntime", 8)];
    assert_eq!(find(&outside, &[0; 64]), Err(PythonError::NoVersion));
}

#[test]
fn a_version_that_describes_itself() {
    let symbols = [("Py_Version", 0), ("_PyRuntime", 8)];
    let info = |offsets: &[u8]| find(&symbols, &data(0x030d_00f0, offsets));
    let found = info(&debug_offsets()).unwrap().unwrap();
    assert_eq!(found.interpreters, 0x10_0000 + DATA + 8 + 632);
    assert_eq!(found.frame_style, frame_style::SHIM);
    assert_eq!((found.interpreter_next, found.thread_frame), (7264, 72));
    assert_eq!((found.code_first_traceable, found.code_bytes), (184, 188));
    assert_eq!((found.text_ascii, found.text_other), (40, 56));
    let mut free_threaded = debug_offsets();
    free_threaded[16] = 1;
    assert_eq!(info(&free_threaded), Err(PythonError::FreeThreaded));
}

/// Whatever it says, what is read of it fits the blocks it is read into.
#[test]
fn a_description_that_lies_is_refused_or_harmless() {
    for at in (8..DEBUG_OFFSETS_BYTES).step_by(8) {
        for value in [1, 9, 255, 256, 0xffff, 1 << 16, 1 << 32, 1 << 48, u64::MAX] {
            let mut offsets = debug_offsets();
            offsets[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            let Ok((_, info)) = layout::from_debug_offsets(&offsets) else {
                continue;
            };
            assert!(usize::from(info.frame_bytes) <= BLOCK_BYTES);
            assert!(usize::from(info.code_bytes) <= BLOCK_BYTES);
        }
    }
}
