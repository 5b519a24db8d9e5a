//! What of one process can be unwound and named: `profiler doctor --pid`. It
//! asks those who do it for a capture, and so tells what a capture would have.

mod file;

use std::{
    collections::HashMap,
    io,
    path::Path,
    time::{Duration, Instant},
};

use profiler_proto::pb::{Check, CheckState, CodeMapping, DoctorProcessResponse};

use super::{degraded, ok};
use crate::{
    processes::{FileId, Mapping, Paths, ProcessError, ProcessInfo, ProcessKey},
    symbols::{
        jit::{self, JitError, JitdumpFile},
        perf_map::{PerfMapFile, Skipped},
        process_file::{Owner, ProcessFileError, is_contained},
        vdso,
    },
};

use file::FileReport;

/// Most mappings that are told of. Most processes have 30; the message must not
/// get too long for its reader.
const MAX_MAPPINGS: usize = 4096;

/// How long files are looked at. What comes later is not looked at.
const TIME: Duration = Duration::from_secs(20);

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessExamError {
    /// There is no such process, or no more.
    #[error("there is no process {0}")]
    None(u32),
    /// It may not be looked at.
    #[error("process {pid}: {source}; the agent needs CAP_SYS_PTRACE")]
    Denied {
        /// Process id.
        pid: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something else.
    #[error(transparent)]
    Failed(ProcessError),
}

impl From<ProcessError> for ProcessExamError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::Gone(pid) => Self::None(pid),
            error => Self::Failed(error),
        }
    }
}

/// Looks at a process. `fetched` is where debug files from debuginfod are.
///
/// # Errors
/// Fails where there is no such process or the agent may not look at it.
pub fn examine(
    pid: u32,
    fetched: Option<&Path>,
) -> Result<DoctorProcessResponse, ProcessExamError> {
    let key = ProcessKey::of(pid)?;
    let denied = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProcessExamError::None(pid),
        _ => ProcessExamError::Denied { pid, source },
    };
    let info = match ProcessInfo::read(&key, &mut Paths::default()) {
        Err(ProcessError::Read { source, .. }) => return Err(denied(source)),
        info => info?,
    };
    let owner = Owner::read(pid).map_err(denied)?;
    let bits = match vdso::is_shared_with(pid) {
        Ok(true) => 64,
        Ok(false) => 32,
        Err(_) => 0,
    };
    let mut examination = Examination::begin(&owner, &info, fetched);
    // The kernel emulates what is there; no thread ever runs in it.
    let run = |mapping: &&Mapping| &*mapping.path != "[vsyscall]";
    let all = info.mappings.iter().filter(run);
    let mappings: Vec<_> = all
        .clone()
        .take(MAX_MAPPINGS)
        .map(|mapping| examination.mapping(mapping, bits))
        .collect();
    let left_out = all.count() - mappings.len();
    let mut checks = vec![mappings_check(&info)];
    checks.extend(examination.checks());
    Ok(DoctorProcessResponse {
        pid,
        comm: info.comm,
        executable: info.executable,
        cgroup: info.cgroup,
        container: info.container,
        contained: is_contained(&owner),
        namespace_pid: owner.pids.first().copied().unwrap_or(pid),
        bits,
        checks,
        mappings,
        mappings_left_out: left_out as u32,
    })
}

fn mappings_check(info: &ProcessInfo) -> Check {
    let name = "mappings";
    match (info.mappings.len(), info.complete) {
        (0, _) => degraded(
            name,
            "no executable memory",
            "look at another: this is a thread of the kernel, or has exited",
        ),
        (count, true) => ok(name, format!("{count} executable")),
        (count, false) => degraded(
            name,
            format!("more than the {count} executable ones that are kept of a process"),
            "give the process fewer mappings: frames in the others have no names",
        ),
    }
}

/// What is found on the way through a process's mappings.
struct Examination<'a> {
    owner: &'a Owner,
    fetched: Option<&'a Path>,
    deadline: Instant,
    files: HashMap<FileId, FileReport>,
    perf_map: Result<PerfMapFile, ProcessFileError>,
    /// `None`: no mapping looks like one.
    jitdump: Option<Result<JitdumpFile, JitError>>,
    has_jit: bool,
}

impl<'a> Examination<'a> {
    fn begin(owner: &'a Owner, info: &ProcessInfo, fetched: Option<&'a Path>) -> Self {
        let mut mappings = info.mappings.iter();
        let dump = mappings.find(|mapping| jit::is_jitdump(mapping));
        Self {
            owner,
            fetched,
            deadline: Instant::now() + TIME,
            files: HashMap::new(),
            perf_map: PerfMapFile::open(owner),
            jitdump: dump.map(|mapping| JitdumpFile::open(owner, mapping)),
            has_jit: false,
        }
    }

    fn mapping(&mut self, mapping: &Mapping, bits: u32) -> CodeMapping {
        let about = CodeMapping {
            start: mapping.start,
            end: mapping.end,
            path: mapping.path.to_string(),
            ..CodeMapping::default()
        };
        let report = match &*mapping.path {
            vdso::NAME if bits == 64 => self.vdso(),
            _ if jit::is_jit(mapping) => return self.jit(mapping, about),
            _ if mapping.file.inode == 0 => FileReport::nothing("the kernel's own code"),
            _ => self.file(mapping),
        };
        report.onto(about)
    }

    fn vdso(&mut self) -> FileReport {
        let report = || match vdso::image() {
            Some(file) => FileReport::of(file, None, self.deadline).without_debug_file(),
            None => FileReport::nothing("the agent cannot read its own copy"),
        };
        self.files
            .entry(FileId::default())
            .or_insert_with(report)
            .clone()
    }

    fn file(&mut self, mapping: &Mapping) -> FileReport {
        let open = || FileReport::open(self.owner.pid, mapping, self.fetched, self.deadline);
        self.files.entry(mapping.file).or_insert_with(open).clone()
    }

    /// Code made at run time: frame pointers, and what its compiler has written.
    fn jit(&mut self, mapping: &Mapping, about: CodeMapping) -> CodeMapping {
        let addresses = mapping.start..mapping.end;
        let dump = self.jitdump.as_ref().and_then(|dump| dump.as_ref().ok());
        let in_dump = dump.map_or(0, |dump| dump.dump().count_in(addresses.clone()));
        let map = self.perf_map.as_ref().ok();
        let in_map = map.map_or(0, |map| map.map().count_in(addresses));
        let sources = [(in_dump, "jitdump"), (in_map, "perf map")];
        let names: Vec<String> = sources
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, source)| format!("{source} ({count})"))
            .collect();
        self.has_jit = true;
        let names_state = match names.is_empty() {
            true => CheckState::Failed,
            false => CheckState::Ok,
        };
        CodeMapping {
            unwind_state: CheckState::Degraded.into(),
            unwind: file::FRAME_POINTER.to_owned(),
            unwind_detail: "made at run time".to_owned(),
            names_state: names_state.into(),
            names,
            ..about
        }
    }

    fn checks(&self) -> Vec<Check> {
        let dump = self.jitdump.as_ref().map(jitdump_check);
        let has_other = matches!(&self.jitdump, Some(Ok(_)));
        let map = perf_map_check(&self.perf_map, self.has_jit && !has_other);
        let python = self.files.values().find_map(|file| file.python.clone());
        map.into_iter().chain(dump).chain(python).collect()
    }
}

/// What to say of a process's perf map; nothing where it has none and needs none.
fn perf_map_check(map: &Result<PerfMapFile, ProcessFileError>, is_needed: bool) -> Option<Check> {
    let name = "perf-map";
    match map {
        Ok(file) => {
            let (skipped, path) = (file.map().skipped(), file.path().display());
            let found = format!("{path}: {} named ranges", file.map().len());
            Some(if skipped == Skipped::default() {
                ok(name, found)
            } else {
                let Skipped {
                    malformed,
                    cut,
                    full,
                    unread,
                } = skipped;
                degraded(
                    name,
                    format!(
                        "{found}; left out: {malformed} lines that are no entries, {full} entries \
                         without room, the last {unread} bytes; {cut} names cut"
                    ),
                    "let the program write a shorter map",
                )
            })
        }
        Err(ProcessFileError::Missing) if is_needed => Some(degraded(
            name,
            "none: code made at run time has no names",
            "let the program write one: node --perf-basic-prof, jcmd PID Compiler.perfmap, \
             DOTNET_PerfMapEnabled=1",
        )),
        Err(ProcessFileError::Missing) => None,
        Err(error) => Some(degraded(
            name,
            format!("not read: {error}"),
            "let the process itself write /tmp/perf-PID.map, as a file",
        )),
    }
}

fn jitdump_check(dump: &Result<JitdumpFile, JitError>) -> Check {
    let name = "jitdump";
    match dump {
        Ok(file) => {
            let dump = file.dump();
            let times = match dump.has_times() {
                true => "",
                false => ", with times of the processor's own clock, which are not used",
            };
            // Some write it in pieces of a megabyte.
            let found = format!("{} named ranges written so far{times}", dump.len());
            let skipped = dump.skipped();
            let left_out = skipped.full + skipped.malformed + skipped.unread;
            if left_out == 0 {
                return ok(name, found);
            }
            degraded(
                name,
                format!(
                    "{found}; left out: {} malformed records, {} entries without room, {} bytes",
                    skipped.malformed, skipped.full, skipped.unread
                ),
                "let the program write a shorter dump",
            )
        }
        Err(error) => degraded(
            name,
            format!("not read: {error}"),
            "let the process itself write it, as a file on a local disk",
        ),
    }
}

#[cfg(test)]
mod tests;
