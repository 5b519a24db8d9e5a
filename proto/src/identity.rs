//! The identity of a frame and of a stack by content.

use blake3::Hasher;

use crate::dictionary::Dictionary;
use crate::profile::{FrameId, FrameKind, StackEnd, StackId};

/// Set apart from other uses of the hash; changes when the encoding does.
const FRAME_CONTEXT: &[u8] = b"profiler frame 1";
const STACK_CONTEXT: &[u8] = b"profiler stack 1";

impl Dictionary {
    /// 128-bit identity of a stack by content: independent of ids, and the same in every chunk,
    /// on every host and on disk.
    ///
    /// The first 16 bytes (as a little-endian number) of BLAKE3 over, in this order: a context
    /// string; the user part; the kernel part. A part is how it ended (`u32`, the number on the
    /// wire), how many frames it has (`u64`) and for each the 16 bytes of
    /// [`frame_hash`](Self::frame_hash). Numbers are little endian. By which method it was walked
    /// does not make it another stack.
    pub fn stack_hash(&self, id: StackId) -> u128 {
        let stack = self.stack(id);
        let mut hasher = Hasher::new();
        hasher.update(STACK_CONTEXT);
        self.hash_part(&mut hasher, stack.user_end, &stack.user);
        self.hash_part(&mut hasher, stack.kernel_end, &stack.kernel);
        first_16_bytes(&hasher)
    }

    /// 128-bit identity of a frame by content: where the code is, or what it is called where that
    /// is not known.
    ///
    /// The first 16 bytes (as a little-endian number) of BLAKE3 over, in this order: a context
    /// string; the kind (`u32`, the number on the wire); what the address is relative to (one
    /// byte: 0 nothing, 1 a build-id, 2 a path); the build-id, or the path where there is no
    /// build-id; the address (`u64`); without a mapping also how many lines there are (`u64`) and
    /// the function of each, of an interpreted frame followed by its file and line (`u32`). Strings and build-ids are preceded by their length (`u64`). Numbers
    /// are little endian.
    ///
    /// Names count only where there is no mapping, because the name of a place in a file can be
    /// improved later without it becoming another place.
    pub fn frame_hash(&self, id: FrameId) -> u128 {
        let frame = self.frame(id);
        let mut hasher = Hasher::new();
        hasher.update(FRAME_CONTEXT);
        hasher.update(&frame.kind.to_wire().to_le_bytes());
        match self.mapping(frame.mapping) {
            None => hasher.update(&[0]),
            Some(mapping) if mapping.build_id.is_empty() => {
                hasher.update(&[2]);
                sized(&mut hasher, self.string(mapping.path).as_bytes())
            }
            Some(mapping) => {
                hasher.update(&[1]);
                sized(&mut hasher, &mapping.build_id)
            }
        };
        hasher.update(&frame.address.to_le_bytes());
        if frame.mapping.is_none() {
            length(&mut hasher, frame.lines.len());
            for line in &frame.lines {
                sized(&mut hasher, self.string(line.function).as_bytes());
                if frame.kind == FrameKind::Interpreted {
                    sized(&mut hasher, self.string(line.file).as_bytes());
                    hasher.update(&line.line.to_le_bytes());
                }
            }
        }
        first_16_bytes(&hasher)
    }

    fn hash_part(&self, hasher: &mut Hasher, end: StackEnd, frames: &[FrameId]) {
        hasher.update(&end.to_wire().to_le_bytes());
        length(hasher, frames.len());
        for frame in frames {
            hasher.update(&self.frame_hash(*frame).to_le_bytes());
        }
    }
}

fn sized<'a>(hasher: &'a mut Hasher, bytes: &[u8]) -> &'a mut Hasher {
    length(hasher, bytes.len());
    hasher.update(bytes)
}

fn length(hasher: &mut Hasher, length: usize) {
    hasher.update(&(length as u64).to_le_bytes());
}

fn first_16_bytes(hasher: &Hasher) -> u128 {
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Frame, Line, Mapping, MappingId, Stack, UnwindMethod};

    /// A frame, by kind, path and build-id of its mapping, address and function.
    fn frame(
        dictionary: &mut Dictionary,
        kind: FrameKind,
        mapping: Option<(&str, &[u8])>,
        address: u64,
        function: &str,
    ) -> FrameId {
        let mapping = mapping.map_or(MappingId::NONE, |(path, build_id)| {
            let path = dictionary.intern_string(path);
            dictionary.intern_mapping(Mapping {
                path,
                build_id: build_id.to_vec(),
            })
        });
        let function = dictionary.intern_string(function);
        dictionary.intern_frame(Frame {
            kind,
            mapping,
            address,
            lines: vec![Line {
                function,
                ..Line::default()
            }],
        })
    }

    fn hash(kind: FrameKind, mapping: Option<(&str, &[u8])>, address: u64, function: &str) -> u128 {
        let mut dictionary = Dictionary::new();
        let id = frame(&mut dictionary, kind, mapping, address, function);
        dictionary.frame_hash(id)
    }

    #[test]
    fn a_frame_is_its_place_in_a_file() {
        use FrameKind::{Kernel, User};
        let base = hash(User, Some(("/bin/a", b"id")), 1, "f");
        assert_eq!(hash(User, Some(("/other", b"id")), 1, "g"), base);
        let by_path = hash(User, Some(("id", b"")), 1, "f");
        assert_eq!(hash(User, Some(("id", b"")), 1, "g"), by_path);
        let unmapped = hash(User, None, 1, "f");
        let all = [
            base,
            by_path,
            unmapped,
            hash(Kernel, Some(("/bin/a", b"id")), 1, "f"),
            hash(User, Some(("/bin/a", b"ID")), 1, "f"),
            hash(User, Some(("/bin/a", b"id")), 2, "f"),
            hash(User, Some(("/bin/b", b"")), 1, "f"),
            hash(User, None, 2, "f"),
            hash(User, None, 1, "g"),
            hash(User, None, 1, ""),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
    }

    #[test]
    fn an_interpreted_frame_is_its_place_in_the_script() {
        let hash = |function: &str, file: &str, line: u32| {
            let mut dictionary = Dictionary::new();
            let line = Line {
                function: dictionary.intern_string(function),
                file: dictionary.intern_string(file),
                line,
            };
            let id = dictionary.intern_frame(Frame {
                kind: FrameKind::Interpreted,
                lines: vec![line],
                ..Frame::default()
            });
            dictionary.frame_hash(id)
        };
        let all = [
            hash("f", "a.py", 1),
            hash("f", "a.py", 2),
            hash("f", "b.py", 1),
            hash("g", "a.py", 1),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
    }

    #[test]
    fn how_it_was_walked_does_not_make_it_another_stack() {
        let hash = |user_method| {
            let mut dictionary = Dictionary::new();
            let id = dictionary.intern_stack(Stack {
                user_end: StackEnd::Whole,
                user_method,
                ..Stack::default()
            });
            dictionary.stack_hash(id)
        };
        assert_eq!(hash(UnwindMethod::Tables), hash(UnwindMethod::Copy));
    }

    #[test]
    fn a_stack_is_its_frames_in_order_and_how_they_end() {
        let stack = |user: &[u64], user_end, kernel: &[u64], kernel_end| {
            let mut dictionary = Dictionary::new();
            let mut frames = |addresses: &[u64]| -> Vec<FrameId> {
                let addresses = addresses.iter();
                let one = |&address| frame(&mut dictionary, FrameKind::User, None, address, "");
                addresses.map(one).collect()
            };
            let (user, kernel) = (frames(user), frames(kernel));
            let id = dictionary.intern_stack(Stack {
                user,
                user_end,
                user_method: UnwindMethod::default(),
                kernel,
                kernel_end,
            });
            dictionary.stack_hash(id)
        };
        use StackEnd::{Cut, Whole};
        let all = [
            stack(&[1, 2], Whole, &[3], Whole),
            stack(&[2, 1], Whole, &[3], Whole),
            stack(&[1], Whole, &[2, 3], Whole),
            stack(&[1, 2, 3], Whole, &[], Whole),
            stack(&[1, 2], Cut, &[3], Whole),
            stack(&[1, 2], Whole, &[3], Cut),
            stack(&[1, 2, 2], Whole, &[3], Whole),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
    }

    /// Stored hashes must keep their meaning: this one was made by the first version.
    #[test]
    fn the_encoding_does_not_change() {
        let mut dictionary = Dictionary::new();
        let user = frame(
            &mut dictionary,
            FrameKind::User,
            Some(("/bin/a", &[1, 2, 3])),
            0x1234,
            "main",
        );
        let kernel = frame(&mut dictionary, FrameKind::Kernel, None, 7, "schedule");
        let stack = dictionary.intern_stack(Stack {
            user: vec![user],
            user_end: StackEnd::FramePointers,
            user_method: UnwindMethod::FramePointers,
            kernel: vec![kernel],
            kernel_end: StackEnd::Whole,
        });
        assert_eq!(
            dictionary.stack_hash(stack),
            0xcd75_9980_9863_2179_f245_392d_2c25_c6e8
        );
    }
}
