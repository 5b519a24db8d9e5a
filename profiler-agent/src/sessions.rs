//! The sessions that run now, and the sums of those that ran.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use profiler_proto::{CaptureSpec, EndReason, Ledger, pb};
use tokio::sync::watch;

use crate::config::MaxSessions;
use crate::session::SessionControl;

/// How long sessions that were told to stop and did not deliver in time have to detach.
const ABORT_GRACE: Duration = Duration::from_millis(500);

/// Why a session was not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// As many run as may.
    #[error(
        "{running} of at most {running} sessions are running (max_sessions in the agent's \
         configuration); try again when one has ended"
    )]
    Full {
        /// How many run.
        running: usize,
    },
    /// The agent ends.
    #[error("the agent is shutting down")]
    ShuttingDown,
}

/// The sums over all sessions since the agent started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Captures handed over whole.
    pub completed: u64,
    /// Captures that failed or that nobody waited for.
    pub failed: u64,
    /// The ledgers of the completed ones, added up.
    pub ledger: Ledger,
}

/// The registry of running sessions.
pub struct Sessions {
    limit: usize,
    state: Mutex<State>,
    /// Tells how many run, to whoever waits for them to end.
    running: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    closed: bool,
    last_id: u64,
    running: BTreeMap<u64, Arc<SessionControl>>,
    totals: Totals,
}

impl Sessions {
    /// An empty registry.
    pub fn new(limit: MaxSessions) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.get(),
            state: Mutex::default(),
            running: watch::Sender::new(0),
        })
    }

    /// Enters a session. It runs until what this returns is dropped.
    ///
    /// # Errors
    /// Fails where as many run as may, and where the agent ends.
    pub fn begin(self: &Arc<Self>, spec: CaptureSpec) -> Result<Running, Refused> {
        let mut state = self.state();
        let running = state.running.len();
        if state.closed {
            return Err(Refused::ShuttingDown);
        }
        if running >= self.limit {
            return Err(Refused::Full { running });
        }
        state.last_id += 1;
        let id = state.last_id;
        let control = SessionControl::new(id, spec);
        state.running.insert(id, Arc::clone(&control));
        self.running.send_replace(state.running.len());
        Ok(Running {
            id,
            control,
            sessions: Arc::clone(self),
        })
    }

    /// Ends a session early. False where no such session runs.
    pub fn stop(&self, id: u64) -> bool {
        let state = self.state();
        let session = state.running.get(&id);
        if let Some(control) = session {
            control.stop(EndReason::Stopped);
        }
        session.is_some()
    }

    /// What every running session does just now.
    pub fn status(&self) -> Vec<pb::SessionStatus> {
        self.controls()
            .iter()
            .map(|control| control.status())
            .collect()
    }

    /// The sums over the sessions that have ended.
    pub fn totals(&self) -> Totals {
        self.state().totals.clone()
    }

    /// Lets no session begin any more, ends those that run, and waits until they have delivered;
    /// those that have not after `grace` are told to detach and be gone.
    pub async fn shut_down(&self, grace: Duration) {
        self.state().closed = true;
        for control in self.controls() {
            control.stop(EndReason::Shutdown);
        }
        if self.none_left(grace).await {
            return;
        }
        let late = self.controls();
        tracing::warn!(
            "{} sessions have not delivered in {grace:?}: discarded",
            late.len()
        );
        for control in &late {
            control.abort();
        }
        if !self.none_left(ABORT_GRACE).await {
            tracing::error!("sessions are stuck; the kernel detaches them when the agent ends");
        }
    }

    async fn none_left(&self, patience: Duration) -> bool {
        let mut running = self.running.subscribe();
        let none = running.wait_for(|&running| running == 0);
        tokio::time::timeout(patience, none).await.is_ok()
    }

    fn controls(&self) -> Vec<Arc<SessionControl>> {
        self.state().running.values().cloned().collect()
    }

    /// Every change under the lock is complete by itself, so that what a panicking thread leaves
    /// is still right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running session's place in the registry, which it leaves when this is dropped.
pub struct Running {
    id: u64,
    control: Arc<SessionControl>,
    sessions: Arc<Sessions>,
}

impl Running {
    /// The number by which callers name it, counted from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the session's thread and its watchers share.
    pub fn control(&self) -> &Arc<SessionControl> {
        &self.control
    }

    /// Counts the capture as handed over.
    pub fn completed(&self, ledger: &Ledger) {
        let mut state = self.sessions.state();
        state.totals.completed += 1;
        state.totals.ledger.merge(ledger);
    }

    /// Counts the capture as failed.
    pub fn failed(&self) {
        self.sessions.state().totals.failed += 1;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.sessions.state();
        state.running.remove(&self.id);
        self.sessions.running.send_replace(state.running.len());
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use profiler_proto::{CaptureDuration, Event, EventLedger, Frequency, Target};

    use super::*;

    fn spec() -> CaptureSpec {
        let (target, duration) = (Target::default(), CaptureDuration::default());
        CaptureSpec::new(vec![Event::Cpu], target, duration, Frequency::default()).unwrap()
    }

    fn sessions() -> Arc<Sessions> {
        Sessions::new(MaxSessions::new(2))
    }

    #[test]
    fn no_more_than_the_limit_and_a_place_is_given_back() {
        let sessions = sessions();
        let first = sessions.begin(spec()).unwrap();
        let second = sessions.begin(spec()).unwrap();
        assert_eq!((first.id(), second.id()), (1, 2));
        let refused = sessions.begin(spec()).err().unwrap();
        assert_eq!(refused, Refused::Full { running: 2 });
        assert!(
            refused
                .to_string()
                .starts_with("2 of at most 2 sessions are running")
        );
        drop(first);
        assert_eq!(sessions.begin(spec()).unwrap().id(), 3);
        assert_eq!(sessions.status().len(), 1);
    }

    #[test]
    fn only_running_sessions_can_be_stopped() {
        let sessions = sessions();
        let running = sessions.begin(spec()).unwrap();
        assert!(!sessions.stop(7));
        assert!(sessions.stop(running.id()));
        assert_eq!(running.control().end_reason(), Some(EndReason::Stopped));
        let id = running.id();
        drop(running);
        assert!(!sessions.stop(id));
    }

    #[test]
    fn totals_add_up() {
        let sessions = sessions();
        let running = sessions.begin(spec()).unwrap();
        let mut event = EventLedger::new(Event::Cpu);
        event.delivered = 3;
        let ledger = Ledger {
            events: vec![event],
        };
        running.completed(&ledger);
        running.completed(&ledger);
        running.failed();
        let totals = sessions.totals();
        assert_eq!((totals.completed, totals.failed), (2, 1));
        assert_eq!(totals.ledger.event(Event::Cpu).unwrap().delivered, 6);
    }

    #[tokio::test]
    async fn shutting_down_waits_for_delivery() {
        let sessions = sessions();
        let running = sessions.begin(spec()).unwrap();
        let session = thread::spawn(move || {
            while running.control().end_reason().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            running.completed(&Ledger::default());
            running.control().end_reason()
        });
        sessions.shut_down(Duration::from_secs(60)).await;
        assert_eq!(session.join().unwrap(), Some(EndReason::Shutdown));
        assert_eq!(sessions.totals().completed, 1);
        assert_eq!(sessions.begin(spec()).err(), Some(Refused::ShuttingDown));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_does_not_end_is_not_waited_for_for_ever() {
        let sessions = sessions();
        let _stuck = sessions.begin(spec()).unwrap();
        let start = tokio::time::Instant::now();
        sessions.shut_down(Duration::from_secs(5)).await;
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(6));
    }
}
