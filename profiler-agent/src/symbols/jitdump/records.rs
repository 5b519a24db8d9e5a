//! The records of a dump, one at a time.

use std::{io, sync::Arc};

use crate::unwind::elf::ReadAt;

use super::JitdumpError;

/// Bytes of the header before what later versions may add.
const HEADER: usize = 40;

/// Bytes before the body of each record: kind, size and time.
const PREFIX: usize = 16;

/// `JITDUMP_FLAGS_ARCH_TIMESTAMP`: times are of the processor's own counter.
const ARCH_TIMESTAMP: u64 = 1;

/// Longest name of a function or a file that is kept.
const MAX_NAME: usize = 1024;

/// Most bytes read of a record of source lines.
const MAX_DEBUG_BODY: u64 = 1 << 20;

/// Begin of a dump.
#[derive(Debug)]
pub(super) struct Header {
    is_swapped: bool,
    /// Bytes of it: where the first record is.
    pub(super) size: u64,
    /// Times are not those of `CLOCK_MONOTONIC`.
    pub(super) has_processor_times: bool,
}

/// What comes next in a dump.
pub(super) enum Step {
    /// A record, where the one after it is, and how many bytes were read for it.
    Record {
        record: Record,
        time_ns: u64,
        next: u64,
        read: u64,
    },
    /// Nothing, or one that is not all there.
    NotYet,
    /// Something without a length: what follows cannot be found.
    Damaged,
}

/// A record.
#[derive(Debug)]
pub(super) enum Record {
    Load(Load),
    Move(Move),
    DebugInfo(DebugInfo),
    /// Of a kind that says nothing of names.
    Other,
    /// Too short for its kind.
    Malformed,
}

/// `JIT_CODE_LOAD`: code has been made.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) index: u64,
    pub(super) name: String,
}

/// `JIT_CODE_MOVE`: code has been moved.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) size: u64,
    pub(super) index: u64,
}

/// `JIT_DEBUG_INFO`: source lines of the code that is loaded next.
#[derive(Debug)]
pub(super) struct DebugInfo {
    pub(super) start: u64,
    pub(super) lines: Vec<SourceLine>,
}

/// From `address` on code comes from this line.
#[derive(Debug)]
pub(super) struct SourceLine {
    pub(super) address: u64,
    pub(super) line: u32,
    pub(super) file: Arc<str>,
}

impl Header {
    pub(super) fn read(file: &dyn ReadAt) -> Result<Self, JitdumpError> {
        // "JiTD", its first letter the highest byte.
        const MAGIC: u32 = 0x4a69_5444;
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => JitdumpError::NotJitdump,
                _ => error.into(),
            })?;
        let mut fields = Fields {
            bytes: &bytes,
            is_swapped: false,
        };
        let magic = fields.u32().unwrap_or_default();
        fields.is_swapped = magic == MAGIC.swap_bytes();
        if magic != MAGIC && !fields.is_swapped {
            return Err(JitdumpError::NotJitdump);
        }
        let version = fields.u32().unwrap_or_default();
        if version != 1 {
            return Err(JitdumpError::Version(version));
        }
        let size = fields.u32().unwrap_or_default();
        let is_swapped = fields.is_swapped;
        // Machine, padding, pid and time are in between.
        let flags = fields.skip(20).and_then(|()| fields.u64());
        Ok(Self {
            is_swapped,
            size: u64::from(size).max(HEADER as u64),
            has_processor_times: flags.is_some_and(|flags| flags & ARCH_TIMESTAMP != 0),
        })
    }

    /// The record at `offset`.
    pub(super) fn record(&self, file: &dyn ReadAt, offset: u64) -> io::Result<Step> {
        let left = file.len().saturating_sub(offset);
        if left < PREFIX as u64 {
            return Ok(Step::NotYet);
        }
        let mut prefix = [0; PREFIX];
        if !fill(file, &mut prefix, offset)? {
            return Ok(Step::NotYet);
        }
        let mut fields = self.fields(&prefix);
        let (Some(kind), Some(size), Some(time_ns)) = (fields.u32(), fields.u32(), fields.u64())
        else {
            return Ok(Step::Damaged);
        };
        let size = u64::from(size);
        if size < PREFIX as u64 {
            return Ok(Step::Damaged);
        }
        if size > left {
            return Ok(Step::NotYet);
        }
        let wanted = (size - PREFIX as u64).min(body_bytes(kind));
        let mut body = vec![0; wanted as usize];
        if !fill(file, &mut body, offset + PREFIX as u64)? {
            return Ok(Step::NotYet);
        }
        let record = Record::parse(kind, self.fields(&body)).unwrap_or(Record::Malformed);
        Ok(Step::Record {
            record,
            time_ns,
            next: offset + size,
            read: PREFIX as u64 + wanted,
        })
    }

    fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields {
            bytes,
            is_swapped: self.is_swapped,
        }
    }
}

/// Fills a buffer; false: the file has been cut meanwhile.
fn fill(file: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Kinds of records, by the specification.
mod kind {
    pub(super) const LOAD: u32 = 0;
    pub(super) const MOVE: u32 = 1;
    pub(super) const DEBUG_INFO: u32 = 2;
}

/// How much of a record's body is worth reading: that of loaded code ends with
/// the code itself.
fn body_bytes(kind: u32) -> u64 {
    match kind {
        kind::LOAD => 40 + MAX_NAME as u64 + 1,
        kind::MOVE => 48,
        kind::DEBUG_INFO => MAX_DEBUG_BODY,
        _ => 0,
    }
}

impl Record {
    fn parse(kind: u32, mut fields: Fields<'_>) -> Option<Self> {
        match kind {
            kind::LOAD => {
                // Pid, thread id and the address again.
                fields.skip(16)?;
                Some(Self::Load(Load {
                    start: fields.u64()?,
                    size: fields.u64()?,
                    index: fields.u64()?,
                    name: text(fields.cut_text()),
                }))
            }
            kind::MOVE => {
                fields.skip(16)?;
                Some(Self::Move(Move {
                    from: fields.u64()?,
                    to: fields.u64()?,
                    size: fields.u64()?,
                    index: fields.u64()?,
                }))
            }
            kind::DEBUG_INFO => DebugInfo::parse(fields).map(Self::DebugInfo),
            _ => Some(Self::Other),
        }
    }
}

impl DebugInfo {
    fn parse(mut fields: Fields<'_>) -> Option<Self> {
        let start = fields.u64()?;
        let count = fields.u64()?;
        let mut lines: Vec<SourceLine> = Vec::new();
        // What is past the most that is read is left out.
        while (lines.len() as u64) < count
            && let Some(line) = SourceLine::parse(&mut fields, lines.last())
        {
            lines.push(line);
        }
        Some(Self { start, lines })
    }
}

impl SourceLine {
    fn parse(fields: &mut Fields<'_>, before: Option<&Self>) -> Option<Self> {
        /// Instead of a name: that of the line before.
        const SAME: &[u8] = b"\xff";
        let address = fields.u64()?;
        let line = fields.u32()?;
        // The discriminator.
        fields.skip(4)?;
        let file = match (fields.text()?, before) {
            (SAME, Some(before)) => Arc::clone(&before.file),
            (name, _) => text(name).into(),
        };
        Some(Self {
            address,
            line,
            file,
        })
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]).into_owned()
}

/// What is left of a record.
struct Fields<'a> {
    bytes: &'a [u8],
    is_swapped: bool,
}

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*array)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.bytes = self.bytes.get(bytes..)?;
        Some(())
    }

    fn u32(&mut self) -> Option<u32> {
        let number = u32::from_ne_bytes(self.array()?);
        Some(match self.is_swapped {
            true => number.swap_bytes(),
            false => number,
        })
    }

    fn u64(&mut self) -> Option<u64> {
        let number = u64::from_ne_bytes(self.array()?);
        Some(match self.is_swapped {
            true => number.swap_bytes(),
            false => number,
        })
    }

    /// Up to the next zero byte.
    fn text(&mut self) -> Option<&'a [u8]> {
        let end = self.bytes.iter().position(|byte| *byte == 0)?;
        let text = &self.bytes[..end];
        self.skip(end + 1)?;
        Some(text)
    }

    /// The same, or all that is left where there is none.
    fn cut_text(&mut self) -> &'a [u8] {
        self.text().unwrap_or(self.bytes)
    }
}
