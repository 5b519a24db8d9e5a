//! Bytes from the kernel -> records. The only parser of them; fuzzed, because
//! a record that is not what it says must cost that record and nothing else.

use profiler_abi::{
    CpuSample, IoSample, KIND_ACCOUNT, KIND_CPU, KIND_IO, KIND_OFFCPU, KIND_STACK, KIND_STACK_COPY,
    MAX_FRAMES, MAX_RUNTIME_FRAMES, MAX_USER_FRAMES, OffcpuSample, RecordHeader, RuntimeFrame,
    STACK_COPY_HEADER, STACK_RECORD_HEADER, StackCopy, ThreadAccount,
    python::{CodeRecord, KIND_CODE},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, native_endian::U64};

use crate::runtimes::python;

/// An address as it lies in a record.
pub type Address = U64;

/// One record.
#[derive(Clone, Debug)]
pub enum Record<'a> {
    /// A stack, once.
    Stack {
        /// What samples call it.
        id: u64,
        /// Leaf first.
        frames: &'a [Address],
        /// Of an interpreter, leaf first.
        runtime: Vec<RuntimeFrame>,
    },
    /// A copy of a stack, zeroes behind what there is of it.
    StackCopy(Box<StackCopy>),
    /// A code object of an interpreter, the same.
    Code(Box<CodeRecord>),
    /// A tick.
    Cpu(CpuSample),
    /// A wait.
    Offcpu(OffcpuSample),
    /// A block request.
    Io(IoSample),
    /// The exact times of a thread, with its kernel stack where it waits.
    Account(ThreadAccount, &'a [Address]),
}

/// A record that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedRecord {
    /// Shorter than its header or than its kind.
    #[error("a record of {len} bytes is cut")]
    Cut {
        /// Bytes there are.
        len: usize,
    },
    /// Its header promises another length.
    #[error("a record of {len} bytes says that it has {said}")]
    Size {
        /// Bytes there are.
        len: usize,
        /// Bytes it promises.
        said: u32,
    },
    /// From another version of the kernel programs.
    #[error("records of kind {0} are unknown")]
    Kind(u32),
    /// More frames than a stack can have, or than there are bytes.
    #[error("a stack of {0} frames")]
    Frames(u32),
}

/// Parses one record of the ring buffer.
pub fn parse(bytes: &[u8]) -> Result<Record<'_>, MalformedRecord> {
    let (header, _) = prefix::<RecordHeader>(bytes)?;
    // The kernel side reserves room for the longest copy.
    let is_copy = header.kind == KIND_STACK_COPY && (header.size as usize) < bytes.len();
    let bytes = if is_copy {
        &bytes[..header.size as usize]
    } else {
        bytes
    };
    if header.size as usize != bytes.len() {
        return Err(MalformedRecord::Size {
            len: bytes.len(),
            said: header.size,
        });
    }
    match header.kind {
        KIND_STACK => parse_stack(bytes),
        KIND_CPU => Ok(Record::Cpu(prefix(bytes)?.0)),
        KIND_OFFCPU => Ok(Record::Offcpu(prefix(bytes)?.0)),
        KIND_IO => Ok(Record::Io(prefix(bytes)?.0)),
        KIND_ACCOUNT => {
            let (account, rest) = prefix::<ThreadAccount>(bytes)?;
            Ok(Record::Account(
                account,
                frames(rest, account.kernel_frames, MAX_FRAMES)?,
            ))
        }
        KIND_STACK_COPY => {
            let copy: Box<StackCopy> = zero_extended(bytes, STACK_COPY_HEADER)?;
            match copy.len as usize == bytes.len() - STACK_COPY_HEADER {
                true => Ok(Record::StackCopy(copy)),
                false => Err(MalformedRecord::Cut { len: bytes.len() }),
            }
        }
        KIND_CODE => python::parse(bytes)
            .map(|code| Record::Code(Box::new(code)))
            .map_err(|_| MalformedRecord::Cut { len: bytes.len() }),
        kind => Err(MalformedRecord::Kind(kind)),
    }
}

/// Splits the task iterator's output into records.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, MalformedRecord>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let size = prefix::<RecordHeader>(bytes).map(|(header, _)| header.size as usize);
        match size {
            Ok(size) if size >= size_of::<RecordHeader>() && size <= bytes.len() => {
                let (record, rest) = bytes.split_at(size);
                bytes = rest;
                Some(parse(record))
            }
            _ => {
                // Where the next record begins is not known either.
                let len = bytes.len();
                bytes = &[];
                Some(Err(MalformedRecord::Cut { len }))
            }
        }
    })
}

/// Reads a `T` from the start of `bytes`, wherever they lie in memory.
fn prefix<T: FromBytes + KnownLayout + Immutable>(
    bytes: &[u8],
) -> Result<(T, &[u8]), MalformedRecord> {
    T::read_from_prefix(bytes).map_err(|_| MalformedRecord::Cut { len: bytes.len() })
}

/// A `T` of which there may be less than all, but at least `least` bytes.
fn zero_extended<T: FromBytes + IntoBytes>(
    bytes: &[u8],
    least: usize,
) -> Result<Box<T>, MalformedRecord> {
    let cut = MalformedRecord::Cut { len: bytes.len() };
    if bytes.len() < least || bytes.len() > size_of::<T>() {
        return Err(cut);
    }
    let mut whole = Box::new(T::new_zeroed());
    whole.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    Ok(whole)
}

/// A stack record is as long as its frames, so it is never a whole
/// `StackRecord`: its fixed part is read word by word.
fn parse_stack(bytes: &[u8]) -> Result<Record<'_>, MalformedRecord> {
    let (_, rest) = prefix::<RecordHeader>(bytes)?;
    let (id, rest) = prefix::<u64>(rest)?;
    let (len, rest) = prefix::<u32>(rest)?;
    let (runtime_len, _) = prefix::<u32>(rest)?;
    let body = bytes
        .get(STACK_RECORD_HEADER..)
        .ok_or(MalformedRecord::Cut { len: bytes.len() })?;
    if runtime_len as usize > MAX_RUNTIME_FRAMES {
        return Err(MalformedRecord::Frames(runtime_len));
    }
    let (native, runtime) = body
        .split_at_checked(len as usize * size_of::<Address>())
        .ok_or(MalformedRecord::Frames(len))?;
    let runtime: Vec<RuntimeFrame> = runtime
        .chunks_exact(size_of::<RuntimeFrame>())
        .filter_map(|frame| RuntimeFrame::read_from_bytes(frame).ok())
        .collect();
    if bytes.len() != STACK_RECORD_HEADER + native.len() + size_of_val(&runtime[..])
        || runtime.len() != runtime_len as usize
    {
        return Err(MalformedRecord::Frames(runtime_len));
    }
    Ok(Record::Stack {
        id,
        frames: frames(native, len, MAX_USER_FRAMES)?,
        runtime,
    })
}

fn frames(bytes: &[u8], count: u32, most: usize) -> Result<&[Address], MalformedRecord> {
    let wrong = MalformedRecord::Frames(count);
    if count as usize > most || bytes.len() != count as usize * size_of::<Address>() {
        return Err(wrong);
    }
    <[Address]>::ref_from_bytes(bytes).map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn stack(len: u32, frames: &[u64]) -> Vec<u8> {
        let size = STACK_RECORD_HEADER + frames.len() * 8;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&KIND_STACK.to_ne_bytes());
        bytes.extend_from_slice(&(size as u32).to_ne_bytes());
        bytes.extend_from_slice(&77u64.to_ne_bytes());
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(frames.as_bytes());
        bytes
    }

    #[test]
    fn reads_a_stack_at_any_alignment() {
        let mut bytes = vec![0u8];
        bytes.extend(stack(2, &[1, 2]));
        let Ok(Record::Stack { id, frames, .. }) = parse(&bytes[1..]) else {
            panic!("not a stack");
        };
        assert_eq!(id, 77);
        let frames: Vec<u64> = frames.iter().map(|frame| frame.get()).collect();
        assert_eq!(frames, [1, 2]);
    }

    #[test]
    fn reads_frames_of_an_interpreter() {
        let mut bytes = stack(1, &[1, 0xc0de, 7]);
        bytes[20] = 1;
        let Ok(Record::Stack {
            frames, runtime, ..
        }) = parse(&bytes)
        else {
            panic!("not a stack");
        };
        assert_eq!(frames.len(), 1);
        let frame = RuntimeFrame {
            code: 0xc0de,
            place: 7,
        };
        assert_eq!(runtime, [frame]);
        bytes[20] = 2;
        assert_eq!(parse(&bytes).unwrap_err(), MalformedRecord::Frames(2));
    }

    #[test]
    fn reads_a_copy_in_the_room_of_the_longest() {
        let copy = |len: u32, size: u32| {
            let mut copy: Box<StackCopy> = Box::new(StackCopy::new_zeroed());
            copy.header = RecordHeader {
                kind: KIND_STACK_COPY,
                size,
            };
            copy.len = len;
            copy.bytes[..2].copy_from_slice(&[1, 2]);
            copy
        };
        let header = STACK_COPY_HEADER as u32;
        let Ok(Record::StackCopy(read)) = parse(copy(1, header + 1).as_bytes()) else {
            panic!("not a copy");
        };
        assert_eq!(
            read.bytes[..2],
            [1, 0],
            "what lies behind it is not its own"
        );
        for (len, size) in [(2, header + 1), (0, header - 1), (u32::MAX, header)] {
            assert!(parse(copy(len, size).as_bytes()).is_err(), "{len} {size}");
        }
    }

    #[test]
    fn refuses_what_lies() {
        let good = stack(2, &[1, 2]);
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_err(), "cut at {len}");
        }
        assert_eq!(
            parse(&stack(3, &[1, 2])).unwrap_err(),
            MalformedRecord::Frames(3)
        );
        assert_eq!(
            parse(&stack(u32::MAX, &[])).unwrap_err(),
            MalformedRecord::Frames(u32::MAX)
        );
        let unknown = RecordHeader { kind: 99, size: 8 };
        assert_eq!(
            parse(unknown.as_bytes()).unwrap_err(),
            MalformedRecord::Kind(99)
        );
    }

    #[test]
    fn stops_where_the_next_record_is_unknown() {
        let mut bytes = stack(1, &[1]);
        bytes.extend_from_slice(&[1, 2, 3]);
        let parsed: Vec<_> = records(&bytes).collect();
        assert_eq!(parsed.len(), 2);
        assert!(parsed[0].is_ok() && parsed[1].is_err());
    }
}
