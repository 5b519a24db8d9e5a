//! What the executable mappings of processes map: files, opened once, or code
//! made at run time.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    mapped_file::{MappedFile, MappedFileError},
    processes::{FileId, Mapping, ProcessKey},
    runtimes::{Place, PythonBinary, python::PythonError},
    symbols::{jit::is_jit, vdso},
    unwind::{
        binary::{Binary, BinaryError, BinaryId},
        copied::{self, Mappings},
        elf::ElfImage,
        loader::{CodeMapping, LoadProcess, MappingKind},
    },
};

/// Processes whose code is remembered; that of others is put together again.
const MAX_PROCESSES: usize = 8192;

/// Files open at one time. With those whose symbols are being read, four
/// sessions need a fifth of the 65536 descriptors of the systemd unit. Further
/// ones are not opened: their code is followed by frame pointers.
const MAX_FILES: usize = 2048;

/// How the name of a file that holds CPython contains its name: looking for
/// the interpreter in every file would read all symbols of the host.
const PYTHON: &str = "python";

/// Most interpreters told of that cannot be walked.
const MAX_REFUSED: usize = 8;

/// The function in which CPython runs Python code, and the parts of it that
/// compilers split off: their names begin so.
const EVALUATION: &str = "_PyEval_EvalFrameDefault";

/// Files that are opened for one process: it must not take those of all others.
/// A large Java or Python process has some hundreds.
const MAX_PROCESS_FILES: usize = 512;

/// How long a file that cannot be opened is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// A mapped file, and what is known of it.
struct MappedBinary {
    binary: Arc<Binary>,
    /// The same for the same contents.
    number: u64,
    /// `None`: it is no ELF file of 64 bits.
    elf: Option<ElfImage>,
    python: Option<Python>,
}

/// An interpreter.
struct Python {
    binary: PythonBinary,
    /// Addresses, as in the file, of the function that runs Python code.
    evaluation: Vec<Range<u64>>,
}

/// One executable mapping.
struct Part {
    start: u64,
    end: u64,
    offset: u64,
    what: What,
}

enum What {
    File(Arc<MappedBinary>),
    Vdso,
    Jit,
    /// It cannot be opened.
    Unreadable,
}

/// The code of one process.
#[derive(Default)]
pub(super) struct ProcessCode {
    /// Sorted by address, without overlaps.
    parts: Vec<Part>,
}

/// The code of all processes of a session.
#[derive(Default)]
pub(super) struct CodeMaps {
    processes: HashMap<u32, ProcessCode>,
    /// Those put together first, first.
    order: VecDeque<u32>,
    files: HashMap<(FileId, Arc<str>), Option<Arc<MappedBinary>>>,
    numbers: HashMap<BinaryId, u64>,
    /// Those that could not be opened, and when that was last tried.
    failed: HashMap<(FileId, Arc<str>), Instant>,
    nothing: ProcessCode,
    unread: Unread,
    /// Interpreters whose frames cannot be walked, and why.
    refused: BTreeMap<Arc<str>, PythonError>,
}

/// Files that could have been of use.
#[derive(Clone, Copy, Default)]
struct Unread {
    remote: usize,
    too_many: usize,
}

impl CodeMaps {
    /// The code of a process, as far as it is known.
    pub(super) fn of(&self, process: u32) -> &ProcessCode {
        self.processes.get(&process).unwrap_or(&self.nothing)
    }

    /// Puts the code of a process together again from its mappings.
    pub(super) fn update(&mut self, process: u32, pid: u32, mappings: &[Mapping]) -> &ProcessCode {
        let mut files = HashSet::new();
        let mut parts = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            files.insert(mapping.file);
            let what = match files.len() <= MAX_PROCESS_FILES {
                true => self.what(pid, mapping),
                false => What::Unreadable,
            };
            parts.push(Part {
                start: mapping.start,
                end: mapping.end,
                offset: mapping.offset,
                what,
            });
        }
        if !self.processes.contains_key(&process) {
            self.order.push_back(process);
        }
        self.processes.insert(process, ProcessCode { parts });
        while self.order.len() > MAX_PROCESSES
            && let Some(oldest) = self.order.pop_front()
        {
            self.processes.remove(&oldest);
        }
        self.of(process)
    }

    fn what(&mut self, pid: u32, mapping: &Mapping) -> What {
        if &*mapping.path == vdso::NAME {
            return What::Vdso;
        }
        if is_jit(mapping) {
            return What::Jit;
        }
        match self.open(pid, mapping) {
            Some(file) => What::File(file),
            None => What::Unreadable,
        }
    }

    /// The file behind a mapping, if it can be opened.
    pub(super) fn file(&mut self, pid: u32, mapping: &Mapping) -> Option<Arc<MappedFile>> {
        if &*mapping.path == vdso::NAME {
            return vdso::image().cloned();
        }
        if mapping.file.inode == 0 {
            return None;
        }
        Some(Arc::clone(self.open(pid, mapping)?.binary.shared_file()))
    }

    /// Opened when it is first met: by the time it is needed the process may be
    /// gone.
    fn open(&mut self, pid: u32, mapping: &Mapping) -> Option<Arc<MappedBinary>> {
        let key = (mapping.file, Arc::clone(&mapping.path));
        if let Some(known) = self.files.get(&key) {
            return known.clone();
        }
        if self.failed.get(&key).is_some_and(|at| at.elapsed() < RETRY) {
            return None;
        }
        if self.failed.len() >= MAX_FILES {
            self.failed.clear();
        }
        if self.files.len() >= MAX_FILES {
            self.unread.too_many += 1;
            return None;
        }
        let file = match Binary::open(pid, mapping) {
            Ok(binary) => Some(Arc::new(self.look_at(binary))),
            Err(error) => {
                tracing::debug!("{} of {pid}: {error}", mapping.path);
                if !matches!(error, BinaryError::File(MappedFileError::Remote)) {
                    // Through another process it may be opened yet.
                    self.failed.insert(key, Instant::now());
                    return None;
                }
                self.unread.remote += 1;
                None
            }
        };
        self.files.insert(key, file.clone());
        file
    }

    fn look_at(&mut self, binary: Binary) -> MappedBinary {
        let next = self.numbers.len() as u64;
        let number = *self.numbers.entry(binary.id().clone()).or_insert(next);
        let elf = ElfImage::read(binary.file()).ok();
        let python = elf.as_ref().and_then(|elf| {
            find_python(&binary, elf).unwrap_or_else(|error| {
                if self.refused.len() < MAX_REFUSED {
                    self.refused.insert(Arc::clone(binary.path()), error);
                }
                None
            })
        });
        MappedBinary {
            binary: Arc::new(binary),
            number,
            elf,
            python,
        }
    }

    /// What is to be said about files that were not read.
    pub(super) fn warnings(&self) -> Vec<String> {
        let Unread { remote, too_many } = self.unread;
        [
            (remote, "they are on a remote file system"),
            (too_many, "too many were mapped"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| {
            format!("{count} mapped files have neither names nor unwind tables: {why}")
        })
        .chain(self.refused.iter().map(|(path, error)| {
            format!("the functions of scripts that {path} runs are not shown: {error}")
        }))
        .collect()
    }
}

fn find_python(binary: &Binary, elf: &ElfImage) -> Result<Option<Python>, PythonError> {
    let path = binary.path();
    let name = path.rsplit_once('/').map_or(&**path, |(_, name)| name);
    if !name.to_ascii_lowercase().contains(PYTHON) {
        return Ok(None);
    }
    let evaluation = elf
        .symbols_with_prefix(binary.file(), EVALUATION)
        .iter()
        .map(|symbol| symbol.address..symbol.address.saturating_add(symbol.size))
        .collect();
    let found = PythonBinary::find(binary.file(), elf)?;
    Ok(found.map(|binary| Python { binary, evaluation }))
}

impl ProcessCode {
    fn part(&self, address: u64) -> Option<&Part> {
        let after = self.parts.partition_point(|part| part.start <= address);
        self.parts[..after].last().filter(|part| address < part.end)
    }

    /// How the frame at an address is to be seen.
    pub(super) fn place(&self, address: u64) -> Place {
        let Some(part) = self.part(address) else {
            return Place::Native;
        };
        let What::File(file) = &part.what else {
            return Place::Native;
        };
        let runs_python = file.python.as_ref().is_some_and(|python| {
            file.address(part, address)
                .is_some_and(|address| python.evaluation.iter().any(|one| one.contains(&address)))
        });
        match runs_python {
            true => Place::Interpreter,
            false => Place::Native,
        }
    }

    /// What the kernel side must know to walk its stacks; `None`: nothing is
    /// known of its code.
    pub(super) fn to_load(&self, key: &ProcessKey) -> Option<LoadProcess> {
        if self.parts.is_empty() {
            return None;
        }
        let mapping = |part: &Part| CodeMapping {
            start: part.start,
            end: part.end,
            offset: part.offset,
            kind: match &part.what {
                What::File(file) => MappingKind::File(Arc::clone(&file.binary)),
                What::Vdso => MappingKind::Vdso,
                What::Jit | What::Unreadable => MappingKind::Jit,
            },
        };
        Some(LoadProcess {
            pid: key.pid,
            start_ns: key.start_ns,
            exec_id: key.exec_id,
            mappings: self.parts.iter().map(mapping).collect(),
            runtime: self.parts.iter().find_map(Part::runtime),
        })
    }
}

impl MappedBinary {
    /// Address in the file of an address of a process.
    fn address(&self, part: &Part, address: u64) -> Option<u64> {
        let offset = (address - part.start).wrapping_add(part.offset);
        self.elf.as_ref()?.address_of(offset)
    }
}

impl Part {
    /// What the kernel side must know of the interpreter it holds.
    fn runtime(&self) -> Option<Vec<u8>> {
        let What::File(file) = &self.what else {
            return None;
        };
        let address = file.elf.as_ref()?.address_of(self.offset)?;
        let python = file.python.as_ref()?;
        Some(python.binary.describe(self.start.wrapping_sub(address)))
    }
}

impl Mappings for ProcessCode {
    fn at(&self, address: u64) -> Option<copied::Mapping<'_>> {
        let part = self.part(address)?;
        Some(copied::Mapping {
            start: part.start,
            end: part.end,
            offset: part.offset,
            code: match &part.what {
                What::File(file) => copied::Code::File {
                    id: file.number,
                    file: file.binary.file(),
                },
                What::Vdso => copied::Code::Vdso,
                What::Jit | What::Unreadable => copied::Code::Jit,
            },
        })
    }
}
