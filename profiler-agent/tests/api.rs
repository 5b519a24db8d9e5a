//! The agent's API, as a client on its Unix socket sees it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::{Agent, DELIVERED, request};
use profiler_proto::pb::{self, capture_response::Part};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Long enough for any of these tests to get to its end, so that a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lengths of the frames up to the end of the stream.
async fn frames(mut stream: Streaming<pb::CaptureResponse>) -> Result<Vec<usize>, Status> {
    let mut lengths = Vec::new();
    while let Some(response) = stream.message().await? {
        if let Some(Part::Frame(frame)) = response.part {
            lengths.push(frame.len());
        }
    }
    Ok(lengths)
}

async fn session_of(stream: &mut Streaming<pb::CaptureResponse>) -> u64 {
    match stream.message().await.unwrap().unwrap().part {
        Some(Part::Progress(progress)) => progress.session,
        other => panic!("a capture begins with {other:?}"),
    }
}

#[tokio::test]
async fn a_capture_is_progress_then_frames_and_is_counted() {
    let agent = Agent::start(None).await;
    let mut client = agent.client().await;
    for session in 1..=2 {
        let mut stream = client
            .capture(request("captures"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(session_of(&mut stream).await, session);
        assert_eq!(frames(stream).await.unwrap(), [3, 3 << 20]);
    }
    let status = agent.idle().await;
    assert_eq!((status.captures_completed, status.captures_failed), (2, 0));
    assert_eq!(status.ledger.unwrap().events[0].delivered, 2 * DELIVERED);
    assert_eq!(status.pid, std::process::id());
    assert!(status.uptime_ns > 0 && status.cpu_ns > 0 && status.rss_bytes > 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_bad_request_is_told_what_is_wrong() {
    let agent = Agent::start(None).await;
    let mut client = agent.client().await;
    let mut wrong = request("captures");
    wrong.spec.as_mut().unwrap().frequency_hz = 0;
    let error = client.capture(wrong).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("frequency `0`"), "{error}");

    let empty = pb::CaptureRequest { spec: None };
    let error = client.capture(empty).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let error = client
        .capture(request(&"x".repeat(1 << 20)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    agent.stop().await;
}

#[tokio::test]
async fn sessions_are_limited_and_can_be_stopped() {
    let agent = Agent::start(None).await;
    let mut client = agent.client().await;
    let mut first = client.capture(request("waits")).await.unwrap().into_inner();
    let second = client.capture(request("waits")).await.unwrap().into_inner();
    let error = client.capture(request("captures")).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(
        error.message().starts_with("2 of at most 2 sessions"),
        "{error}"
    );

    let session = session_of(&mut first).await;
    client.stop(pb::StopRequest { session }).await.unwrap();
    assert_eq!(frames(first).await.unwrap().len(), 2);
    let error = client
        .stop(pb::StopRequest { session: 99 })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    drop(second);
    let status = agent.idle().await;
    assert_eq!((status.captures_completed, status.captures_failed), (1, 1));
    agent.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_session() {
    let agent = Agent::start(None).await;
    let mut client = agent.client().await;
    let mut stream = client.capture(request("waits")).await.unwrap().into_inner();
    session_of(&mut stream).await;
    assert_eq!(agent.status().await.sessions.len(), 1);
    drop((stream, client));
    let status = tokio::time::timeout(PATIENCE, agent.idle()).await.unwrap();
    assert_eq!(status.captures_failed, 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_failing_session_says_why() {
    let agent = Agent::start(None).await;
    let mut client = agent.client().await;
    let stream = client
        .capture(request("denied"))
        .await
        .unwrap()
        .into_inner();
    let error = frames(stream).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(error.message(), "CAP_BPF is missing");
    assert_eq!(agent.idle().await.captures_failed, 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_panicking_session_is_an_error_and_not_a_hang() {
    let agent = Agent::start(None).await;
    let mut client = agent.client().await;
    let stream = client
        .capture(request("panics"))
        .await
        .unwrap()
        .into_inner();
    let error = tokio::time::timeout(PATIENCE, frames(stream))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().contains("panicked"), "{error}");
    let status = agent.idle().await;
    assert_eq!((status.captures_completed, status.captures_failed), (0, 1));
    agent.stop().await;
}

#[tokio::test]
async fn doctor_probes_and_checks() {
    let agent = Agent::start(None).await;
    let mut client = agent.client().await;
    let response = client
        .doctor(pb::DoctorRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.events.len(), 1);
    assert!(response.checks.iter().any(|check| check.name == "kernel"));
    agent.stop().await;
}

#[tokio::test]
async fn shutting_down_delivers_what_was_captured() {
    let agent = Agent::start(None).await;
    let mut health = HealthClient::new(agent.channel().await);
    let service = "profiler.v1.Profiler".to_owned();
    let watched = health.watch(HealthCheckRequest { service }).await.unwrap();
    let mut watched = watched.into_inner();
    let serving = watched.message().await.unwrap().unwrap();
    assert_eq!(serving.status(), ServingStatus::Serving);

    let mut client = agent.client().await;
    let stream = client.capture(request("waits")).await.unwrap().into_inner();
    let (frames, ()) = tokio::join!(frames(stream), agent.stop());
    assert_eq!(frames.unwrap(), [3, 3 << 20]);
    let not_serving = watched.message().await.unwrap().unwrap();
    assert_eq!(not_serving.status(), ServingStatus::NotServing);
}
