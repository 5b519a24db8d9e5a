//! What code objects are called, as the kernel programs tell it.

use std::{collections::HashMap, sync::Arc};

use profiler_abi::{
    RecordHeader, RuntimeFrame,
    python::{CHECKSUM_SHIFT, CODE_LINES_BYTES, CODE_RECORD_HEADER, CodeRecord, KIND_CODE},
};
use zerocopy::{FromZeros, IntoBytes};

use super::lines::LineTable;

/// Most bytes that the table keeps of names and line tables; what comes later
/// has no names. About 50,000 functions.
const MAX_BYTES: usize = 32 << 20;

/// Bytes of an entry beside its name and its line table.
const ENTRY_BYTES: usize = 160;

/// A record of a code object that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code object of {0} bytes is not as it should be")]
pub struct CodeRecordError(usize);

/// Reads a record of kind [`KIND_CODE`].
///
/// # Errors
/// Fails where it is cut or its lengths contradict each other.
pub fn parse(bytes: &[u8]) -> Result<CodeRecord, CodeRecordError> {
    let error = CodeRecordError(bytes.len());
    let is_fitting = (CODE_RECORD_HEADER..=size_of::<CodeRecord>()).contains(&bytes.len());
    if !is_fitting {
        return Err(error);
    }
    let mut record = CodeRecord::new_zeroed();
    record.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let RecordHeader { kind, size } = record.header;
    let lines = record.lines_len as usize;
    if kind != KIND_CODE
        || size as usize != bytes.len()
        || lines > CODE_LINES_BYTES
        || CODE_RECORD_HEADER + lines != bytes.len()
        || usize::from(record.name_len) > record.name.len()
        || usize::from(record.file_len) > record.file.len()
    {
        return Err(error);
    }
    Ok(record)
}

/// Name of an interpreted frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeName {
    /// Qualified where the interpreter knows that (since 3.11).
    pub function: Arc<str>,
    /// Source file, empty where unknown.
    pub file: Arc<str>,
    /// 0 where unknown.
    pub line: u32,
}

/// Process id, start of the process, address, checksum.
type Key = (u32, u64, u64, u32);

/// A code object.
#[derive(Debug)]
struct Code {
    function: Arc<str>,
    file: Arc<str>,
    minor: u32,
    first_line: u32,
    lines: Box<[u8]>,
    is_cut: bool,
}

/// The code objects met, of all processes.
#[derive(Debug, Default)]
pub struct CodeTable {
    codes: HashMap<Key, Code>,
    /// Paths are shared: a file holds many functions.
    files: HashMap<Arc<str>, ()>,
    bytes: usize,
}

impl CodeTable {
    /// Keeps a code object, unless there are too many.
    pub fn add(&mut self, record: &CodeRecord) {
        let key = (
            record.tgid,
            record.process_start_ns,
            record.code,
            record.checksum,
        );
        if self.codes.contains_key(&key) {
            return;
        }
        let name = text(&record.name, record.name_len, record.name_width);
        let file = text(&record.file, record.file_len, record.file_width);
        let lines = record.lines.get(..record.lines_len as usize);
        let file = mark_cut(file, record.file_cut, |file| format!("...{file}"));
        if self.bytes + ENTRY_BYTES + file.len() > MAX_BYTES {
            return;
        }
        let code = Code {
            function: mark_cut(name, record.name_cut, |name| format!("{name}...")).into(),
            file: self.file(file),
            minor: record.minor,
            first_line: record.first_line,
            lines: lines.unwrap_or_default().into(),
            is_cut: record.lines_size > record.lines_len,
        };
        let bytes = ENTRY_BYTES + code.function.len() + code.lines.len();
        if self.bytes + bytes > MAX_BYTES {
            return;
        }
        self.bytes += bytes;
        self.codes.insert(key, code);
    }

    fn file(&mut self, path: String) -> Arc<str> {
        if let Some((known, ())) = self.files.get_key_value(path.as_str()) {
            return Arc::clone(known);
        }
        let path: Arc<str> = path.into();
        self.bytes += ENTRY_BYTES + path.len();
        self.files.insert(Arc::clone(&path), ());
        path
    }

    /// Name of a frame of process `tgid`, which started at `start_ns`
    /// (CLOCK_BOOTTIME). Nothing where its code object was never told.
    pub fn name(&self, tgid: u32, start_ns: u64, frame: RuntimeFrame) -> Option<RuntimeName> {
        let checksum = (frame.place >> CHECKSUM_SHIFT) as u32;
        let code = self.codes.get(&(tgid, start_ns, frame.code, checksum))?;
        let table = LineTable {
            minor: code.minor,
            first_line: code.first_line,
            bytes: &code.lines,
            is_cut: code.is_cut,
        };
        Some(RuntimeName {
            function: Arc::clone(&code.function),
            file: Arc::clone(&code.file),
            line: table.line(frame.place as u32 as i32).unwrap_or(0),
        })
    }
}

fn mark_cut(text: String, is_cut: u8, mark: impl Fn(&str) -> String) -> String {
    if is_cut == 0 { text } else { mark(&text) }
}

/// Characters of `width` bytes each; none where they could not be read.
fn text(bytes: &[u8], len: u16, width: u8) -> String {
    let bytes = bytes.get(..len.into()).unwrap_or_default();
    let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    match width {
        1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
        2 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| character(u16::from_le_bytes(*bytes).into()))
            .collect(),
        4 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| character(u32::from_le_bytes(*bytes)))
            .collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `def f` in `/a.py`, 3.9, line 3 and from byte 4 on line 4.
    fn record() -> CodeRecord {
        let mut record = CodeRecord::new_zeroed();
        record.header = RecordHeader {
            kind: KIND_CODE,
            size: (CODE_RECORD_HEADER + 2) as u32,
        };
        (record.tgid, record.process_start_ns) = (7, 8);
        (record.code, record.checksum) = (0x1000, 5);
        (record.minor, record.first_line) = (9, 3);
        (record.lines_size, record.lines_len) = (2, 2);
        record.lines[..2].copy_from_slice(&[4, 1]);
        (record.name_len, record.name_width) = (1, 1);
        record.name[0] = b'f';
        (record.file_len, record.file_width) = (5, 1);
        record.file[..5].copy_from_slice(b"/a.py");
        record
    }

    fn frame(offset: i32, checksum: u64) -> RuntimeFrame {
        RuntimeFrame {
            code: 0x1000,
            place: u64::from(offset as u32) | RuntimeFrame::ENTRY | checksum << CHECKSUM_SHIFT,
        }
    }

    #[test]
    fn names_what_was_told() {
        let record = record();
        let bytes = &record.as_bytes()[..record.header.size as usize];
        let mut table = CodeTable::default();
        table.add(&parse(bytes).unwrap());
        let name = table.name(7, 8, frame(6, 5)).unwrap();
        assert_eq!((&*name.function, &*name.file, name.line), ("f", "/a.py", 4));
        assert_eq!(table.name(7, 8, frame(-1, 5)).unwrap().line, 3);
        assert_eq!(table.name(7, 8, frame(0, 6)), None);
        assert_eq!(table.name(7, 9, frame(0, 5)), None);
        assert_eq!(table.name(6, 8, frame(0, 5)), None);
    }

    #[test]
    fn what_is_cut_is_marked() {
        let mut record = record();
        (record.name_cut, record.file_cut) = (1, 1);
        (record.name_len, record.name_width) = (4, 2);
        record.name[..4].copy_from_slice(&[0xe9, 0, 0, 0xd8]);
        let mut table = CodeTable::default();
        table.add(&record);
        let name = table.name(7, 8, frame(0, 5)).unwrap();
        assert_eq!(&*name.function, "\u{e9}\u{fffd}...");
        assert_eq!(&*name.file, ".../a.py");
    }

    #[test]
    fn records_that_lie_are_refused() {
        let record = record();
        let size = record.header.size as usize;
        let refuse = |change: fn(&mut CodeRecord)| {
            let mut record = record;
            change(&mut record);
            assert!(parse(&record.as_bytes()[..size]).is_err());
        };
        refuse(|record| record.header.size += 1);
        refuse(|record| record.header.kind += 1);
        refuse(|record| record.lines_len = u32::MAX);
        refuse(|record| record.name_len = 129);
        refuse(|record| record.file_len = 257);
        for len in 0..size {
            assert!(parse(&record.as_bytes()[..len]).is_err());
        }
        assert!(parse(&[0; size_of::<CodeRecord>() + 1]).is_err());
        assert!(parse(&record.as_bytes()[..size]).is_ok());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut record = record();
        record.lines_len = CODE_LINES_BYTES as u32;
        let mut table = CodeTable::default();
        for code in 0..20_000 {
            record.code = code;
            table.add(&record);
        }
        assert!(table.bytes <= MAX_BYTES);
        assert!((1000..20_000).contains(&table.codes.len()));
    }
}
