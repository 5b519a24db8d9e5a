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

use crate::symbolize::{ElfSymbolizer, Name};

/// Files whose symbol tables are kept. Past that all are dropped.
const MAX_FILES: usize = 128;

/// Offsets in one file that want names.
pub struct Batch {
    /// The file.
    pub fd: Arc<OwnedFd>,
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
    let mut symbolizer = ElfSymbolizer::default();
    // The symbolizer knows files by the numbers of their descriptors, which
    // must not be given to other files meanwhile.
    let mut held: Vec<Arc<OwnedFd>> = Vec::new();
    let mut named = Vec::new();
    for batch in batches {
        if !held.iter().any(|fd| Arc::ptr_eq(fd, &batch.fd)) {
            if held.len() >= MAX_FILES {
                symbolizer = ElfSymbolizer::default();
                held.clear();
            }
            held.push(Arc::clone(&batch.fd));
        }
        let names = symbolizer.names(batch.fd.as_fd(), &batch.offsets);
        named.extend(batch.frames.into_iter().zip(names));
    }
    named
}
