//! An agent in this process, with the kernel left out: what a session does is chosen by the
//! command name in the target of its capture.

#![allow(dead_code, unreachable_pub)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use profiler_agent::bpf::LoadSettings;
use profiler_agent::config::{Config, LogFilter, MaxSessions, Tcp};
use profiler_agent::daemon::{self, DaemonError};
use profiler_agent::server::{Backend, Failure};
use profiler_agent::session::{ErrorKind, SessionControl, SessionEvent, SessionSettings};
use profiler_proto::pb::profiler_client::ProfilerClient;
use profiler_proto::{Event, EventLedger, Ledger, pb};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// Measurements that every session of the backend says it has delivered.
pub const DELIVERED: u64 = 5;

pub const BACKEND: Backend = Backend {
    run,
    probe: |_| {
        vec![pb::EventProbe {
            event: Event::Cpu.to_wire(),
            rungs: Vec::new(),
        }]
    },
};

fn run(
    control: &SessionControl,
    _settings: &SessionSettings,
    events: &mpsc::Sender<SessionEvent>,
) -> Result<Ledger, Failure> {
    let progress = pb::Progress {
        session: control.id(),
        ..Default::default()
    };
    let gone = |_| failure(ErrorKind::Internal, "the channel is closed");
    events
        .blocking_send(SessionEvent::Progress(progress))
        .map_err(gone)?;
    let target = control.status().spec.unwrap().target.unwrap();
    match target.comms.first().map_or("", String::as_str) {
        "waits" => {
            while control.end_reason().is_none() && !events.is_closed() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        "panics" => panic!("as the test wants it"),
        "denied" => return Err(failure(ErrorKind::Denied, "CAP_BPF is missing")),
        _ => {}
    }
    for frame in [vec![1; 3], vec![2; 3 << 20]] {
        events
            .blocking_send(SessionEvent::Frame(frame))
            .map_err(gone)?;
    }
    let mut ledger = EventLedger::new(Event::Cpu);
    ledger.delivered = DELIVERED;
    Ok(Ledger {
        events: vec![ledger],
    })
}

fn failure(kind: ErrorKind, message: &str) -> Failure {
    Failure {
        kind,
        message: message.to_owned(),
    }
}

/// A request for a session that does what the word says.
pub fn request(behaviour: &str) -> pb::CaptureRequest {
    let target = pb::Target {
        comms: vec![behaviour.to_owned()],
        ..Default::default()
    };
    let spec = pb::CaptureSpec {
        events: vec![Event::Cpu.to_wire()],
        target: Some(target),
        duration_ns: 1_000_000_000,
        frequency_hz: 99,
    };
    pb::CaptureRequest { spec: Some(spec) }
}

pub struct Agent {
    folder: TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), DaemonError>>,
}

impl Agent {
    /// Returns once it serves. Two sessions at a time.
    pub async fn start(tcp: Option<Tcp>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            socket: folder.path().join("agent.sock").try_into().unwrap(),
            socket_group: None,
            tcp,
            max_sessions: MaxSessions::new(2),
            session: SessionSettings {
                unwinder: Arc::default(),
                symbols: Arc::default(),
                load: LoadSettings {
                    ring_bytes: 1 << 16,
                    offcpu_rung: None,
                },
                max_samples: 1000,
            },
            log: LogFilter::default(),
        };
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ready = || {
                ready
                    .send(())
                    .map_err(|()| io::Error::other("nobody waits"))
            };
            let stopped = async { stopped.await.unwrap_or_default() };
            daemon::run(&config, BACKEND, ready, stopped).await
        });
        is_ready.await.unwrap();
        Self { folder, stop, task }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    pub async fn channel(&self) -> Channel {
        let uri = format!("unix://{}", self.socket().display());
        Endpoint::from_shared(uri).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> ProfilerClient<Channel> {
        ProfilerClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub async fn status(&self) -> pb::StatusResponse {
        let mut client = self.client().await;
        client
            .status(pb::StatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits until no session runs.
    pub async fn idle(&self) -> pb::StatusResponse {
        loop {
            let status = self.status().await;
            if status.sessions.is_empty() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn stop(self) {
        let socket = self.socket();
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
        assert!(!socket.exists());
    }
}
