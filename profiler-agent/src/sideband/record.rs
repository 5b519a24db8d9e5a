//! The kernel's side-band records, from their bytes. Layouts by
//! include/uapi/linux/perf_event.h, for events whose `sample_type` is
//! `PERF_SAMPLE_TID | PERF_SAMPLE_TIME` with `sample_id_all`: each record ends
//! in process id, thread id and time.

use crate::processes::FileId;

/// Longest path of a mapping that is kept, `PATH_MAX`; the kernel cuts there.
const MAX_PATH: usize = 4096;

/// Bytes of what ends a record.
const SAMPLE_ID: usize = 16;

/// `struct perf_event_header`.
const HEADER: usize = 8;

const LOST: u32 = 2;
const COMM: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const MMAP2: u32 = 10;

/// `PERF_RECORD_MISC_COMM_EXEC`.
const COMM_EXEC: u16 = 1 << 13;

/// What happened, to whom and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideRecord {
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Process id.
    pub pid: u32,
    /// What happened.
    pub event: SideEvent,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SideEvent {
    /// The process mapped code.
    Mmap(SideMapping),
    /// The process was made.
    Fork {
        /// By this process.
        parent: u32,
    },
    /// The process runs another program, and nothing of the last one is mapped.
    Exec {
        /// Command name of the new one.
        comm: String,
    },
    /// The process has another command name.
    Comm {
        /// The name.
        comm: String,
    },
    /// The first thread of the process ended.
    Exit,
    /// So many records, of any processes, found no room in a CPU's ring.
    Lost {
        /// How many.
        count: u64,
    },
}

/// An executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideMapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// Which file. Not by build-id, which the kernel could tell since Linux 5.12:
    /// it would tell it instead, and `/proc` does not know it.
    pub file: FileId,
    /// As the process sees it, `[vdso]` and the like, or `//anon`.
    pub path: String,
}

/// What a ring's bytes hold.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) records: Vec<SideRecord>,
    /// Records that are not as they should be.
    pub(super) malformed: u64,
}

impl Parsed {
    /// Adds whole records. What comes after a record that gives no sensible
    /// size cannot be found.
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let size = u16_at(bytes, 6).unwrap_or_default().into();
            let Some(record) = bytes.get(..size).filter(|_| size >= HEADER) else {
                self.malformed += 1;
                return;
            };
            bytes = &bytes[size..];
            match parse(record) {
                Some(Some(record)) => self.records.push(record),
                Some(None) => {}
                None => self.malformed += 1,
            }
        }
    }
}

/// Inner `None`: of no interest. Outer `None`: too short for its kind.
fn parse(record: &[u8]) -> Option<Option<SideRecord>> {
    let kind = u32_at(record, 0)?;
    let misc = u16_at(record, 4)?;
    if !matches!(kind, LOST | COMM | EXIT | FORK | MMAP2) {
        return Some(None);
    }
    let body_end = record.len().checked_sub(SAMPLE_ID)?;
    let body = record.get(HEADER..body_end)?;
    let time_ns = u64_at(record, body_end + 8)?;
    let (pid, event) = match kind {
        LOST => {
            let count = u64_at(body, 8)?;
            (0, Some(SideEvent::Lost { count }))
        }
        COMM => (u32_at(body, 0)?, comm(body, misc)?),
        FORK => (u32_at(body, 0)?, fork(body)?),
        EXIT => (u32_at(body, 0)?, exit(body)?),
        _ => (u32_at(body, 0)?, Some(SideEvent::Mmap(mapping(body)?))),
    };
    Some(event.map(|event| SideRecord {
        time_ns,
        pid,
        event,
    }))
}

/// `u32 pid, tid; char comm[]`
fn comm(body: &[u8], misc: u16) -> Option<Option<SideEvent>> {
    let comm = text(body.get(8..)?, 16);
    let is_leader = u32_at(body, 0)? == u32_at(body, 4)?;
    Some(match misc & COMM_EXEC != 0 {
        true => Some(SideEvent::Exec { comm }),
        false => is_leader.then_some(SideEvent::Comm { comm }),
    })
}

/// `u32 pid, ppid, tid, ptid; u64 time`. A thread has the process of its parent.
fn fork(body: &[u8]) -> Option<Option<SideEvent>> {
    let (pid, parent) = (u32_at(body, 0)?, u32_at(body, 4)?);
    u64_at(body, 16)?;
    Some((pid != parent).then_some(SideEvent::Fork { parent }))
}

/// As [`fork`].
fn exit(body: &[u8]) -> Option<Option<SideEvent>> {
    let is_leader = u32_at(body, 0)? == u32_at(body, 8)?;
    u64_at(body, 16)?;
    Some(is_leader.then_some(SideEvent::Exit))
}

/// `u32 pid, tid; u64 start, len, offset; file (24 bytes); u32 prot, flags; char path[]`
fn mapping(body: &[u8]) -> Option<SideMapping> {
    let start = u64_at(body, 8)?;
    let file = FileId {
        device: rustix::fs::makedev(u32_at(body, 32)?, u32_at(body, 36)?),
        inode: u64_at(body, 40)?,
    };
    Some(SideMapping {
        start,
        end: start.checked_add(u64_at(body, 16)?)?,
        offset: u64_at(body, 24)?,
        file,
        path: text(body.get(64..)?, MAX_PATH),
    })
}

/// Up to the first NUL.
fn text(bytes: &[u8], longest: usize) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    let bytes = &bytes[..end.unwrap_or(bytes.len()).min(longest)];
    String::from_utf8_lossy(bytes).into_owned()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of its own header, body and end.
    fn bytes(kind: u32, misc: u16, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend_from_slice(&kind.to_ne_bytes());
        record.extend_from_slice(&misc.to_ne_bytes());
        record.extend_from_slice(&((HEADER + body.len() + SAMPLE_ID) as u16).to_ne_bytes());
        record.extend_from_slice(body);
        record.extend_from_slice(&words(&[7, 8]));
        record.extend_from_slice(&99u64.to_ne_bytes());
        record
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn mmap_body(file: &[u32; 6]) -> Vec<u8> {
        let mut body = words(&[7, 8]);
        for number in [0x1000u64, 0x200, 0x3000] {
            body.extend_from_slice(&number.to_ne_bytes());
        }
        body.extend_from_slice(&words(file));
        body.extend_from_slice(&words(&[5, 2]));
        body.extend_from_slice(b"/bin/x\0\0");
        body
    }

    fn events(record: &[u8]) -> Vec<SideEvent> {
        let mut parsed = Parsed::default();
        parsed.add(record);
        assert_eq!(parsed.malformed, 0);
        parsed
            .records
            .into_iter()
            .map(|record| record.event)
            .collect()
    }

    #[test]
    fn mappings_name_their_file_in_one_of_two_ways() {
        let mut parsed = Parsed::default();
        parsed.add(&bytes(MMAP2, 0, &mmap_body(&[8, 1, 42, 0, 0, 0])));
        let expected = SideMapping {
            start: 0x1000,
            end: 0x1200,
            offset: 0x3000,
            file: FileId {
                device: rustix::fs::makedev(8, 1),
                inode: 42,
            },
            path: "/bin/x".to_owned(),
        };
        let record = SideRecord {
            time_ns: 99,
            pid: 7,
            event: SideEvent::Mmap(expected),
        };
        assert_eq!(parsed.records, [record]);
    }

    #[test]
    fn what_concerns_one_thread_only_is_left_out() {
        let time = [0, 0];
        let fork = |pid, parent| words(&[&[pid, parent, 9, 8][..], &time].concat());
        assert_eq!(events(&bytes(FORK, 0, &fork(7, 7))), []);
        assert_eq!(
            events(&bytes(FORK, 0, &fork(7, 6))),
            [SideEvent::Fork { parent: 6 }]
        );
        let exit = |tid| words(&[&[7, 6, tid, 6][..], &time].concat());
        assert_eq!(events(&bytes(EXIT, 0, &exit(8))), []);
        assert_eq!(events(&bytes(EXIT, 0, &exit(7))), [SideEvent::Exit]);
        let comm = |tid| [&words(&[7, tid])[..], b"abc\0\0\0\0\0"].concat();
        let name = || "abc".to_owned();
        assert_eq!(events(&bytes(COMM, 0, &comm(8))), []);
        assert_eq!(
            events(&bytes(COMM, 0, &comm(7))),
            [SideEvent::Comm { comm: name() }]
        );
        assert_eq!(
            events(&bytes(COMM, COMM_EXEC, &comm(8))),
            [SideEvent::Exec { comm: name() }]
        );
    }

    #[test]
    fn losses_are_counted_and_unknown_kinds_stepped_over() {
        let lost = bytes(LOST, 0, &words(&[1, 0, 5, 0]));
        let all = [bytes(99, 0, &[]), lost].concat();
        assert_eq!(events(&all), [SideEvent::Lost { count: 5 }]);
    }

    #[test]
    fn cut_and_lying_records_are_counted() {
        let whole = bytes(MMAP2, 0, &mmap_body(&[8, 1, 42, 0, 0, 0]));
        for kind in [LOST, COMM, EXIT, FORK, MMAP2] {
            for len in 0..mmap_body(&[0; 6]).len() {
                let mut parsed = Parsed::default();
                parsed.add(&bytes(kind, 0, &vec![0xff; len]));
                assert!(parsed.records.len() <= 1);
            }
        }
        for len in 1..whole.len() {
            let mut parsed = Parsed::default();
            parsed.add(&whole[..len]);
            assert_eq!((parsed.records.len(), parsed.malformed), (0, 1));
        }
        let mut parsed = Parsed::default();
        parsed.add(&[0; 64]);
        assert_eq!(parsed.malformed, 1, "a size of 0 does not go on for ever");
    }
}
