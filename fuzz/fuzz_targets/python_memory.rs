//! Reads any bytes as what comes from a Python process: the file that its interpreter is in, a code object with its
//! names and line table, and the frames of a thread among native ones.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run python_memory fuzz/corpus/python_memory -- -max_total_time=60`
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_abi::RuntimeFrame;
use profiler_agent::{
    runtimes::{
        Merged, Place, PythonBinary, merge,
        python::{CodeTable, parse},
    },
    unwind::elf::ElfImage,
};

fuzz_target!(|bytes: &[u8]| {
    code(bytes);
    stack(bytes);
    let file = bytes.to_vec();
    if let Ok(elf) = ElfImage::read(&file) {
        // Anything but a panic is right.
        PythonBinary::find(&file, &elf).ok();
    }
});

fn code(bytes: &[u8]) {
    let Ok(record) = parse(bytes) else {
        return;
    };
    let mut table = CodeTable::default();
    table.add(&record);
    for offset in [0, 2, 100, 1 << 20, i32::MAX as u32, u32::MAX] {
        let frame = RuntimeFrame {
            code: record.code,
            place: u64::from(offset) | u64::from(record.checksum) << 33,
        };
        let name = table.name(record.tgid, record.process_start_ns, frame);
        // The upper bit of its checksum is in no frame.
        assert!(name.is_some() || record.checksum >> 31 != 0);
    }
}

/// The first bytes are native frames, the others the interpreter's.
fn stack(bytes: &[u8]) {
    let [first, rest @ ..] = bytes else {
        return;
    };
    let (native, runtime) = rest.split_at(rest.len().min(usize::from(*first >> 1)));
    let native: Vec<Place> = native
        .iter()
        .map(|byte| match byte & 1 {
            0 => Place::Native,
            _ => Place::Interpreter,
        })
        .collect();
    let runtime: Vec<RuntimeFrame> = runtime
        .iter()
        .map(|byte| RuntimeFrame {
            code: u64::from(byte & 3),
            place: u64::from(byte >> 2) | u64::from(byte >> 7) << 32,
        })
        .collect();
    let merge = merge(&native, first & 1 == 1, &runtime);
    let indices = merge.frames.iter().filter_map(|frame| match frame {
        Merged::Runtime(index) => Some(*index),
        Merged::Native(_) => None,
    });
    let frames = (0..runtime.len()).filter(|index| runtime[*index].code != 0);
    assert!(indices.eq(frames), "a frame was lost, invented or moved");
    let plain = native.iter().filter(|place| **place == Place::Native);
    let kept = merge.frames.len() - runtime.iter().filter(|frame| frame.code != 0).count();
    assert_eq!(kept, plain.count() + merge.calls_left);
}
