//! What may be done for a whole file: entries without a search table are put in
//! order, which takes up to a second, and what comes of it may not be kept.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::walk::FileKey;
use crate::unwind::{build::cpu_time, registry::CpuBudget};

/// CPU time in each minute: what fifty Go programs of 50 MB take.
const PER_MINUTE: Duration = Duration::from_secs(5);

/// How long a file is left alone of which what was built had to make room.
const PAUSE: Duration = Duration::from_secs(30);

/// Most files that are left alone; of more than that any are tried again.
const MAX_PAUSED: usize = 1024;

/// What all walks of one walker may build, and have built.
pub(super) struct Builds {
    cpu: CpuBudget,
    paused: HashMap<FileKey, Instant>,
    /// The file that is asked for now is left alone.
    is_paused: bool,
    /// For the address that was asked for last something was not built.
    pub(super) is_refused: bool,
}

impl Builds {
    pub(super) fn new() -> Self {
        Self::within(PER_MINUTE)
    }

    pub(super) fn within(per_minute: Duration) -> Self {
        Self {
            cpu: CpuBudget::new(per_minute, Instant::now()),
            paused: HashMap::new(),
            is_paused: false,
            is_refused: false,
        }
    }

    /// From here on it is about this file.
    pub(super) fn begin(&mut self, key: FileKey) {
        self.is_refused = false;
        self.is_paused = match self.paused.get(&key) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                self.paused.remove(&key);
                false
            }
            None => false,
        };
    }

    /// Builds something of it; `None`: not now.
    pub(super) fn build<T>(&mut self, build: impl FnOnce() -> T) -> Option<T> {
        if self.is_paused || !self.cpu.allows(Instant::now()) {
            self.is_refused = true;
            return None;
        }
        let started = cpu_time();
        let built = build();
        let took = cpu_time().saturating_sub(started);
        self.cpu.spend(took, Instant::now());
        Some(built)
    }

    /// What was built of a file had to go.
    pub(super) fn pause(&mut self, key: FileKey) {
        let now = Instant::now();
        if self.paused.len() >= MAX_PAUSED {
            self.paused.retain(|_, until| *until > now);
        }
        if self.paused.len() < MAX_PAUSED {
            self.paused.insert(key, now + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_had_to_go_is_left_alone() {
        let mut builds = Builds::new();
        builds.pause(FileKey::File(1));
        builds.begin(FileKey::File(1));
        assert_eq!(builds.build(|| 5), None);
        assert!(builds.is_refused);
        builds.begin(FileKey::File(2));
        assert_eq!(builds.build(|| 5), Some(5));
        assert!(!builds.is_refused);
        let past = Instant::now();
        builds.paused.insert(FileKey::File(1), past);
        builds.begin(FileKey::File(1));
        assert_eq!(builds.build(|| 5), Some(5));
    }

    #[test]
    fn files_that_are_left_alone_are_bounded() {
        let mut builds = Builds::new();
        (0..2 * MAX_PAUSED as u64).for_each(|id| builds.pause(FileKey::File(id)));
        assert_eq!(builds.paused.len(), MAX_PAUSED);
    }
}
