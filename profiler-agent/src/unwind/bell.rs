//! Wakes the thread that keeps processes' tables up to date.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Can be rung by many and is heard by one, once for all that rang meanwhile.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    /// Wakes whoever waits, or will wait next.
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_one();
    }

    /// Waits until it is rung, no longer than `at_most`.
    pub(super) fn wait(&self, at_most: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) = self
            .heard
            .wait_timeout_while(rung, at_most, |rung| !*rung)
            .unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_bell_that_was_rung_before_is_heard_once() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        let start = Instant::now();
        bell.wait(Duration::from_secs(60));
        assert!(start.elapsed() < Duration::from_secs(60));
        bell.wait(Duration::from_millis(1));
        assert!(start.elapsed() >= Duration::from_millis(1));
    }
}
