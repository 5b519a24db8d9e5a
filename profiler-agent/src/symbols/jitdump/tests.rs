use std::time::Instant;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// A dump as a compiler writes it.
struct Writer {
    bytes: Vec<u8>,
    is_swapped: bool,
}

impl Writer {
    fn new(flags: u64) -> Self {
        Self::in_order(flags, false)
    }

    fn in_order(flags: u64, is_swapped: bool) -> Self {
        let mut writer = Self {
            bytes: Vec::new(),
            is_swapped,
        };
        for number in [0x4a69_5444, 1, 40, 62, 0, 7] {
            writer.u32(number);
        }
        writer.u64(SECOND);
        writer.u64(flags);
        writer
    }

    fn u32(&mut self, number: u32) {
        let number = if self.is_swapped {
            number.swap_bytes()
        } else {
            number
        };
        self.bytes.extend(number.to_ne_bytes());
    }

    fn u64(&mut self, number: u64) {
        let number = if self.is_swapped {
            number.swap_bytes()
        } else {
            number
        };
        self.bytes.extend(number.to_ne_bytes());
    }

    fn begin(&mut self, kind: u32, body: usize, time: u64) {
        self.u32(kind);
        self.u32(16 + body as u32);
        self.u64(time);
    }

    fn load(&mut self, time: u64, start: u64, size: u64, index: u64, name: &str) {
        self.begin(0, 40 + name.len() + 1 + size as usize, time);
        self.u64(7 << 32 | 7);
        for number in [start, start, size, index] {
            self.u64(number);
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.bytes.extend(vec![0xcc; size as usize]);
    }

    fn moved(&mut self, time: u64, from: u64, to: u64, size: u64, index: u64) {
        self.begin(1, 48, time);
        self.u64(7 << 32 | 7);
        for number in [to, from, to, size, index] {
            self.u64(number);
        }
    }

    fn lines(&mut self, start: u64, lines: &[(u64, u32, &[u8])]) {
        let names: usize = lines.iter().map(|line| line.2.len() + 1).sum();
        self.begin(2, 16 + 16 * lines.len() + names, SECOND);
        self.u64(start);
        self.u64(lines.len() as u64);
        for (address, line, file) in lines {
            self.u64(*address);
            self.u32(*line);
            self.u32(0);
            self.bytes.extend(*file);
            self.bytes.push(0);
        }
    }
}

fn function(dump: &Jitdump, address: u64, at_ns: Option<u64>) -> Option<String> {
    dump.name(address, at_ns).map(|name| name.function)
}

#[test]
fn names_code_with_its_lines() {
    for is_swapped in [false, true] {
        let mut writer = Writer::in_order(0, is_swapped);
        writer.lines(
            0x1000,
            &[
                (0x1008, 4, b"a.js"),
                (0x1000, 3, b"a.js"),
                (0x1010, 9, b"\xff"),
            ],
        );
        writer.load(SECOND, 0x1000, 32, 1, "f");
        writer.begin(3, 0, SECOND);
        let dump = Jitdump::read(&writer.bytes).unwrap();
        let line = |at| {
            dump.name(at, None)
                .map(|name| (name.function, name.file, name.line))
        };
        let expected = |line| Some(("f".to_owned(), "a.js".to_owned(), line));
        assert_eq!(line(0x1007), expected(3));
        assert_eq!(line(0x1008), expected(4));
        assert_eq!(line(0x101f), expected(9));
        assert_eq!(line(0x1020), None);
        assert_eq!(dump.skipped(), Skipped::default());
    }
}

#[test]
fn code_that_moved_keeps_its_name_and_leaves_its_place() {
    let mut writer = Writer::new(0);
    writer.lines(0x1000, &[(0x1000, 3, b"a.js"), (0x1004, 4, b"a.js")]);
    writer.load(SECOND, 0x1000, 16, 1, "f");
    writer.moved(2 * SECOND, 0x1000, 0x2000, 16, 1);
    writer.load(3 * SECOND, 0x1000, 16, 2, "g");
    writer.moved(4 * SECOND, 0x1000, 0x2000, 16, 77);
    let dump = Jitdump::read(&writer.bytes).unwrap();
    let at = |address, seconds| function(&dump, address, Some(seconds * SECOND));
    assert_eq!(at(0x1004, 1).as_deref(), Some("f"));
    assert_eq!(at(0x1004, 2), None);
    assert_eq!(at(0x2004, 2).as_deref(), Some("f"));
    assert_eq!(at(0x1004, 3).as_deref(), Some("g"));
    assert_eq!(at(0x2004, 9).as_deref(), Some("f"));
    assert_eq!(dump.name(0x2004, None).unwrap().line, 4);
    assert_eq!(dump.skipped().malformed, 1);
}

#[test]
fn times_of_the_processor_are_not_compared_with_ours() {
    let mut writer = Writer::new(1);
    writer.load(900 * SECOND, 0x1000, 16, 1, "f");
    writer.load(800 * SECOND, 0x1000, 16, 2, "g");
    let dump = Jitdump::read(&writer.bytes).unwrap();
    assert!(!dump.has_times());
    assert_eq!(function(&dump, 0x1000, Some(1)).as_deref(), Some("g"));
}

#[test]
fn a_dump_is_read_on_as_it_grows() {
    let mut writer = Writer::new(0);
    writer.load(SECOND, 0x1000, 16, 1, "f");
    writer.load(SECOND, 0x2000, 16, 2, "g");
    let whole = writer.bytes;
    let mut dump = Jitdump::read(&whole[..40].to_vec()).unwrap();
    for len in 41..whole.len() {
        dump.refresh(&whole[..len].to_vec()).unwrap();
        assert!(dump.len() < 2, "{len}");
    }
    assert_eq!(function(&dump, 0x1000, None).as_deref(), Some("f"));
    dump.refresh(&whole).unwrap();
    assert_eq!(function(&dump, 0x2000, None).as_deref(), Some("g"));
    // One that got shorter has nothing more to say.
    dump.refresh(&whole[..50].to_vec()).unwrap();
    assert_eq!((dump.len(), dump.skipped()), (2, Skipped::default()));
}

#[test]
fn what_is_no_dump_is_refused() {
    let read = |bytes: &[u8]| Jitdump::read(&bytes.to_vec());
    assert!(matches!(read(b""), Err(JitdumpError::NotJitdump)));
    assert!(matches!(read(&[0; 64]), Err(JitdumpError::NotJitdump)));
    let mut writer = Writer::new(0);
    writer.bytes[4] = 2;
    assert!(matches!(read(&writer.bytes), Err(JitdumpError::Version(2))));
}

#[test]
fn damage_ends_a_dump_and_bad_records_are_counted() {
    let mut writer = Writer::new(0);
    writer.begin(0, 8, SECOND);
    writer.u64(0);
    writer.load(SECOND, 0x1000, 16, 1, &"x".repeat(5000));
    writer.load(SECOND, u64::MAX - 8, 0, 2, "empty");
    writer.u32(0);
    writer.u32(3);
    writer.u64(0);
    writer.load(SECOND, 0x2000, 16, 1, "never read");
    let dump = Jitdump::read(&writer.bytes).unwrap();
    assert_eq!(dump.len(), 1);
    assert_eq!(function(&dump, 0x1000, None).unwrap().len(), 1024);
    assert_eq!(dump.skipped().malformed, 2);
    assert!(dump.skipped().unread > 16);
}

#[test]
fn code_of_no_size_is_not_kept() {
    let mut writer = Writer::new(0);
    for index in 0..1000 {
        writer.load(SECOND, 0x1000, 0, index, "empty");
        writer.load(SECOND, u64::MAX, 16, 1000 + index, "nowhere");
    }
    let mut dump = Jitdump::read(&writer.bytes).unwrap();
    assert_eq!((dump.by_index.len(), dump.bytes()), (0, 0));
    assert_eq!(dump.skipped().malformed, 2000);
    writer.load(SECOND, 0x1000, 16, 1, "f");
    dump.refresh(&writer.bytes).unwrap();
    assert!(dump.bytes() > size_of::<Code>() + size_of::<Placed>());
}

/// Of records that say nothing there may be as many as fit.
#[test]
fn records_are_counted() {
    let mut writer = Writer::new(0);
    for _ in 0..MAX_RECORDS + 10 {
        writer.begin(9, 0, SECOND);
    }
    let dump = Jitdump::read(&writer.bytes).unwrap();
    assert_eq!(dump.skipped().unread, 160);
}

/// Ranges that all overlap, lines without end, and endless moves.
#[test]
fn a_dump_made_to_be_costly_costs_little() {
    let mut writer = Writer::new(0);
    for index in 0..100_000u64 {
        writer.begin(0, 42, SECOND);
        for number in [0, 0, index, 1 << 40, index % 10] {
            writer.u64(number);
        }
        writer.bytes.extend(b"f\0");
        if index % 10 == 0 {
            writer.moved(SECOND, index, 0, u64::MAX, index % 10);
        }
    }
    writer.begin(2, 18 << 16, SECOND);
    writer.u64(0);
    writer.u64(u64::MAX);
    writer.bytes.resize(writer.bytes.len() + (18 << 16) - 16, 0);
    let started = Instant::now();
    let dump = Jitdump::read(&writer.bytes).unwrap();
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    assert!(dump.len() <= MAX_ENTRIES);
    assert!(dump.skipped().full > 0);
}
