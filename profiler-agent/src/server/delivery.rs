//! One session between its thread and its caller.

use std::time::Duration;
use std::{io, thread};

use profiler_proto::{Ledger, pb};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::{Failure, RunSession};
use crate::session::{ErrorKind, SessionEvent, SessionSettings};
use crate::sessions::Running;

/// Events between the session's thread and the task that hands them on. Frames are about 1 MiB.
const EVENT_QUEUE: usize = 8;
/// Messages that wait for the connection. Together with [`EVENT_QUEUE`] it bounds what a slow
/// caller makes the agent keep.
pub(super) const RESPONSE_QUEUE: usize = 4;
/// A caller who takes nothing for so long is taken for gone, so that it does not hold a session
/// and its memory for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest sentence of an error. Errors travel in a header, which clients bound to 16 KiB or less.
const MAX_MESSAGE_BYTES: usize = 4096;

/// What a caller gets.
pub(super) type Item = Result<pb::CaptureResponse, Status>;

/// Starts the session's thread, and the task that hands on what it sends. A caller that goes away
/// ends both.
pub(super) fn start(
    running: Running,
    run: RunSession,
    settings: SessionSettings,
    caller: mpsc::Sender<Item>,
) -> io::Result<()> {
    let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
    let (outcome_sender, outcome) = oneshot::channel();
    let control = running.control().clone();
    thread::Builder::new()
        .name(format!("session-{}", running.id()))
        .spawn(move || {
            let result = run(&control, &settings, &event_sender);
            // The events end before the outcome comes.
            drop(event_sender);
            if outcome_sender.send(result).is_err() {
                tracing::debug!("a session ended after the server");
            }
        })?;
    tokio::spawn(async move {
        let handed_over = hand_on(&running, events, &caller).await;
        // The place in the registry is kept until the kernel side is detached, which is when the
        // thread has ended.
        let outcome = outcome.await.unwrap_or_else(|_| Err(panicked()));
        conclude(&running, handed_over, outcome, &caller).await;
    });
    Ok(())
}

/// Hands on every event. Returns whether the caller took them all.
async fn hand_on(
    running: &Running,
    mut events: mpsc::Receiver<SessionEvent>,
    caller: &mpsc::Sender<Item>,
) -> bool {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = caller.closed() => break,
        };
        let Some(event) = event else { return true };
        if caller
            .send_timeout(Ok(response(event)), PATIENCE)
            .await
            .is_err()
        {
            break;
        }
    }
    tracing::info!(
        session = running.id(),
        "the caller is gone; discarding the capture"
    );
    running.control().abort();
    // Dropping `events` frees a thread that waits for room.
    false
}

async fn conclude(
    running: &Running,
    handed_over: bool,
    outcome: Result<Ledger, Failure>,
    caller: &mpsc::Sender<Item>,
) {
    let session = running.id();
    match outcome {
        Ok(ledger) if handed_over => {
            tracing::info!(session, lost = ledger.lost(), "capture delivered");
            running.completed(&ledger);
        }
        Ok(_) => running.failed(),
        Err(failure) => {
            running.failed();
            if handed_over {
                tracing::warn!(session, "session failed: {}", failure.message);
                if caller
                    .send_timeout(Err(status(failure)), PATIENCE)
                    .await
                    .is_err()
                {
                    tracing::info!(session, "the caller is gone and will not know");
                }
            }
        }
    }
}

fn response(event: SessionEvent) -> pb::CaptureResponse {
    use pb::capture_response::Part;
    let part = match event {
        SessionEvent::Progress(progress) => Part::Progress(progress),
        SessionEvent::Frame(frame) => Part::Frame(frame),
    };
    pb::CaptureResponse { part: Some(part) }
}

fn panicked() -> Failure {
    Failure {
        kind: ErrorKind::Internal,
        message: "the session's thread panicked; the agent's log says where".to_owned(),
    }
}

fn status(failure: Failure) -> Status {
    let message = cut(failure.message);
    match failure.kind {
        ErrorKind::Denied => Status::permission_denied(message),
        ErrorKind::InvalidTarget => Status::not_found(message),
        ErrorKind::Unavailable => Status::failed_precondition(message),
        ErrorKind::Internal => Status::internal(message),
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push_str(" ... (the agent's log has all of it)");
    }
    message
}

#[cfg(test)]
mod tests {
    use profiler_proto::{CaptureDuration, CaptureSpec, Event, Frequency, Target};

    use super::*;
    use crate::config::MaxSessions;
    use crate::sessions::Sessions;

    fn running() -> Running {
        let (target, duration) = (Target::default(), CaptureDuration::default());
        let spec = CaptureSpec::new(vec![Event::Cpu], target, duration, Frequency::default());
        Sessions::new(MaxSessions::new(1))
            .begin(spec.unwrap())
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_is_taken_for_gone() {
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let (caller, _never_read) = mpsc::channel(1);
        event_sender
            .send(SessionEvent::Frame(vec![1]))
            .await
            .unwrap();
        event_sender
            .send(SessionEvent::Frame(vec![2]))
            .await
            .unwrap();
        let start = tokio::time::Instant::now();
        assert!(!hand_on(&running(), events, &caller).await);
        assert!(start.elapsed() >= PATIENCE);
        assert!(event_sender.is_closed());
    }

    #[test]
    fn kinds_of_failure_have_their_codes() {
        let code = |kind| {
            let message = "why".to_owned();
            status(Failure { kind, message }).code()
        };
        assert_eq!(code(ErrorKind::Denied), tonic::Code::PermissionDenied);
        assert_eq!(code(ErrorKind::InvalidTarget), tonic::Code::NotFound);
        assert_eq!(
            code(ErrorKind::Unavailable),
            tonic::Code::FailedPrecondition
        );
        assert_eq!(code(ErrorKind::Internal), tonic::Code::Internal);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut("short".to_owned()), "short");
        let message = cut("é".repeat(MAX_MESSAGE_BYTES));
        assert!(message.len() < MAX_MESSAGE_BYTES + 100);
        assert!(message.starts_with("éé") && message.ends_with("has all of it)"));
    }
}
