//! The thread that names frames of ELF files. Reading a symbol table can take
//! long; meanwhile the resolver must be able to read processes that will soon
//! be gone.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use crate::{
    mapped_file::{MAX_COPY, MappedFile, MappedFileError},
    symbolize::{ElfSymbolizer, Name},
};

/// Files whose symbol tables are kept, and the bytes of their copies. Past that
/// all are dropped.
const MAX_FILES: usize = 128;
const MAX_COPIED: u64 = 2 * MAX_COPY;

/// Offsets in one file that want names.
pub struct Batch {
    /// The file.
    pub file: Arc<MappedFile>,
    /// Where in it.
    pub offsets: Vec<u64>,
    /// Whose names they are, in the same order.
    pub frames: Vec<u32>,
}

/// Names of a frame.
type Named = (u32, Vec<Name>);

/// The resolver's end of the thread.
pub struct Namer {
    /// Bounded by the distinct frames of a session: each is sent once.
    sender: Sender<Batch>,
    thread: JoinHandle<Vec<Named>>,
}

impl Namer {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let thread = thread::Builder::new()
            .name("namer".to_owned())
            .spawn(move || run(&receiver))?;
        Ok(Self { sender, thread })
    }

    /// Has a batch named.
    pub fn submit(&self, batch: Batch) {
        if self.sender.send(batch).is_err() {
            tracing::error!("the namer thread died; frames have no names");
        }
    }

    /// Waits until all are named.
    pub fn finish(self) -> Vec<Named> {
        drop(self.sender);
        self.thread.join().unwrap_or_default()
    }
}

fn run(batches: &Receiver<Batch>) -> Vec<Named> {
    let mut tables = Tables::default();
    let mut named = Vec::new();
    for batch in batches {
        match tables.names(&batch) {
            Ok(names) => named.extend(batch.frames.into_iter().zip(names)),
            Err(error) => tracing::debug!("no names: {error}"),
        }
    }
    named
}

/// Symbol tables of the files met last.
#[derive(Default)]
struct Tables {
    symbolizer: ElfSymbolizer,
    /// The symbolizer knows files by the numbers of their descriptors, which
    /// must not be given to other files meanwhile.
    held: Vec<(Arc<MappedFile>, OwnedFd)>,
    copied: u64,
}

impl Tables {
    fn names(&mut self, batch: &Batch) -> Result<Vec<Vec<Name>>, MappedFileError> {
        let index = match self.position(&batch.file) {
            Some(index) => index,
            None => self.hold(&batch.file)?,
        };
        let fd = self.held[index].1.as_fd();
        Ok(self.symbolizer.names(fd, &batch.offsets))
    }

    fn position(&self, file: &Arc<MappedFile>) -> Option<usize> {
        self.held
            .iter()
            .position(|(held, _)| Arc::ptr_eq(held, file))
    }

    fn hold(&mut self, file: &Arc<MappedFile>) -> Result<usize, MappedFileError> {
        if self.held.len() >= MAX_FILES || self.copied >= MAX_COPIED - MAX_COPY {
            *self = Self::default();
        }
        let (fd, copied) = file.unchanging()?;
        self.copied += copied;
        self.held.push((Arc::clone(file), fd));
        Ok(self.held.len() - 1)
    }
}
