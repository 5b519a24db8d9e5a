//! The thread that names frames of ELF files. Reading a symbol table can take
//! long; meanwhile the resolver must be able to read processes that will soon
//! be gone.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    kernel_symbols::KernelSymbols,
    mapped_file::{MAX_COPY, MappedFile, MappedFileError},
    symbolize::{ElfSymbolizer, Name},
};

/// Files whose symbol tables are kept, and the bytes of their copies. Past that
/// all are dropped.
const MAX_FILES: usize = 128;
const MAX_COPIED: u64 = 2 * MAX_COPY;

/// Bytes of names kept per session. Frames that come later have none.
const MAX_NAME_BYTES: usize = 32 << 20;

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
pub type Named = (u32, Vec<Name>);

/// The session's end of the thread.
pub struct Namer {
    /// Not bounded by itself: every frame of a session is sent once, and
    /// the resolver bounds frames and open files.
    sender: Sender<Batch>,
    named: Receiver<Vec<Named>>,
    thread: JoinHandle<Unnamed>,
}

/// What has no names although it was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unnamed {
    /// Frames that came after the names had filled their memory.
    frames: usize,
    /// Files that could not be read safely.
    files: usize,
}

impl Namer {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails where the system has no thread left.
    pub fn start() -> std::io::Result<Self> {
        let (sender, batches) = channel();
        let (names, named) = channel();
        let thread = thread::Builder::new()
            .name("namer".to_owned())
            .spawn(move || run(&batches, &names))?;
        Ok(Self {
            sender,
            named,
            thread,
        })
    }

    /// Where batches are handed in. A batch that cannot be sent is one of a
    /// thread that died, which [`Self::finish`] tells.
    pub fn batches(&self) -> Sender<Batch> {
        self.sender.clone()
    }

    /// Waits until all are named, but not longer than `time`. Returns the names
    /// there are, and what is to be said about those that are not. All other
    /// senders must be gone.
    pub fn finish(self, time: Duration) -> (Vec<Named>, Vec<String>) {
        let Self {
            sender,
            named,
            thread,
        } = self;
        drop(sender);
        let deadline = Instant::now() + time;
        let mut all = Vec::new();
        loop {
            match named.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(names) => all.extend(names),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return (
                        all,
                        vec![format!(
                            "symbols were still being read {} s after the end: some frames have no names",
                            time.as_secs()
                        )],
                    );
                }
            }
        }
        let warnings = match thread.join() {
            Ok(unnamed) => unnamed.warnings(),
            Err(_) => {
                tracing::error!("the namer thread died");
                vec!["reading symbols failed: some frames have no names".to_owned()]
            }
        };
        (all, warnings)
    }
}

impl Unnamed {
    fn warnings(&self) -> Vec<String> {
        let frames = (self.frames > 0).then(|| {
            format!(
                "{} frames have no names: names had filled {} MiB",
                self.frames,
                MAX_NAME_BYTES >> 20
            )
        });
        let files = (self.files > 0).then(|| {
            format!(
                "{} files have no names: others than root may change them and they have more than {} MiB of symbols",
                self.files,
                MAX_COPY >> 20
            )
        });
        frames.into_iter().chain(files).collect()
    }
}

/// Ends when all senders are gone, or nobody waits for names any more.
fn run(batches: &Receiver<Batch>, named: &Sender<Vec<Named>>) -> Unnamed {
    // Read now, so that they are at hand when the session ends.
    drop(KernelSymbols::current());
    let mut tables = Tables::default();
    let mut unnamed = Unnamed::default();
    let mut room = MAX_NAME_BYTES;
    for batch in batches {
        let names = match tables.names(&batch) {
            Ok(names) => names,
            Err(error) => {
                tracing::debug!("no names: {error}");
                unnamed.files += usize::from(matches!(error, MappedFileError::Changeable));
                continue;
            }
        };
        let mut kept = Vec::new();
        for (frame, names) in batch.frames.into_iter().zip(names) {
            let bytes = bytes_of(&names);
            if bytes > room {
                unnamed.frames += 1;
                continue;
            }
            room -= bytes;
            kept.push((frame, names));
        }
        if named.send(kept).is_err() {
            break;
        }
    }
    unnamed
}

fn bytes_of(names: &[Name]) -> usize {
    let text: usize = names
        .iter()
        .map(|name| name.function.len() + name.file.len())
        .sum();
    size_of_val(names) + text
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::mapped_file::tests::own_function;

    fn batch(function: *const (), frames: usize) -> Batch {
        let (_, offset) = own_function(function);
        let program = File::open("/proc/self/exe").unwrap();
        Batch {
            file: Arc::new(MappedFile::for_test(program, true)),
            offsets: vec![offset; frames],
            frames: (0..frames as u32).collect(),
        }
    }

    #[test]
    fn names_what_it_is_given() {
        let namer = Namer::start().unwrap();
        let batch = batch(names_what_it_is_given as *const (), 2);
        namer.batches().send(batch).unwrap();
        let (named, warnings) = namer.finish(Duration::from_secs(60));
        assert_eq!(warnings, [] as [String; 0]);
        assert_eq!(named.len(), 2);
        assert!(named[1].1[0].function.ends_with("names_what_it_is_given"));
    }

    #[test]
    fn does_not_wait_for_ever() {
        let namer = Namer::start().unwrap();
        // As long as this lives the thread waits for more.
        let _batches = namer.batches();
        let (named, warnings) = namer.finish(Duration::from_millis(10));
        assert!(named.is_empty());
        assert!(warnings[0].contains("still being read"), "{warnings:?}");
    }

    #[test]
    fn a_thread_that_dies_is_told_of() {
        let (_, named) = channel();
        let namer = Namer {
            sender: channel().0,
            named,
            thread: thread::spawn(|| panic!("on purpose")),
        };
        let (_, warnings) = namer.finish(Duration::from_secs(60));
        assert!(warnings[0].contains("failed"), "{warnings:?}");
    }

    #[test]
    fn says_what_it_left_out() {
        let unnamed = Unnamed {
            frames: 3,
            files: 2,
        };
        let warnings = unnamed.warnings();
        assert!(warnings[0].starts_with("3 frames"), "{warnings:?}");
        assert!(warnings[1].starts_with("2 files"), "{warnings:?}");
        assert_eq!(Unnamed::default().warnings().len(), 0);
    }
}
