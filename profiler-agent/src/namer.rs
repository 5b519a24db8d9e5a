//! The thread that names frames of ELF files. Reading a symbol table can take
//! long; meanwhile the resolver must be able to read processes that will soon
//! be gone. A frame is named by its symbol first, and named again when the
//! debug information of its file was read, for which there is time whenever no
//! new frames come.

mod files;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    kernel_symbols::KernelSymbols,
    mapped_file::{MAX_COPY, MappedFile},
    symbolize::Name,
    symbols::{demangle, shared::Symbols, sources::MAX_COPIED_DEBUG},
};

use self::files::{Files, Shortfall};

/// Bytes of names kept per session. Frames that come later have none.
const MAX_NAME_BYTES: usize = 32 << 20;

/// Debug information is read when no frame came for this long: more than the
/// time between two batches of the resolver, so that one pass serves many.
const IDLE: Duration = Duration::from_millis(400);

/// Longest pass over the debug information of one file while a session runs,
/// and how long its end waits for all of them.
const PASS_TIME: Duration = Duration::from_secs(5);
const LAST_PASS_TIME: Duration = Duration::from_secs(3);

/// How many times as long as a pass took is waited for the next one while the
/// session runs: a tenth of one CPU at most.
const PAUSE: u32 = 9;

/// Offsets in one file that want names.
pub struct Batch {
    /// The file.
    pub file: Arc<MappedFile>,
    /// Where in it.
    pub offsets: Vec<u64>,
    /// Whose names they are, in the same order.
    pub frames: Vec<u32>,
}

/// Names of a frame. Those that come later are better.
pub type Named = (u32, Vec<Name>);

/// The session's end of the thread.
pub struct Namer {
    /// Not bounded by itself: every frame of a session is sent once, and
    /// the resolver bounds frames and open files.
    sender: Sender<Batch>,
    named: Receiver<Vec<Named>>,
    /// Set when the session ends: until when debug information is read.
    deadline: Arc<OnceLock<Instant>>,
    /// Set when nobody waits for names any more.
    given_up: Arc<AtomicBool>,
    thread: JoinHandle<Unnamed>,
}

/// What has no names although it was asked for, or poor ones.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unnamed {
    /// Frames that came after the names had filled their memory.
    frames: usize,
    shortfall: Shortfall,
    /// Most debug information of a file that is read.
    debug_bytes: u64,
}

impl Namer {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails where the system has no thread left.
    pub fn start(symbols: Arc<Symbols>) -> std::io::Result<Self> {
        let (sender, batches) = channel();
        let (names, named) = channel();
        let deadline = Arc::new(OnceLock::new());
        let given_up = Arc::<AtomicBool>::default();
        let (passes_end, stop) = (Arc::clone(&deadline), Arc::clone(&given_up));
        let thread = thread::Builder::new()
            .name("namer".to_owned())
            .stack_size(demangle::STACK)
            .spawn(move || Worker::new(symbols, passes_end, stop).run(&batches, &names))?;
        Ok(Self {
            sender,
            named,
            deadline,
            given_up,
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
            deadline: passes_end,
            given_up,
            thread,
        } = self;
        let now = Instant::now();
        passes_end.get_or_init(|| now + LAST_PASS_TIME.min(time / 2));
        drop(sender);
        let deadline = now + time;
        let mut all = Vec::new();
        loop {
            match named.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(names) => all.extend(names),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    given_up.store(true, Ordering::Relaxed);
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
        let Self {
            frames,
            shortfall:
                Shortfall {
                    files,
                    broken,
                    large,
                    damaged,
                    split,
                    late,
                },
            debug_bytes,
        } = self;
        let copied = MAX_COPY >> 20;
        let debug_copied = MAX_COPIED_DEBUG >> 20;
        let counts = [
            (*frames, format!("frames have no names: names had filled {} MiB", MAX_NAME_BYTES >> 20)),
            (*files, format!("files have no names: others than root may change them and they have more than {copied} MiB of symbols")),
            (*broken, "files have no names or no lines: reading them failed".to_owned()),
            (*large, format!("files have names without lines and inlined functions: they have more debug information than is read (debug_bytes is {debug_bytes}; {debug_copied} MiB where others than root may change the file)")),
            (*damaged, "files have names without lines and inlined functions in parts: their debug information is damaged".to_owned()),
            (*split, "files have names without inlined functions in parts: those are in .dwo files, which are not read".to_owned()),
            (*late, "frames have names without lines and inlined functions: their debug information could not be read in time".to_owned()),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        counts
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    }
}

/// The state of the thread.
struct Worker {
    files: Files,
    room: Room,
    deadline: Arc<OnceLock<Instant>>,
    given_up: Arc<AtomicBool>,
    debug_bytes: u64,
    /// When debug information may be read again.
    next_pass: Instant,
}

impl Worker {
    fn new(
        symbols: Arc<Symbols>,
        deadline: Arc<OnceLock<Instant>>,
        given_up: Arc<AtomicBool>,
    ) -> Self {
        Self {
            debug_bytes: symbols.settings().debug_bytes,
            files: Files::new(symbols),
            room: Room::default(),
            deadline,
            given_up,
            next_pass: Instant::now(),
        }
    }

    /// Ends when all senders are gone, or nobody waits for names any more.
    fn run(mut self, batches: &Receiver<Batch>, named: &Sender<Vec<Named>>) -> Unnamed {
        // Read now, so that they are at hand when the session ends.
        drop(KernelSymbols::current());
        let mut is_wanted = true;
        let given_up = Arc::clone(&self.given_up);
        let stop = || given_up.load(Ordering::Relaxed);
        while is_wanted && !stop() {
            let names = match batches.recv_timeout(IDLE) {
                Ok(batch) => {
                    if self.files.is_full() {
                        is_wanted = self.make_room(named);
                    }
                    self.files.names(batch, &stop)
                }
                Err(RecvTimeoutError::Timeout) if self.may_refine() => self.refine_one(),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            is_wanted &= named.send(self.room.bounded(names)).is_ok();
        }
        if is_wanted {
            self.refine_all(named);
        }
        self.files.close();
        Unnamed {
            frames: self.room.refused,
            shortfall: self.files.shortfall,
            debug_bytes: self.debug_bytes,
        }
    }

    /// Lets go of all files. While the session runs their debug information is
    /// read for no longer than a pass may take, and not at all where it is not
    /// time for one. Whether anybody still waits.
    fn make_room(&mut self, named: &Sender<Vec<Named>>) -> bool {
        let start = Instant::now();
        let time = match self.deadline.get() {
            Some(_) => Duration::MAX,
            None if start < self.next_pass => Duration::ZERO,
            None => PASS_TIME,
        };
        let is_wanted = self.refine_for(time, named);
        self.next_pass = self.next_pass.max(start + PAUSE * start.elapsed());
        self.files.close();
        is_wanted
    }

    /// Whether anybody still waits.
    fn refine_all(&mut self, named: &Sender<Vec<Named>>) -> bool {
        self.refine_for(Duration::MAX, named)
    }

    /// Begins passes for that long, and gives up on the frames that then wait.
    /// Whether anybody still waits.
    fn refine_for(&mut self, time: Duration, named: &Sender<Vec<Named>>) -> bool {
        let start = Instant::now();
        while self.files.are_waiting() && start.elapsed() < time && !is_over(&self.deadline) {
            let names = self.refine_one();
            if named.send(self.room.bounded(names)).is_err() {
                return false;
            }
        }
        self.files.stop_waiting();
        true
    }

    fn may_refine(&self) -> bool {
        self.files.are_waiting() && Instant::now() >= self.next_pass
    }

    fn refine_one(&mut self) -> Vec<Named> {
        let start = Instant::now();
        let deadline = Arc::clone(&self.deadline);
        let stop = || start.elapsed() >= PASS_TIME || is_over(&deadline);
        let names = self.files.refine_one(&stop);
        self.next_pass = Instant::now() + PAUSE * start.elapsed();
        names
    }
}

fn is_over(deadline: &OnceLock<Instant>) -> bool {
    deadline.get().is_some_and(|end| Instant::now() >= *end)
}

/// Memory for names.
#[derive(Default)]
struct Room {
    taken: usize,
    /// Bytes of the names of frames that were named.
    by_frame: HashMap<u32, u32>,
    refused: usize,
}

impl Room {
    /// Leaves out names for which there is no room. Better names take the place
    /// of those that a frame has.
    fn bounded(&mut self, mut names: Vec<Named>) -> Vec<Named> {
        names.retain(|(frame, names)| {
            let bytes = bytes_of(names);
            let before = self.by_frame.get(frame).copied();
            let others = self.taken - before.unwrap_or_default() as usize;
            let fits = bytes <= MAX_NAME_BYTES - others;
            if fits {
                self.taken = others + bytes;
                self.by_frame.insert(*frame, bytes as u32);
            } else if before.is_none() {
                self.refused += 1;
            }
            fits
        });
        names
    }
}

fn bytes_of(names: &[Name]) -> usize {
    let text: usize = names
        .iter()
        .map(|name| name.function.len() + name.file.len())
        .sum();
    size_of_val(names) + text
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
        let namer = Namer::start(Arc::default()).unwrap();
        let batch = batch(names_what_it_is_given as *const (), 2);
        namer.batches().send(batch).unwrap();
        let (named, warnings) = namer.finish(Duration::from_secs(60));
        assert_eq!(warnings, [] as [String; 0]);
        // By their symbols, and then by the debug information.
        assert_eq!(
            named.iter().map(|named| named.0).collect::<Vec<_>>(),
            [0, 1, 0, 1]
        );
        // The function itself is what others may be inlined into.
        let [symbol, better] = [1, 3].map(|at: usize| named[at].1.last().unwrap());
        assert!(
            symbol.function.ends_with("names_what_it_is_given"),
            "{symbol:?}"
        );
        assert_eq!(symbol.line, 0);
        assert_eq!(better.function, symbol.function);
        assert!(better.file.ends_with("src/namer.rs"), "{better:?}");
        assert!(better.line > 200, "{better:?}");
    }

    #[test]
    fn does_not_wait_for_ever() {
        let namer = Namer::start(Arc::default()).unwrap();
        // As long as this lives the thread could wait for more.
        let batches = namer.batches();
        let (named, warnings) = namer.finish(Duration::from_millis(10));
        assert!(named.is_empty());
        assert!(warnings[0].contains("still being read"), "{warnings:?}");
        // And the thread ends.
        let started = Instant::now();
        let function = does_not_wait_for_ever as *const ();
        while batches.send(batch(function, 0)).is_ok() {
            assert!(started.elapsed() < Duration::from_secs(60));
            thread::sleep(IDLE);
        }
    }

    #[test]
    fn room_is_made_without_a_pass_where_it_is_not_time_for_one() {
        let mut worker = Worker::new(Arc::default(), Arc::default(), Arc::default());
        let (names, named) = channel();
        let function = room_is_made_without_a_pass_where_it_is_not_time_for_one as *const ();
        for (wait, passes) in [(Duration::from_secs(60), 0), (Duration::ZERO, 1)] {
            let waiting = worker.files.names(batch(function, 1), &|| false);
            assert_eq!(waiting.len(), 1);
            worker.next_pass = Instant::now() + wait;
            assert!(worker.make_room(&names));
            assert_eq!(named.try_iter().count(), passes);
        }
        assert_eq!(worker.files.shortfall.late, 1);
        assert!(worker.next_pass > Instant::now());
    }

    #[test]
    fn a_thread_that_dies_is_told_of() {
        let (_, named) = channel();
        let namer = Namer {
            sender: channel().0,
            named,
            deadline: Arc::default(),
            given_up: Arc::default(),
            thread: thread::spawn(|| panic!("on purpose")),
        };
        let (_, warnings) = namer.finish(Duration::from_secs(60));
        assert!(warnings[0].contains("failed"), "{warnings:?}");
    }

    #[test]
    fn says_what_it_left_out() {
        let shortfall = Shortfall {
            files: 2,
            broken: 4,
            large: 5,
            damaged: 6,
            split: 7,
            late: 8,
        };
        let unnamed = Unnamed {
            frames: 3,
            shortfall,
            debug_bytes: 99,
        };
        let warnings = unnamed.warnings();
        for (warning, start) in warnings.iter().zip([
            "3 frames", "2 files", "4 files", "5 files", "6 files", "7 files", "8 frames",
        ]) {
            assert!(warning.starts_with(start), "{warnings:?}");
        }
        assert_eq!(warnings.len(), 7);
        assert!(warnings[3].contains("debug_bytes is 99"), "{warnings:?}");
        assert_eq!(Unnamed::default().warnings().len(), 0);
    }
}
