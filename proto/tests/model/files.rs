//! Files that are cut, damaged, forged or of another version.

use profiler_proto::{
    CaptureFileError, CaptureFileReader, CaptureFileWriter, MAX_CHUNK_BYTES, client_chunk,
    decode_frame, encode_frame, pb, read_capture, write_capture,
};
use prost::Message;

use super::common;

fn file() -> Vec<u8> {
    let mut bytes = Vec::new();
    write_capture(&common::capture(), &mut bytes).unwrap();
    bytes
}

/// A frame of these bytes, well-formed whatever they are.
fn frame_of(content: &[u8]) -> Vec<u8> {
    frame_of_payload(&zstd::bulk::compress(content, 3).unwrap())
}

fn frame_of_payload(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn file_of(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = CaptureFileWriter::new(Vec::new()).unwrap();
    for frame in frames {
        writer.write_frame(frame).unwrap();
    }
    writer.finish().unwrap()
}

fn error(bytes: &[u8]) -> String {
    read_capture(bytes).unwrap_err().to_string()
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let file = file();
    for length in 0..file.len() {
        let error = read_capture(&file[..length]).unwrap_err();
        let expected = if length == 0 {
            matches!(error, CaptureFileError::NotACapture)
        } else {
            matches!(error, CaptureFileError::Cut(_))
        };
        assert!(expected, "{length}: {error}");
    }
    assert_eq!(
        error(&file[..file.len() - 1]),
        "cut after frame 1: the rest of the capture is missing"
    );
}

#[test]
fn a_file_with_any_bit_flipped_is_an_error() {
    let mut file = file();
    for at in 0..file.len() {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            assert!(read_capture(file.as_slice()).is_err(), "{at} {bit}");
            file[at] ^= 1 << bit;
        }
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let good = file();
    assert_eq!(error(b"PK\x03\x04"), "not a capture file");
    assert_eq!(error(b""), "not a capture file");
    let mut other = good.clone();
    other[8] = 7;
    assert_eq!(error(&other), "version 7, this program reads 1 to 1");
    let mut other = good.clone();
    other[12] = 9;
    assert_eq!(
        error(&other),
        "the header is damaged: a reserved field is 9, not 0"
    );
    let mut other = good.clone();
    other[30] ^= 1;
    assert_eq!(
        error(&other),
        "frame 1 of the capture is broken: its checksum does not match: it was damaged"
    );
    let mut other = good.clone();
    other.push(0);
    assert_eq!(
        error(&other),
        "the file goes on after the end of the capture"
    );
    let mut other = good;
    let last = other.len() - 1;
    other[last] ^= 1;
    assert_eq!(
        error(&other),
        "the checksum at the end of the capture does not match its 1 frames"
    );
}

#[test]
fn frames_left_out_or_exchanged_are_found() {
    let frames: Vec<_> = (0..3)
        .map(|n| encode_frame(&client_chunk(vec![n.to_string()], None)).unwrap())
        .collect();
    let end = file_of(&frames)[16 + frames.concat().len()..].to_vec();
    for kept in [&[0, 1][..], &[0, 2, 1], &[], &[0, 1, 2, 2]] {
        let mut bytes = file_of(&[]);
        bytes.truncate(16);
        for &one in kept {
            bytes.extend_from_slice(&frames[one]);
        }
        bytes.extend_from_slice(&end);
        let error = read_capture(bytes.as_slice()).unwrap_err();
        assert!(matches!(error, CaptureFileError::EndChecksum(_)), "{error}");
    }
}

#[test]
fn sizes_are_bounded() {
    let bomb = vec![0; MAX_CHUNK_BYTES + 1];
    let frame = frame_of(&bomb);
    assert!(frame.len() < 100_000);
    let error = decode_frame(&frame).unwrap_err().to_string();
    assert!(error.contains("its chunk is more than"), "{error}");

    // Strings without content: two bytes each in the chunk, 24 in memory.
    let many = pb::Chunk {
        dictionary: Some(pb::Dictionary {
            strings: vec![String::new(); 2_000_000],
            ..pb::Dictionary::default()
        }),
        ..pb::Chunk::default()
    };
    let error = encode_frame(&many).unwrap_err().to_string();
    assert!(error.contains("entries"), "{error}");
    let error = decode_frame(&frame_of(&many.encode_to_vec())).unwrap_err();
    assert!(error.to_string().contains("entries"), "{error}");

    // A length that is not there must not be allocated, and one too large not be waited for.
    let mut bytes = file()[..16].to_vec();
    bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0x03, 0, 0, 0, 0, 1, 2, 3]);
    assert!(matches!(
        read_capture(bytes.as_slice()),
        Err(CaptureFileError::Cut(0))
    ));
    bytes[19] = 0xff;
    let error = read_capture(bytes.as_slice()).unwrap_err().to_string();
    assert!(error.contains("its payload is 4294967295 bytes"), "{error}");
}

#[test]
fn a_decoder_s_memory_is_bounded() {
    // The header of a zstd frame that asks for a window of 128 MiB.
    let payload = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
    let error = decode_frame(&frame_of_payload(&payload)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("it cannot be decompressed"), "{error}");
    assert!(error.contains("memory"), "{error}");
}

#[test]
fn frames_alone_are_checked_too() {
    let frame = encode_frame(&common::chunk()).unwrap();
    assert_eq!(decode_frame(&frame).unwrap(), common::chunk());
    for length in 0..frame.len() {
        assert!(decode_frame(&frame[..length]).is_err());
    }
    let mut longer = frame;
    longer.push(0);
    assert!(decode_frame(&longer).is_err());
    let mut writer = CaptureFileWriter::new(Vec::new()).unwrap();
    assert!(writer.write_frame(&longer).is_err());
    assert!(writer.write_frame(&[0; 8]).is_err());
    assert!(decode_frame(&frame_of(&[0xff; 9])).is_err());
}

/// Adds a field that no version knows.
fn with_unknown_field(message: &impl Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    prost::encoding::string::encode(1000, &"from the future".to_owned(), &mut bytes);
    bytes
}

#[test]
fn unknown_fields_are_accepted_and_survive_in_the_file() {
    let chunk = common::chunk();
    let mut content = with_unknown_field(&chunk);
    // The same in a message inside: facts of a client, from a newer one.
    let facts = pb::Facts {
        warnings: vec!["and more".into()],
        ..pb::Facts::default()
    };
    let frames = [frame_of(&content), {
        content.clear();
        prost::encoding::bytes::encode(5, &with_unknown_field(&facts), &mut content);
        frame_of(&content)
    }];
    let file = file_of(&frames);
    let mut expected = common::capture();
    expected.facts.warnings.push("and more".into());
    let mut read = read_capture(file.as_slice()).unwrap();
    read.canonicalize();
    expected.canonicalize();
    assert_eq!(read, expected);
    let mut reader = CaptureFileReader::new(file.as_slice()).unwrap();
    for frame in frames {
        assert_eq!(reader.next_frame().unwrap(), Some(frame));
    }
    assert_eq!(reader.next_frame().unwrap(), None);
    assert_eq!(reader.next_frame().unwrap(), None);
}
