//! Reads any bytes as a capture file, and as the chunk inside of one: a file is compressed and
//! checksummed, so that mutations of it rarely reach what is behind the checksum.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run capture_reader fuzz/corpus/capture_reader
//! fuzz/seeds/capture_reader proto/tests/golden -- -max_total_time=60`
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_proto::{
    Capture, CaptureAssembler, decode_frame, encode_frame, pb, read_capture, write_capture,
};
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(capture) = read_capture(bytes) {
        use_capture(capture);
    }
    // Anything but an error or a chunk would be a panic.
    decode_frame(bytes).ok();
    if let Ok(chunk) = pb::Chunk::decode(bytes) {
        use_chunk(chunk);
    }
});

fn use_chunk(chunk: pb::Chunk) {
    let frame = encode_frame(&chunk).expect("a chunk of this size fits a frame");
    let decoded = decode_frame(&frame).expect("what was encoded can be decoded");
    // Not compared as messages: a number that is not one does not equal itself.
    assert_eq!(decoded.encode_to_vec(), chunk.encode_to_vec());
    let mut assembler = CaptureAssembler::new();
    if assembler.push(decoded).is_ok()
        && let Ok(capture) = assembler.finish()
    {
        use_capture(capture);
    }
}

/// Everything that can be done with a capture can be done with one from a hostile file.
fn use_capture(mut capture: Capture) {
    let samples = capture.profiles.iter().flat_map(|profile| &profile.samples);
    let hashes = samples.map(|sample| capture.dictionary.stack_hash(sample.stack));
    let _hashes: Vec<u128> = hashes.collect();
    capture.ledger.verify().ok();
    capture.canonicalize();

    let mut file = Vec::new();
    write_capture(&capture, &mut file).expect("a capture of this size fits a file");
    let mut again = read_capture(file.as_slice()).expect("what was written can be read");
    again.canonicalize();
    assert_eq!(again, capture);

    let twice = Capture::merge([again, capture]).expect("the spec is the same");
    let none = twice.filter(|_, _, _| false);
    assert!(
        none.profiles
            .iter()
            .all(|profile| profile.samples.is_empty())
    );
}
