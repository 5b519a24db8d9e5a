//! The distinct frames of a session and the files they lie in.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc::Sender},
};

use profiler_abi::RuntimeFrame;

use crate::{
    kernel_symbols::KernelSymbols,
    mapped_file::{self, MappedFile},
    namer::Batch,
    processes::{FileId, Mapping},
    runtimes::python::RuntimeName,
    symbolize::Name,
};

use super::{MAX_FRAMES, ResolvedFile, ResolvedFrame, call_site};

/// Distinct files per session. Frames of others show their address only.
const MAX_FILES: usize = 16_384;

struct File {
    /// `None`: it cannot be opened, or is no file.
    open: Option<Arc<MappedFile>>,
    /// Offsets that wait for a name, with their frames.
    pending: Vec<(u64, u32)>,
    frames: HashMap<u64, u32>,
}

/// A frame in code made at run time that has no name yet.
pub(super) struct PendingJit {
    /// Index of the process.
    pub(super) process: u32,
    pub(super) address: u64,
    frame: u32,
}

struct Kernel {
    file: u32,
    symbols: Arc<KernelSymbols>,
}

/// Frames and files, each once.
pub(super) struct FrameTable {
    namer: Sender<Batch>,
    frames: Vec<ResolvedFrame>,
    resolved_files: Vec<ResolvedFile>,
    /// In the order of `resolved_files`.
    files: Vec<File>,
    file_index: HashMap<(FileId, Arc<str>), u32>,
    /// Addresses outside of any file.
    loose: HashMap<u64, u32>,
    kernel: Option<Kernel>,
    /// In code made at run time, by process and address.
    jit: HashMap<(u32, u64), u32>,
    /// Those that wait for a name.
    pending_jit: Vec<PendingJit>,
    /// The file that stands for such code.
    jit_file: Option<u32>,
    /// Of an interpreter, by process.
    interpreted: HashMap<(u32, RuntimeFrame), u32>,
    /// Stands for all frames past the bound.
    overflow: Option<u32>,
}

impl FrameTable {
    pub(super) fn new(namer: Sender<Batch>) -> Self {
        Self {
            namer,
            frames: Vec::new(),
            resolved_files: Vec::new(),
            files: Vec::new(),
            file_index: HashMap::new(),
            loose: HashMap::new(),
            kernel: None,
            jit: HashMap::new(),
            pending_jit: Vec::new(),
            jit_file: None,
            interpreted: HashMap::new(),
            overflow: None,
        }
    }

    /// The frame at an address of a process. `open` gives the file of the
    /// mapping, where it can be read.
    pub(super) fn user(
        &mut self,
        mapping: Option<&Mapping>,
        address: u64,
        mut open: impl FnMut() -> Option<Arc<MappedFile>>,
    ) -> u32 {
        let file = mapping
            .filter(|mapping| !mapping.path.is_empty())
            .and_then(|mapping| Some((self.file(mapping, &mut open)?, mapping)));
        let Some((file, mapping)) = file else {
            return self.loose(address);
        };
        let offset = (address - mapping.start).wrapping_add(mapping.offset);
        if let Some(frame) = self.files[file as usize].frames.get(&offset) {
            return *frame;
        }
        let (frame, is_new) = self.new_frame(Some(file), offset);
        if is_new {
            let entry = &mut self.files[file as usize];
            if entry.open.is_none()
                && let Some(opened) = open()
            {
                // The process through which it was met first was gone.
                self.resolved_files[file as usize].build_id = opened.build_id();
                entry.pending = entry.frames.iter().map(|(at, of)| (*at, *of)).collect();
                entry.open = Some(opened);
            }
            entry.frames.insert(offset, frame);
            if entry.open.is_some() {
                entry.pending.push((offset, frame));
            }
        }
        frame
    }

    /// A frame in no file.
    pub(super) fn loose(&mut self, address: u64) -> u32 {
        if let Some(frame) = self.loose.get(&address) {
            return *frame;
        }
        let (frame, is_new) = self.new_frame(None, address);
        if is_new {
            self.loose.insert(address, frame);
        }
        frame
    }

    /// The frames of a kernel stack.
    pub(super) fn kernel(&mut self, addresses: &[u64]) -> Box<[u32]> {
        let file = match &self.kernel {
            Some(kernel) => kernel.file,
            None => self.add_kernel(),
        };
        addresses
            .iter()
            .enumerate()
            .map(|(depth, address)| self.kernel_frame(file, call_site(depth, *address)))
            .collect()
    }

    fn add_kernel(&mut self) -> u32 {
        let file = self.new_file("[kernel]".into(), mapped_file::kernel_build_id(), None);
        self.kernel = Some(Kernel {
            file,
            symbols: KernelSymbols::current(),
        });
        file
    }

    /// Kernel frames are named at once: the table is in memory.
    fn kernel_frame(&mut self, file: u32, address: u64) -> u32 {
        if let Some(frame) = self.files[file as usize].frames.get(&address) {
            return *frame;
        }
        // Relative to the kernel's text, so that it means the same after a
        // reboot, whatever the address space randomisation did.
        let (base, name) = match &self.kernel {
            Some(kernel) => (kernel.symbols.base(), kernel.symbols.name(address)),
            None => (0, None),
        };
        let name = name.map(|function| Name {
            function: function.to_owned(),
            ..Name::default()
        });
        let (frame, is_new) = self.new_frame(Some(file), address.wrapping_sub(base));
        if is_new {
            self.frames[frame as usize].names = name.into_iter().collect();
            self.files[file as usize].frames.insert(address, frame);
        }
        frame
    }

    /// The file behind a mapping. `None`: there are too many.
    fn file(
        &mut self,
        mapping: &Mapping,
        mut open: impl FnMut() -> Option<Arc<MappedFile>>,
    ) -> Option<u32> {
        let key = (mapping.file, Arc::clone(&mapping.path));
        if let Some(index) = self.file_index.get(&key) {
            return Some(*index);
        }
        if self.files.len() >= MAX_FILES {
            return None;
        }
        let file = open();
        let build_id = file.as_deref().map(MappedFile::build_id);
        let index = self.new_file(key.1.clone(), build_id.unwrap_or_default(), file);
        self.file_index.insert(key, index);
        Some(index)
    }

    /// A frame in code that a process has made at run time.
    pub(super) fn jit(&mut self, process: u32, address: u64) -> u32 {
        if let Some(frame) = self.jit.get(&(process, address)) {
            return *frame;
        }
        let file = match self.jit_file {
            Some(file) => file,
            None => self.new_file("[jit]".into(), Vec::new(), None),
        };
        self.jit_file = Some(file);
        let (frame, is_new) = self.new_frame(Some(file), address);
        if is_new {
            self.jit.insert((process, address), frame);
            self.pending_jit.push(PendingJit {
                process,
                address,
                frame,
            });
        }
        frame
    }

    /// Names such frames as far as `name` knows them; the others wait on.
    pub(super) fn name_jit(&mut self, mut name: impl FnMut(&PendingJit) -> Option<Name>) {
        let frames = &mut self.frames;
        self.pending_jit.retain(|pending| match name(pending) {
            Some(name) => {
                frames[pending.frame as usize].names = vec![name];
                false
            }
            None => true,
        });
    }

    /// A frame of an interpreter.
    pub(super) fn interpreted(
        &mut self,
        process: u32,
        frame: RuntimeFrame,
        name: Option<RuntimeName>,
    ) -> u32 {
        let key = RuntimeFrame {
            code: frame.code,
            place: frame.place & !RuntimeFrame::ENTRY,
        };
        if let Some(known) = self.interpreted.get(&(process, key)).copied() {
            let names = &mut self.frames[known as usize].names;
            if names.is_empty() {
                // Its code object was lost then, and was sent again.
                names.extend(name.map(name_of));
            }
            return known;
        }
        let (index, is_new) = self.new_frame(None, frame.code);
        if is_new {
            let frame = &mut self.frames[index as usize];
            frame.names = name.into_iter().map(name_of).collect();
            frame.interpreted = true;
            self.interpreted.insert((process, key), index);
        }
        index
    }

    fn new_file(
        &mut self,
        path: Arc<str>,
        build_id: Vec<u8>,
        open: Option<Arc<MappedFile>>,
    ) -> u32 {
        let index = self.files.len() as u32;
        self.files.push(File {
            open,
            pending: Vec::new(),
            frames: HashMap::new(),
        });
        self.resolved_files.push(ResolvedFile { path, build_id });
        index
    }

    /// One more frame, or, past the bound, the one that stands for the rest.
    fn new_frame(&mut self, file: Option<u32>, address: u64) -> (u32, bool) {
        if let Some(frame) = self.overflow {
            return (frame, false);
        }
        let full = self.frames.len() >= MAX_FRAMES;
        let frame = self.frames.len() as u32;
        self.frames.push(ResolvedFrame {
            file: if full { None } else { file },
            address: if full { 0 } else { address },
            names: Vec::new(),
            interpreted: false,
        });
        if full {
            self.overflow = Some(frame);
        }
        (frame, !full)
    }

    /// Has every frame named that waits for it.
    pub(super) fn submit_pending(&mut self) {
        for file in &mut self.files {
            let Some(open) = &file.open else {
                continue;
            };
            if file.pending.is_empty() {
                continue;
            }
            let (offsets, frames) = file.pending.drain(..).unzip();
            let batch = Batch {
                file: Arc::clone(open),
                offsets,
                frames,
            };
            if self.namer.send(batch).is_err() {
                tracing::debug!("the namer thread is gone");
            }
        }
    }

    /// Files, frames, and what is to be said about them.
    pub(super) fn finish(self) -> (Vec<ResolvedFile>, Vec<ResolvedFrame>, Vec<String>) {
        let mut warnings = Vec::new();
        if self.overflow.is_some() {
            warnings.push(format!(
                "more than {MAX_FRAMES} distinct frames: further ones are not told apart"
            ));
        }
        if self.files.len() >= MAX_FILES {
            warnings.push(format!(
                "more than {MAX_FILES} mapped files: frames of further ones show their address only"
            ));
        }
        (self.resolved_files, self.frames, warnings)
    }
}

fn name_of(name: RuntimeName) -> Name {
    Name {
        function: name.function.to_string(),
        file: name.file.to_string(),
        line: name.line,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, sync::mpsc::channel};

    use super::*;
    use crate::mapped_file::tests::own_function;

    #[test]
    fn frames_of_a_file_are_handed_to_the_namer_once() {
        let (sender, batches) = channel();
        let mut table = FrameTable::new(sender);
        let open = || {
            let program = File::open("/proc/self/exe").unwrap();
            Some(Arc::new(MappedFile::for_test(program, true)))
        };
        let function = frames_of_a_file_are_handed_to_the_namer_once as *const ();
        let (mapping, offset) = own_function(function);
        let frame = table.user(Some(&mapping), function as u64, open);
        assert_eq!(table.user(Some(&mapping), function as u64, open), frame);
        assert_ne!(table.user(None, function as u64, open), frame);
        table.submit_pending();
        table.submit_pending();
        let (files, frames, warnings) = table.finish();
        assert_eq!(batches.iter().count(), 1);
        assert_eq!((files.len(), frames.len()), (1, 2));
        assert!(!files[0].build_id.is_empty());
        assert_eq!(frames[frame as usize].address, offset);
        assert_eq!(warnings, [] as [String; 0]);
    }

    #[test]
    fn frames_past_the_bound_are_one() {
        let mut table = FrameTable::new(channel().0);
        for address in 0..MAX_FRAMES as u64 {
            table.loose(address);
        }
        let overflow = table.loose(u64::MAX);
        assert_eq!(table.loose(u64::MAX - 1), overflow);
        assert_eq!(table.loose(7), 7);
        let (_, frames, warnings) = table.finish();
        assert_eq!(frames.len(), MAX_FRAMES + 1);
        assert_eq!(warnings.len(), 1);
    }
}
