//! Names of code that processes make while they run, from what their
//! just-in-time compilers write: a jitdump, which knows times and lines, else a
//! perf map. Both are opened when the process is first seen to have such code,
//! because some compilers delete them when they end, and read again as they grow.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use crate::{
    mapped_file::{MappedFile, MappedFileError},
    processes::{Mapping, ProcessKey},
    symbolize::Name,
};

use super::{
    jitdump::{Jitdump, JitdumpError},
    perf_map::PerfMapFile,
    process_file::{Owner, ProcessFileError},
    vdso,
};

/// Least time between two readings of one process's files.
const REREAD: Duration = Duration::from_millis(200);

/// How many times as long as a reading took is waited for the next one: a
/// fiftieth of one CPU at most, however fast a process writes.
const PAUSE: u32 = 50;

/// Processes whose files are open at one time.
const MAX_PROCESSES: usize = 256;

/// Bytes of names kept. What would take more when they are reached is not read;
/// the file that reaches them may take 80 MiB itself.
const MAX_BYTES: usize = 64 << 20;

/// Why a process's code has no names of this kind.
#[derive(Debug, thiserror::Error)]
pub enum JitError {
    /// Its dump or its map is not to be believed, or not there.
    #[error(transparent)]
    File(#[from] ProcessFileError),
    /// Its dump cannot be opened.
    #[error(transparent)]
    Mapped(#[from] MappedFileError),
    /// Its dump is none.
    #[error(transparent)]
    Dump(#[from] JitdumpError),
}

/// Whether a mapping holds code that was made at run time: memory of no file,
/// or of one that has no name.
pub fn is_jit(mapping: &Mapping) -> bool {
    let path = &*mapping.path;
    let is_kernels = path == vdso::NAME || path == "[vsyscall]" || path == "[uprobes]";
    (mapping.file.inode == 0 && !is_kernels)
        || path.starts_with("/memfd:")
        || path.starts_with("/dev/zero")
}

/// Whether a mapping is that of a jitdump, by which profilers find it.
pub fn is_jitdump(mapping: &Mapping) -> bool {
    let name = mapping.path.rsplit('/').next().unwrap_or_default();
    let digits = name
        .strip_prefix("jit-")
        .and_then(|name| name.strip_suffix(".dump"));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// A dump that a process has mapped.
#[derive(Debug)]
pub struct JitdumpFile {
    file: MappedFile,
    dump: Jitdump,
}

impl JitdumpFile {
    /// Opens the dump behind a mapping and reads it.
    ///
    /// # Errors
    /// Fails where it is not one that is to be believed.
    pub fn open(owner: &Owner, mapping: &Mapping) -> Result<Self, JitError> {
        let file = MappedFile::open(owner.pid, mapping)?;
        let user = file.owner().map_err(ProcessFileError::System)?;
        if !owner.may_own(user) {
            return Err(ProcessFileError::Foreign(user).into());
        }
        let dump = Jitdump::read(&file)?;
        Ok(Self { file, dump })
    }

    /// Reads what was written since.
    ///
    /// # Errors
    /// Fails where it cannot be read.
    pub fn refresh(&mut self) -> io::Result<()> {
        self.dump.refresh(&self.file)
    }

    /// What is in it.
    pub fn dump(&self) -> &Jitdump {
        &self.dump
    }
}

/// What names the code of one process.
#[derive(Debug)]
struct Process {
    dump: Option<JitdumpFile>,
    map: Option<PerfMapFile>,
    next_read: Instant,
}

impl Process {
    fn open(pid: u32, mappings: &[Mapping]) -> io::Result<Self> {
        let start = Instant::now();
        let owner = Owner::read(pid)?;
        let dump = mappings
            .iter()
            .find(|mapping| is_jitdump(mapping))
            .map(|mapping| JitdumpFile::open(&owner, mapping));
        Ok(Self {
            dump: dump.and_then(|dump| there(pid, "jitdump", dump)),
            map: there(pid, "perf map", PerfMapFile::open(&owner)),
            next_read: next_read(start),
        })
    }

    fn refresh(&mut self) -> io::Result<()> {
        if let Some(dump) = &mut self.dump {
            dump.refresh()?;
        }
        match &mut self.map {
            Some(map) => map.refresh(),
            None => Ok(()),
        }
    }

    fn name(&self, address: u64, at_ns: Option<u64>) -> Option<Name> {
        let dump = self.dump.as_ref();
        dump.and_then(|dump| dump.dump.name(address, at_ns))
            .or_else(|| self.map.as_ref()?.map().name(address))
    }

    fn bytes(&self) -> usize {
        let dump = self.dump.as_ref().map_or(0, |dump| dump.dump.bytes());
        let map = self.map.as_ref().map_or(0, |map| map.map().bytes());
        dump + map
    }

    /// Entries that did not fit.
    fn left_out(&self) -> u64 {
        let dump = self.dump.as_ref().map(|dump| dump.dump.skipped());
        let map = self.map.as_ref().map(|map| map.map().skipped());
        dump.map_or(0, |skipped| skipped.full + u64::from(skipped.unread > 0))
            + map.map_or(0, |skipped| skipped.full + u64::from(skipped.unread > 0))
    }
}

/// When a process's files may be read again, after a reading that began at `start`.
fn next_read(start: Instant) -> Instant {
    let now = Instant::now();
    now + REREAD.max(PAUSE * now.duration_since(start))
}

fn there<T, E: std::fmt::Display>(pid: u32, what: &str, opened: Result<T, E>) -> Option<T> {
    opened
        .inspect_err(|error| tracing::debug!("{what} of {pid}: {error}"))
        .ok()
}

/// Names of such code in all processes of a session.
#[derive(Debug, Default)]
pub struct JitNames {
    processes: HashMap<ProcessKey, Process>,
    /// Processes whose names there was no room for.
    refused: usize,
}

impl JitNames {
    /// What is at `address` of a process, now or at time `at_ns`
    /// (`CLOCK_MONOTONIC`). What the process has written is opened when it is
    /// first asked about, and read on when it has no name for the address, but
    /// not more often than every 200 ms, and less often where reading takes long.
    pub fn name(
        &mut self,
        key: &ProcessKey,
        mappings: &[Mapping],
        address: u64,
        at_ns: Option<u64>,
    ) -> Option<Name> {
        if !self.processes.contains_key(key) {
            self.open(key, mappings)?;
        }
        let process = self.processes.get(key)?;
        let name = process.name(address, at_ns);
        let start = Instant::now();
        if name.is_some() || start < process.next_read || self.bytes() >= MAX_BYTES {
            return name;
        }
        let process = self.processes.get_mut(key)?;
        if process.dump.is_none() && process.map.is_none() {
            // A compiler may open its file when it first makes code.
            *process = Process::open(key.pid, mappings).ok()?;
        } else if let Err(error) = process.refresh() {
            tracing::debug!("names of code made by {}: {error}", key.pid);
        }
        process.next_read = next_read(start);
        process.name(address, at_ns)
    }

    fn open(&mut self, key: &ProcessKey, mappings: &[Mapping]) -> Option<()> {
        if self.processes.len() >= MAX_PROCESSES || self.bytes() >= MAX_BYTES {
            self.refused += 1;
            return None;
        }
        let process = Process::open(key.pid, mappings)
            .inspect_err(|error| tracing::debug!("names of code made by {}: {error}", key.pid))
            .ok()?;
        self.processes.insert(*key, process);
        Some(())
    }

    /// Memory that the names take, about.
    pub fn bytes(&self) -> usize {
        self.processes.values().map(Process::bytes).sum()
    }

    /// What is to be said about code that could have names and has none.
    pub fn warnings(&self) -> Vec<String> {
        let left_out: u64 = self.processes.values().map(Process::left_out).sum();
        let full = (left_out > 0).then(|| {
            "perf maps or jitdumps were too long: some code made at run time has no names"
                .to_owned()
        });
        let refused = (self.refused > 0).then(|| {
            format!(
                "code made at run time has no names in some processes: those of others fill {} MiB",
                MAX_BYTES >> 20
            )
        });
        full.into_iter().chain(refused).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, sync::Arc};

    use super::*;
    use crate::{processes::tests::own_key, symbols::process_file::perf_map_path};

    fn mapping(path: &str, inode: u64) -> Mapping {
        let mut mapping = Mapping {
            start: 0,
            end: 4096,
            offset: 0,
            file: Default::default(),
            path: Arc::from(path),
        };
        mapping.file.inode = inode;
        mapping
    }

    #[test]
    fn knows_code_made_at_run_time() {
        for (path, inode, expected) in [
            ("", 0, true),
            ("[anon:v8]", 0, true),
            ("/memfd:doublemapper (deleted)", 7, true),
            ("[vdso]", 0, false),
            ("/bin/true", 7, false),
        ] {
            assert_eq!(is_jit(&mapping(path, inode)), expected, "{path}");
        }
        assert!(is_jitdump(&mapping("/a/.debug/jit/jit-12.dump", 7)));
        assert!(!is_jitdump(&mapping("/a/jit-.dump", 7)));
        assert!(!is_jitdump(&mapping("/a/jit-1x.dump", 7)));
    }

    fn when_read_again(names: &mut JitNames, key: &ProcessKey, address: u64) -> Option<Name> {
        let next_read = names.processes[key].next_read;
        std::thread::sleep(next_read.saturating_duration_since(Instant::now()));
        names.name(key, &[], address, None)
    }

    #[test]
    fn what_takes_long_to_read_is_read_less_often() {
        let start = Instant::now() - Duration::from_secs(1);
        assert!(next_read(start) >= start + Duration::from_secs(51));
        assert!(next_read(Instant::now()) >= Instant::now() + REREAD - Duration::from_millis(50));
    }

    #[test]
    fn a_map_that_comes_late_and_grows_names_code() {
        let (mut names, key) = (JitNames::default(), own_key());
        assert_eq!(names.name(&key, &[], 0x10, None), None);
        let path = std::path::PathBuf::from(perf_map_path(key.pid));
        let mut map = File::create(&path).unwrap();
        map.write_all(b"10 8 first\n").unwrap();
        let first = when_read_again(&mut names, &key, 0x10);
        map.write_all(b"20 8 second\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(first.unwrap().function, "first");
        assert_eq!(names.name(&key, &[], 0x20, None), None, "too soon");
        let second = when_read_again(&mut names, &key, 0x20);
        assert_eq!(second.unwrap().function, "second");
        assert!(names.bytes() > 0);
        assert_eq!(names.warnings(), [] as [String; 0]);
    }

    #[test]
    fn a_process_that_is_gone_has_no_names() {
        let mut names = JitNames::default();
        let key = ProcessKey {
            pid: u32::MAX,
            ..own_key()
        };
        assert_eq!(names.name(&key, &[], 0x10, None), None);
    }
}
