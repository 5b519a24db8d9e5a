//! Who is this process *now*: its command, executable, cgroup, container and
//! mappings, from `/proc`. A process is pid + start time + exec generation, and
//! what is read is only believed when the pid still belongs to that start.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    sync::Arc,
};

/// `/proc/PID/stat` counts in ticks of 1/USER_HZ s, and USER_HZ is 100.
const NS_PER_TICK: u64 = 10_000_000;

/// Longest `/proc/PID/maps` that is read: the kernel allows 65,530 mappings by
/// default (`vm.max_map_count`), 100 bytes each and their paths.
const MAX_MAPS_BYTES: u64 = 32 << 20;

/// Longest of the other files.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Bytes of executable mappings kept of one process, about 15,000. Most
/// processes have 30.
const MAX_MAPPING_BYTES: usize = 1 << 20;

/// Bytes of paths that are remembered to be shared.
const MAX_PATH_BYTES: usize = 1 << 20;

/// A process as the kernel programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    /// Process id.
    pub pid: u32,
    /// CLOCK_BOOTTIME ns.
    pub start_ns: u64,
    /// `self_exec_id`.
    pub exec_id: u64,
}

impl ProcessKey {
    /// The process that has this id now, whichever program it runs.
    ///
    /// # Errors
    /// Fails where there is none.
    pub fn of(pid: u32) -> Result<Self, ProcessError> {
        let stat = read(pid, "stat")?;
        let ticks = start_ticks_of_stat(&stat).ok_or(ProcessError::Gone(pid))?;
        Ok(Self {
            pid,
            start_ns: ticks.saturating_mul(NS_PER_TICK),
            exec_id: 0,
        })
    }
}

/// One executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// Device and inode of the file; inode 0 where there is none.
    pub file: FileId,
    /// As the process sees it, or `[vdso]` and the like; empty for anonymous memory.
    pub path: Arc<str>,
}

/// A file by device and inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device, as `makedev(major, minor)`.
    pub device: u64,
    /// Inode; 0: no file.
    pub inode: u64,
}

/// What is known of a process.
#[derive(Clone, Debug, Default)]
pub struct ProcessInfo {
    /// Command name of the thread group leader.
    pub comm: String,
    /// Path of the executable, as the process sees it.
    pub executable: String,
    /// Path of its cgroup: v2 where it is in one, else of a v1 controller.
    pub cgroup: String,
    /// Container id, empty where there is none.
    pub container: String,
    /// Executable mappings, sorted by address.
    pub mappings: Vec<Mapping>,
    /// Whether `mappings` is all of them.
    pub complete: bool,
}

/// Paths that many processes have mapped, each kept once.
#[derive(Debug, Default)]
pub struct Paths {
    known: HashSet<Arc<str>>,
    bytes: usize,
}

impl Paths {
    /// The path, kept once.
    pub fn share(&mut self, path: &str) -> Arc<str> {
        if let Some(known) = self.known.get(path) {
            return Arc::clone(known);
        }
        if self.bytes > MAX_PATH_BYTES {
            *self = Self::default();
        }
        let path: Arc<str> = path.into();
        self.bytes += path.len();
        self.known.insert(Arc::clone(&path));
        path
    }
}

/// Why nothing is known of a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has exited, or its pid belongs to another process by now.
    #[error("pid {0} has exited")]
    Gone(u32),
    /// `/proc` does not say.
    #[error("read {path}: {source}")]
    Read {
        /// File in `/proc`.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
}

impl ProcessInfo {
    /// Executable mappings of a process, whoever it is, and whether these are
    /// all of them.
    ///
    /// # Errors
    /// Fails where it has exited or may not be looked at.
    pub fn read_mappings(
        pid: u32,
        paths: &mut Paths,
    ) -> Result<(Vec<Mapping>, bool), ProcessError> {
        read_maps(pid, paths)
    }

    /// Reads all of it. A kernel thread has no mappings and no executable.
    pub fn read(key: &ProcessKey, paths: &mut Paths) -> Result<Self, ProcessError> {
        check_alive(key)?;
        let comm = read(key.pid, "comm")?;
        let (mappings, complete) = read_maps(key.pid, paths)?;
        let cgroups = read(key.pid, "cgroup").unwrap_or_default();
        let executable = fs::read_link(format!("/proc/{}/exe", key.pid))
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        // Checked again: all of the above was this process's.
        check_alive(key)?;
        let cgroup = parse_cgroup(&cgroups);
        Ok(Self {
            comm: String::from_utf8_lossy(comm.trim_ascii_end()).into_owned(),
            executable,
            container: container_id(&cgroup).unwrap_or_default().to_owned(),
            cgroup,
            mappings,
            complete,
        })
    }

    /// Memory its mappings take. Paths are often shared, but need not be.
    pub fn mapping_bytes(&self) -> usize {
        let mut last: &str = "";
        let cost = |mapping| {
            let cost = mapping_bytes(mapping, last);
            last = &mapping.path;
            cost
        };
        self.mappings.iter().map(cost).sum()
    }

    /// The mapping that holds `address`.
    pub fn mapping(&self, address: u64) -> Option<&Mapping> {
        let after = self
            .mappings
            .partition_point(|mapping| mapping.start <= address);
        self.mappings[..after]
            .last()
            .filter(|mapping| address < mapping.end)
    }
}

/// Of a mapping that comes after one of the file `last`.
fn mapping_bytes(mapping: &Mapping, last: &str) -> usize {
    let own_path = match &*mapping.path == last {
        true => 0,
        false => mapping.path.len(),
    };
    size_of::<Mapping>() + own_path
}

fn read(pid: u32, name: &str) -> Result<Vec<u8>, ProcessError> {
    let mut bytes = Vec::new();
    let (file, failed) = open(pid, name)?;
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn read_maps(pid: u32, paths: &mut Paths) -> Result<(Vec<Mapping>, bool), ProcessError> {
    let (file, failed) = open(pid, "maps")?;
    let mut lines = BufReader::new(file.take(MAX_MAPS_BYTES));
    let (mappings, complete) = parse_maps(&mut lines, paths).map_err(failed)?;
    let cut = lines.into_inner().limit() == 0;
    Ok((mappings, complete && !cut))
}

/// A file of a process in `/proc`, and what an error of it means.
fn open(
    pid: u32,
    name: &str,
) -> Result<(File, impl Fn(io::Error) -> ProcessError + use<>), ProcessError> {
    let path = format!("/proc/{pid}/{name}");
    let file = File::open(&path);
    let failed = move |source: io::Error| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => ProcessError::Gone(pid),
        _ => ProcessError::Read {
            path: path.clone(),
            source,
        },
    };
    match file {
        Ok(file) => Ok((file, failed)),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn check_alive(key: &ProcessKey) -> Result<(), ProcessError> {
    let stat = read(key.pid, "stat")?;
    match start_ticks_of_stat(&stat) {
        Some(ticks) if ticks == key.start_ns / NS_PER_TICK => Ok(()),
        _ => Err(ProcessError::Gone(key.pid)),
    }
}

/// Field 22 of `/proc/PID/stat`, ticks since boot. The command name, field 2,
/// is in parentheses and may contain anything, closing ones as well.
pub fn start_ticks_of_stat(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let field = stat[end + 1..]
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|field| !field.is_empty())
        .nth(22 - 3)?;
    str::from_utf8(field).ok()?.parse().ok()
}

/// Parses `/proc/PID/maps`, sorted by address as they are, and keeps what is
/// executable; false: there was more than is kept.
///
/// # Errors
/// Fails where the lines cannot be read.
pub fn parse_maps(lines: &mut impl BufRead, paths: &mut Paths) -> io::Result<(Vec<Mapping>, bool)> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut room = MAX_MAPPING_BYTES;
    let mut line = Vec::new();
    while {
        line.clear();
        lines.read_until(b'\n', &mut line)? > 0
    } {
        let Some(mapping) = parse_mapping(line.strip_suffix(b"\n").unwrap_or(&line), paths) else {
            continue;
        };
        let last = mappings.last().map_or("", |mapping| &*mapping.path);
        let bytes = mapping_bytes(&mapping, last);
        if bytes > room {
            return Ok((mappings, false));
        }
        room -= bytes;
        mappings.push(mapping);
    }
    Ok((mappings, true))
}

/// `start-end perms offset major:minor inode    path`
fn parse_mapping(line: &[u8], paths: &mut Paths) -> Option<Mapping> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut text = || str::from_utf8(fields.next()?).ok();
    let (start, end) = text()?.split_once('-')?;
    let permissions = text()?;
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let offset = text()?;
    let (major, minor) = text()?.split_once(':')?;
    let inode = text()?;
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        file: FileId {
            device: rustix::fs::makedev(hex(major)? as u32, hex(minor)? as u32),
            inode: inode.parse().ok()?,
        },
        path: paths.share(&String::from_utf8_lossy(path)),
    })
}

/// The cgroup that says most: `0::PATH` is v2; where the process is at its
/// root (a host whose controllers are on v1), the longest v1 path.
fn parse_cgroup(cgroups: &[u8]) -> String {
    let text = String::from_utf8_lossy(cgroups);
    let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let v2 = text.lines().find_map(|line| line.strip_prefix("0::"));
    match v2 {
        Some(path) if path != "/" => path.to_owned(),
        _ => paths()
            .max_by_key(|path| path.len())
            .unwrap_or_default()
            .to_owned(),
    }
}

/// A run of 64 hexadecimal digits in the last parts of a cgroup's path is the
/// id that Docker, containerd, CRI-O and podman give a container.
fn container_id(cgroup: &str) -> Option<&str> {
    const DIGITS: usize = 64;
    cgroup.rsplit('/').find_map(|part| {
        part.split(|c: char| !c.is_ascii_hexdigit())
            .find(|run| run.len() == DIGITS)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// This process, as the kernel programs would tell of it.
    pub(crate) fn own_key() -> ProcessKey {
        let stat = fs::read("/proc/self/stat").unwrap();
        ProcessKey {
            pid: std::process::id(),
            start_ns: start_ticks_of_stat(&stat).unwrap() * NS_PER_TICK + 5,
            exec_id: 1,
        }
    }

    #[test]
    fn start_is_found_behind_a_hostile_name() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99";
        assert_eq!(start_ticks_of_stat(stat), Some(4242));
        assert_eq!(start_ticks_of_stat(b"7 (x"), None);
    }

    fn parse(maps: &[u8]) -> (Vec<Mapping>, bool) {
        parse_maps(&mut { maps }, &mut Paths::default()).unwrap()
    }

    #[test]
    fn keeps_executable_mappings() {
        let maps = b"55d0-55d8 r--p 00000000 fe:01 12 /bin/x\n\
            55d8-55e0 r-xp 00008000 fe:01 12                         /bin/with space\n\
            7f00-7f10 rwxp 00000000 00:00 0 \n\
            ffff-1ffff r-xp 00000000 00:00 0                          [vdso]\n\
            nonsense\n";
        let (mappings, complete) = parse(maps);
        assert!(complete);
        assert_eq!(mappings.len(), 3);
        assert_eq!(&*mappings[0].path, "/bin/with space");
        assert_eq!(mappings[0].offset, 0x8000);
        assert_eq!(&*mappings[1].path, "");
        assert_eq!(&*mappings[2].path, "[vdso]");
    }

    #[test]
    fn mappings_are_bounded_and_paths_shared() {
        let many = |path: fn(u32) -> String| -> Vec<u8> {
            let line = |n| format!("{:x}-{:x} r-xp 0 0:0 1 {}\n", n * 2, n * 2 + 1, path(n));
            (1..30_000).map(line).collect::<String>().into_bytes()
        };
        let (same, complete) = parse(&many(|_| "/lib/a".to_owned()));
        assert!(!complete);
        assert!(Arc::ptr_eq(&same[0].path, &same[1].path));
        let info = |mappings| ProcessInfo {
            mappings,
            ..ProcessInfo::default()
        };
        let (others, complete) = parse(&many(|n| format!("/lib/{n:0100}")));
        assert!(!complete);
        assert!(others.len() < same.len());
        for mappings in [same, others] {
            let bytes = info(mappings).mapping_bytes();
            assert!((MAX_MAPPING_BYTES - 256..=MAX_MAPPING_BYTES).contains(&bytes));
        }
    }

    #[test]
    fn finds_the_mapping_of_an_address() {
        let info = ProcessInfo {
            mappings: parse(b"10-20 r-xp 0 0:0 0 a\n30-40 r-xp 0 0:0 0 b\n").0,
            ..ProcessInfo::default()
        };
        let path = |address| info.mapping(address).map(|mapping| &*mapping.path);
        assert_eq!(path(0x10), Some("a"));
        assert_eq!(path(0x1f), Some("a"));
        assert_eq!(path(0x20), None);
        assert_eq!(path(0x3f), Some("b"));
        assert_eq!(path(0x0f), None);
    }

    #[test]
    fn reads_cgroups_and_container_ids() {
        let id = "a".repeat(64);
        let v2 = format!("0::/kubepods.slice/pod7/cri-containerd-{id}.scope\n");
        let cgroup = parse_cgroup(v2.as_bytes());
        assert_eq!(container_id(&cgroup), Some(id.as_str()));
        let hybrid = b"8:pids:/docker/x\n3:cpuset:/\n0::/\n";
        assert_eq!(parse_cgroup(hybrid), "/docker/x");
        assert_eq!(container_id("/user.slice"), None);
    }

    #[test]
    fn this_process_is_alive_and_a_later_one_is_not_it() {
        let key = own_key();
        let info = ProcessInfo::read(&key, &mut Paths::default()).unwrap();
        let here = this_process_is_alive_and_a_later_one_is_not_it as *const () as u64;
        assert!(info.mapping(here).is_some());
        let later = ProcessKey {
            start_ns: key.start_ns + NS_PER_TICK,
            ..key
        };
        assert!(matches!(
            ProcessInfo::read(&later, &mut Paths::default()),
            Err(ProcessError::Gone(_))
        ));
    }
}
