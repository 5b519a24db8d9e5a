//! `/tmp/perf-PID.map`, in which a just-in-time compiler writes where the code
//! is that it has made: lines `START SIZE NAME`, numbers in hexadecimal
//! (tools/perf/Documentation/jit-interface.txt of Linux). The file only
//! grows; memory that is used again is described again, so the last line about
//! an address holds.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
};

use crate::symbolize::Name;

use super::{
    code_map::CodeMap,
    process_file::{Owner, ProcessFileError, perf_map_path},
};

/// Most bytes read of one map: a million functions with names of 40 bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Most ranges kept of one map, 100 bytes each and their names.
const MAX_RANGES: usize = 500_000;

/// Most bytes of names kept of one map.
const MAX_NAME_BYTES: usize = 32 << 20;

/// Bytes of names taken after which those are counted again that are still kept.
const RECOUNT: usize = MAX_NAME_BYTES / 4;

/// Longest name kept. What is longer is cut.
const MAX_NAME: usize = 1024;

/// Longest line looked at: two numbers, two blanks and a name.
const MAX_LINE: usize = 2 * 18 + 2 + MAX_NAME;

/// Lines without an entry after which nothing more is read: it is something
/// else. Among the lines of real maps there is none.
const MAX_MALFORMED: u64 = 10_000;

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// What was not taken from a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Lines that are no entry.
    pub malformed: u64,
    /// Entries whose names were too long and are cut.
    pub cut: u64,
    /// Entries that found no room.
    pub full: u64,
    /// Bytes at the end of the file that are not read: past the most that are,
    /// or because what came before is no map.
    pub unread: u64,
}

/// The names in a map, as lines come.
#[derive(Debug)]
pub struct PerfMap {
    names: CodeMap<Arc<str>>,
    /// Of names when they were last counted, and of those taken since.
    counted_bytes: usize,
    new_bytes: usize,
    /// Begin of a line whose end has not come.
    line: Vec<u8>,
    line_is_cut: bool,
    skipped: Skipped,
}

impl Default for PerfMap {
    fn default() -> Self {
        Self {
            names: CodeMap::newest(MAX_RANGES),
            counted_bytes: 0,
            new_bytes: 0,
            line: Vec::new(),
            line_is_cut: false,
            skipped: Skipped::default(),
        }
    }
}

impl PerfMap {
    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n");
            let room = MAX_LINE - self.line.len();
            let taken = text.unwrap_or(part);
            self.line_is_cut |= taken.len() > room;
            self.line.extend_from_slice(&taken[..taken.len().min(room)]);
            if text.is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let was_cut = std::mem::take(&mut self.line_is_cut);
        match parse(&line) {
            Some((start, size, name)) => self.add(start, size, name, was_cut),
            None => self.skipped.malformed += 1,
        }
        // Its memory serves the next one.
        self.line = line;
        self.line.clear();
    }

    fn add(&mut self, start: u64, size: u64, name: &[u8], was_cut: bool) {
        let is_long = name.len() > MAX_NAME;
        let name = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]);
        self.skipped.cut += u64::from(is_long || was_cut);
        let bytes = name.len();
        let range = start..start.saturating_add(size);
        if self.has_room(bytes) && self.names.insert(range, 0, Some(name.into())).is_ok() {
            self.new_bytes += bytes;
        } else {
            self.skipped.full += 1;
        }
    }

    /// Whether there is room for a name. Names of code that is gone make some.
    fn has_room(&mut self, bytes: usize) -> bool {
        let is_full = |map: &Self| map.counted_bytes + map.new_bytes + bytes > MAX_NAME_BYTES;
        if is_full(self) && self.new_bytes >= RECOUNT {
            self.counted_bytes = self.names.values().map(|name| name.len()).sum();
            self.new_bytes = 0;
        }
        !is_full(self)
    }

    /// The function that holds `address`.
    pub fn name(&self, address: u64) -> Option<Name> {
        let function = self.names.get(address, None)?;
        Some(Name {
            function: function.to_string(),
            ..Name::default()
        })
    }

    /// Ranges that have names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Those that begin in `addresses`.
    pub fn count_in(&self, addresses: Range<u64>) -> usize {
        self.names.count_in(addresses)
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.counted_bytes + self.new_bytes + self.names.bytes()
    }

    /// What was not taken.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }
}

/// `START SIZE NAME`; the name may have blanks.
fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let start = hexadecimal(fields.next()?)?;
    let size = hexadecimal(fields.next()?)?;
    let name = fields.next()?.trim_ascii();
    (size > 0 && !name.is_empty()).then_some((start, size, name))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let digits = digits
        .strip_prefix(b"0x")
        .or_else(|| digits.strip_prefix(b"0X"))
        .unwrap_or(digits);
    // A sign would be taken too.
    let all_digits = digits.iter().all(u8::is_ascii_hexdigit);
    let text = all_digits.then(|| str::from_utf8(digits).ok())?;
    u64::from_str_radix(text?, 16).ok()
}

/// The map of a process, read again as it grows. It stays open: most compilers
/// leave it, some delete it when they end.
#[derive(Debug)]
pub struct PerfMapFile {
    owner: Owner,
    path: PathBuf,
    file: File,
    inode: u64,
    read: u64,
    map: PerfMap,
}

impl PerfMapFile {
    /// Opens the map of a process and reads it.
    ///
    /// # Errors
    /// Fails where there is none that is to be believed.
    pub fn open(owner: &Owner) -> Result<Self, ProcessFileError> {
        let mut refused = ProcessFileError::Missing;
        for pid in &owner.pids {
            let path = PathBuf::from(perf_map_path(*pid));
            match owner.open(&path) {
                Ok((file, metadata)) => {
                    let mut opened = Self {
                        owner: owner.clone(),
                        path,
                        file,
                        inode: metadata.ino(),
                        read: 0,
                        map: PerfMap::default(),
                    };
                    opened.read_on().map_err(ProcessFileError::System)?;
                    return Ok(opened);
                }
                Err(ProcessFileError::Missing) => {}
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Reads what was written since, or all of another file that is at its path
    /// by now.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn refresh(&mut self) -> io::Result<()> {
        if let Ok((file, metadata)) = self.owner.open(&self.path)
            && (metadata.ino() != self.inode || metadata.len() < self.read)
        {
            self.file = file;
            self.inode = metadata.ino();
            self.read = 0;
            self.map = PerfMap::default();
        }
        self.read_on()
    }

    fn read_on(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut buffer = vec![0; BUFFER];
        while self.map.skipped.malformed < MAX_MALFORMED {
            let room = MAX_BYTES.saturating_sub(self.read).min(BUFFER as u64);
            let len = match self.file.read(&mut buffer[..room as usize]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                len => len?,
            };
            if len == 0 {
                break;
            }
            self.read += len as u64;
            self.map.push(&buffer[..len]);
        }
        self.map.skipped.unread = self.file.metadata()?.len().saturating_sub(self.read);
        Ok(())
    }

    /// Where it is, inside the process's root.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// What is in it.
    pub fn map(&self) -> &PerfMap {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::FileExt, time::Instant};

    use super::*;
    use crate::symbols::process_file::tests::own;

    fn map(text: &str) -> PerfMap {
        let mut map = PerfMap::default();
        map.push(text.as_bytes());
        map
    }

    fn name(map: &PerfMap, address: u64) -> Option<String> {
        map.name(address).map(|name| name.function)
    }

    #[test]
    fn reads_numbers_with_and_without_prefix_and_names_with_blanks() {
        let map = map("10 8 LazyCompile:*f /a b.js:1:2\n0x20 0X8  g \n");
        assert_eq!(
            name(&map, 0x17).as_deref(),
            Some("LazyCompile:*f /a b.js:1:2")
        );
        assert_eq!(name(&map, 0x18), None);
        assert_eq!(name(&map, 0x20).as_deref(), Some("g"));
        assert_eq!(map.skipped(), Skipped::default());
    }

    #[test]
    fn the_last_line_about_an_address_holds() {
        let map = map("100 100 old\n180 10 new\n");
        let names = [0x17f, 0x180, 0x18f, 0x190].map(|at| name(&map, at).unwrap());
        assert_eq!(names, ["old", "new", "new", "old"]);
    }

    #[test]
    fn what_is_no_entry_is_counted() {
        let text = "\n10\n10 8\n10 8 \n10 0 f\n+10 8 f\nzz 8 f\n 10 8 f\n11112222333344445 1 f\n";
        let map = map(text);
        assert!(map.is_empty());
        assert_eq!(map.skipped().malformed, 9);
        let end = self::map("fffffffffffffff0 ffffffffffffffff f\n");
        assert_eq!(name(&end, u64::MAX - 1).as_deref(), Some("f"));
    }

    #[test]
    fn a_line_may_come_in_parts_and_is_an_entry_when_it_ends() {
        let mut map = PerfMap::default();
        for byte in b"10 8 first\n20 8 second" {
            map.push(&[*byte]);
        }
        assert_eq!(name(&map, 0x10).as_deref(), Some("first"));
        assert_eq!(name(&map, 0x20), None);
        map.push(b"\n");
        assert_eq!(name(&map, 0x20).as_deref(), Some("second"));
    }

    #[test]
    fn long_names_are_cut_and_counted() {
        let long = "\u{e9}".repeat(1 << 20);
        let map = map(&format!("10 8 {long}\n20 8 next\n"));
        assert!(name(&map, 0x10).unwrap().len() < MAX_NAME + 10);
        assert_eq!(name(&map, 0x20).as_deref(), Some("next"));
        assert_eq!((map.skipped().cut, map.skipped().malformed), (1, 0));
    }

    #[test]
    fn names_of_code_that_is_gone_make_room() {
        let mut map = PerfMap::default();
        let long = "x".repeat(1000);
        let lines = 2 * MAX_NAME_BYTES / long.len();
        for entry in 0..lines {
            map.push(format!("{:x} 10 {long}{entry}\n", entry % 1000 * 16).as_bytes());
        }
        assert_eq!(map.skipped().full, 0);
        let last = name(&map, ((lines - 1) % 1000 * 16) as u64).unwrap();
        assert!(last.ends_with(&format!("x{}", lines - 1)));
        assert!(map.bytes() <= MAX_NAME_BYTES + (1 << 20));
    }

    #[test]
    fn entries_past_the_bound_are_counted() {
        let mut map = PerfMap::default();
        for entry in 0..MAX_RANGES as u64 + 10 {
            map.push(format!("{:x} 10 f\n", entry * 16).as_bytes());
        }
        assert!(map.len() <= MAX_RANGES);
        assert_eq!(
            map.len() as u64 + map.skipped().full,
            MAX_RANGES as u64 + 10
        );
    }

    /// The map of this process, and nobody else's at its place.
    fn file_of(test: &str) -> (PathBuf, Owner) {
        // Named after another pid for each test: they run beside each other.
        let pid = 4_000_000 + u32::from(test.as_bytes()[0]);
        let mut owner = own();
        owner.pids = vec![pid];
        (PathBuf::from(perf_map_path(pid)), owner)
    }

    #[test]
    fn a_file_is_read_on_and_read_again_when_it_is_another() {
        let (path, owner) = file_of("read on");
        let mut written = File::create(&path).unwrap();
        written.write_all(b"10 8 first\n20 8 sec").unwrap();
        let mut file = PerfMapFile::open(&owner).unwrap();
        assert_eq!(file.map().len(), 1);
        written.write_all(b"ond\n").unwrap();
        file.refresh().unwrap();
        assert_eq!(name(file.map(), 0x20).as_deref(), Some("second"));
        written.set_len(0).unwrap();
        written.write_all_at(b"30 8 x\n", 0).unwrap();
        file.refresh().unwrap();
        assert_eq!((file.map().len(), file.map().skipped().malformed), (1, 0));
        std::fs::remove_file(&path).unwrap();
        written.write_all_at(b"40 8 y\n", 7).unwrap();
        file.refresh().unwrap();
        assert_eq!(file.map().len(), 2, "deleted, and still read");
        assert!(matches!(
            PerfMapFile::open(&owner),
            Err(ProcessFileError::Missing)
        ));
    }

    #[test]
    fn what_is_no_map_is_not_read_to_its_end() {
        let (path, owner) = file_of("no map");
        std::fs::write(&path, vec![b'\n'; 1 << 20]).unwrap();
        let opened = PerfMapFile::open(&owner);
        std::fs::remove_file(&path).unwrap();
        let unread = opened.unwrap().map().skipped().unread;
        assert_eq!(unread, (1 << 20) - BUFFER as u64);
    }

    #[test]
    fn a_gibibyte_with_an_endless_line_costs_little() {
        let (path, owner) = file_of("gibibyte");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"10 8 first\n20 8 ", 0).unwrap();
        file.write_all_at(&vec![b'x'; 2 << 20], 16).unwrap();
        file.write_all_at(b"\n30 8 last\n", 16 + (2 << 20)).unwrap();
        file.set_len(1 << 30).unwrap();
        let started = Instant::now();
        let opened = PerfMapFile::open(&owner);
        std::fs::remove_file(&path).unwrap();
        let opened = opened.unwrap();
        println!("{:?}", started.elapsed());
        assert_eq!(opened.map().len(), 3);
        assert_eq!(opened.map().skipped().unread, (1 << 30) - MAX_BYTES);
        assert!(opened.map().line.capacity() <= 2 * MAX_LINE);
    }
}
