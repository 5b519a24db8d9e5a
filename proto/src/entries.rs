//! How many entries a chunk holds, found before it is decoded.
//!
//! An empty message takes two bytes in a chunk and up to 200 in memory, so a bound on bytes alone
//! would let a file of a few kilobytes fill gigabytes.

/// Most messages and strings that one chunk may hold; the largest that this program writes hold
/// about a tenth of it.
pub const MAX_CHUNK_ENTRIES: usize = 1 << 20;

/// The fields of a message that hold messages with repeated messages or strings of their own.
struct Shape(&'static [(u64, Shape)]);

/// Nothing below needs to be looked into, only counted.
const FLAT: Shape = Shape(&[]);

/// By field number, see `capture.proto`.
const CHUNK: Shape = Shape(&[
    // Dictionary: the lines of its frames, the attributes of its sets.
    (1, Shape(&[(3, FLAT), (5, FLAT)])),
    // Facts: the target of the spec, the parameters of the events, the command's arguments, the
    // reasons why files have no unwind table.
    (
        5,
        Shape(&[(8, Shape(&[(2, FLAT)])), (9, FLAT), (14, FLAT), (15, FLAT)]),
    ),
    // Ledger: the losses, skips, stack ends and unwind methods of its events.
    (6, Shape(&[(1, FLAT)])),
]);

/// Whether an encoded chunk holds at most [`MAX_CHUNK_ENTRIES`]. Says nothing about whether it is
/// well-formed: what cannot be read is not counted, and the decoder will refuse it.
pub(crate) fn within_limit(chunk: &[u8]) -> bool {
    count(chunk, &CHUNK, MAX_CHUNK_ENTRIES).is_some()
}

/// The budget left after the entries of one message; none where it does not suffice.
fn count(mut message: &[u8], shape: &Shape, mut budget: usize) -> Option<usize> {
    while let Some((field, rest)) = next_field(message) {
        message = rest;
        let Field::Bytes(number, bytes) = field else {
            continue;
        };
        budget = budget.checked_sub(1)?;
        if let Some((_, inner)) = shape.0.iter().find(|(field, _)| *field == number) {
            budget = count(bytes, inner, budget)?;
        }
    }
    Some(budget)
}

enum Field<'a> {
    /// Field number and content of a string, message or packed list.
    Bytes(u64, &'a [u8]),
    Other,
}

/// The first field, and what follows it; none at the end or where the rest cannot be read.
fn next_field(message: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(message)?;
    match key & 7 {
        0 => varint(rest).map(|(_, rest)| (Field::Other, rest)),
        1 => rest.get(8..).map(|rest| (Field::Other, rest)),
        2 => {
            let (length, rest) = varint(rest)?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Field::Bytes(key >> 3, bytes), rest))
        }
        // The marks around a group hold nothing; what is between them is counted.
        3 | 4 => Some((Field::Other, rest)),
        5 => rest.get(4..).map(|rest| (Field::Other, rest)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::pb;

    fn entries(chunk: &pb::Chunk) -> usize {
        let left = count(&chunk.encode_to_vec(), &CHUNK, MAX_CHUNK_ENTRIES);
        MAX_CHUNK_ENTRIES - left.unwrap()
    }

    #[test]
    fn counts_what_takes_memory() {
        let frame = pb::Frame {
            lines: vec![pb::Line::default(); 3],
            ..pb::Frame::default()
        };
        let set = pb::AttributeSet {
            attributes: vec![pb::Attribute::default(); 2],
        };
        let event = pb::EventLedger {
            losses: vec![pb::Loss::default(); 4],
            ..pb::EventLedger::default()
        };
        let chunk = pb::Chunk {
            dictionary: Some(pb::Dictionary {
                strings: vec!["a".into(), "b".into()],
                frames: vec![frame],
                attribute_sets: vec![set],
                ..pb::Dictionary::default()
            }),
            ledger: Some(pb::Ledger {
                events: vec![event],
            }),
            ..pb::Chunk::default()
        };
        // dictionary, 2 strings, frame, 3 lines, set, 2 attributes, ledger, event, 4 losses
        assert_eq!(entries(&chunk), 16);
        assert_eq!(entries(&pb::Chunk::default()), 0);
    }

    #[test]
    fn too_many_are_refused_wherever_they_are() {
        let strings = pb::Chunk {
            dictionary: Some(pb::Dictionary {
                strings: vec![String::new(); MAX_CHUNK_ENTRIES],
                ..pb::Dictionary::default()
            }),
            ..pb::Chunk::default()
        };
        assert!(!within_limit(&strings.encode_to_vec()));
        let command = pb::CommandResult {
            argv: vec![String::new(); MAX_CHUNK_ENTRIES],
            exit_code: 0,
        };
        let facts = pb::Chunk {
            facts: Some(pb::Facts {
                command: Some(command),
                ..pb::Facts::default()
            }),
            ..pb::Chunk::default()
        };
        assert!(!within_limit(&facts.encode_to_vec()));
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_decoder() {
        for bytes in [&[0x0a, 0xff][..], &[0xff; 20], &[0x0f], &[0x09, 1], &[0x0b]] {
            assert!(within_limit(bytes));
        }
    }
}
