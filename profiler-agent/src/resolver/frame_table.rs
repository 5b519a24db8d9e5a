//! The distinct frames of a session and the files they lie in.

use std::{
    collections::HashMap,
    sync::{Arc, Weak, mpsc::Sender},
};

use crate::{
    kernel_symbols::KernelSymbols,
    mapped_file::{self, MappedFile, MappedFileError},
    namer::Batch,
    processes::{FileId, Mapping},
    symbolize::Name,
};

use super::{MAX_FRAMES, ResolvedFile, ResolvedFrame, call_site};

/// Files held open to name their frames. Past that all are handed to the namer,
/// which closes them when it has named their frames.
const MAX_OPEN_FILES: usize = 256;

/// Files open while the namer has not come to them. With those whose symbols it
/// keeps, four sessions need a tenth of the 65536 descriptors of the systemd
/// unit. Past that files are not opened, and their frames have no names.
const MAX_WAITING_FILES: usize = 1024;

/// Distinct files per session. Frames of others show their address only.
const MAX_FILES: usize = 16_384;

struct File {
    /// `None`: it cannot be opened, or is no file.
    open: Option<Arc<MappedFile>>,
    /// Offsets that wait for a name, with their frames.
    pending: Vec<(u64, u32)>,
    frames: HashMap<u64, u32>,
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
    /// Stands for all frames past the bound.
    overflow: Option<u32>,
    /// Of `files`, and handed over to the namer.
    open: Vec<Weak<MappedFile>>,
    unread: Unread,
}

/// Files whose frames have no names although they could have.
#[derive(Default)]
struct Unread {
    remote: usize,
    too_many: usize,
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
            overflow: None,
            open: Vec::new(),
            unread: Unread::default(),
        }
    }

    /// The frame at an address of process `pid`.
    pub(super) fn user(&mut self, pid: u32, mapping: Option<&Mapping>, address: u64) -> u32 {
        let file = mapping
            .filter(|mapping| !mapping.path.is_empty())
            .and_then(|mapping| Some((self.file(pid, mapping)?, mapping)));
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

    /// The file behind a mapping, opened when it is first met: by the time
    /// names are looked up the process may be gone. `None`: there are too many.
    fn file(&mut self, pid: u32, mapping: &Mapping) -> Option<u32> {
        let key = (mapping.file, Arc::clone(&mapping.path));
        if let Some(index) = self.file_index.get(&key) {
            return Some(*index);
        }
        if self.files.len() >= MAX_FILES {
            return None;
        }
        let file = self.open(pid, mapping);
        let build_id = file.as_deref().map(MappedFile::build_id);
        let index = self.new_file(key.1.clone(), build_id.unwrap_or_default(), file);
        self.file_index.insert(key, index);
        Some(index)
    }

    fn open(&mut self, pid: u32, mapping: &Mapping) -> Option<Arc<MappedFile>> {
        if mapping.file.inode == 0 || !self.has_room() {
            return None;
        }
        match MappedFile::open(pid, mapping) {
            Ok(file) => {
                let file = Arc::new(file);
                self.open.push(Arc::downgrade(&file));
                Some(file)
            }
            Err(error) => {
                tracing::debug!("{} of {pid}: {error}", mapping.path);
                self.unread.remote += usize::from(matches!(error, MappedFileError::Remote));
                None
            }
        }
    }

    /// Makes room for one more open file where there is none.
    fn has_room(&mut self) -> bool {
        if self.open.len() < MAX_OPEN_FILES {
            return true;
        }
        self.close_files();
        self.open.retain(|file| file.strong_count() > 0);
        let has_room = self.open.len() < MAX_WAITING_FILES;
        self.unread.too_many += usize::from(!has_room);
        has_room
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

    /// Lets go of all files. Those that are met again are opened again.
    fn close_files(&mut self) {
        self.submit_pending();
        for file in &mut self.files {
            file.open = None;
        }
        self.file_index.clear();
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
        for (count, why) in [
            (self.unread.remote, "they are on a remote file system"),
            (self.unread.too_many, "too many were waiting to be read"),
        ] {
            if count > 0 {
                warnings.push(format!("{count} mapped files have no names: {why}"));
            }
        }
        (self.resolved_files, self.frames, warnings)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::mapped_file::tests::own_function;

    #[test]
    fn frames_of_a_file_are_handed_to_the_namer_once() {
        let (sender, batches) = channel();
        let mut table = FrameTable::new(sender);
        let pid = std::process::id();
        let function = frames_of_a_file_are_handed_to_the_namer_once as *const ();
        let (mapping, offset) = own_function(function);
        let frame = table.user(pid, Some(&mapping), function as u64);
        assert_eq!(table.user(pid, Some(&mapping), function as u64), frame);
        assert_ne!(table.user(pid, None, function as u64), frame);
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
