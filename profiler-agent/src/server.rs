//! gRPC in and out, nothing else: checks what comes in, calls what does the work, and says in
//! gRPC's words what went wrong.

use std::sync::Arc;
use std::time::Instant;

use profiler_proto::pb::profiler_server::{Profiler, ProfilerServer};
use profiler_proto::{CaptureSpec, Ledger, MAX_FRAME_BYTES, UnwindFacts, pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access::Peer;
use crate::bpf::LoadSettings;
use crate::doctor::process::ProcessExamError;
use crate::session::{ErrorKind, SessionControl, SessionEvent, SessionSettings};
use crate::sessions::{Refused, Sessions};
use crate::unwind::loader::{UnwindStatus, refusals};
use crate::{doctor, own_cost};

mod delivery;
pub mod incoming;
pub mod socket;

/// The longest request is a capture with 1024 pids, 8 names and a path of 4 KiB: about 10 KiB.
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// A frame with the field and the message around it.
const MAX_RESPONSE_BYTES: usize = MAX_FRAME_BYTES + 1024;

/// Runs one session on the calling thread, to its end.
pub type RunSession =
    fn(&SessionControl, &SessionSettings, &mpsc::Sender<SessionEvent>) -> Result<Ledger, Failure>;
/// Tries what this kernel can do. Takes about a second.
pub type ProbeEvents = fn(&LoadSettings) -> Vec<pb::EventProbe>;

/// A session that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What a caller is told apart from the sentence.
    pub kind: ErrorKind,
    /// What failed on what.
    pub message: String,
}

/// What does the work behind the calls.
#[derive(Clone, Copy)]
pub struct Backend {
    /// For `Capture`.
    pub run: RunSession,
    /// For `Doctor`.
    pub probe: ProbeEvents,
}

/// The service `profiler.v1.Profiler`.
pub struct Service {
    sessions: Arc<Sessions>,
    settings: SessionSettings,
    backend: Backend,
    started: Instant,
    /// One examination at a time: each takes a second or more of a CPU.
    probing: Arc<tokio::sync::Mutex<()>>,
}

impl Service {
    /// The service as it is added to a server, with its bounds on messages.
    pub fn server(
        sessions: Arc<Sessions>,
        settings: SessionSettings,
        backend: Backend,
    ) -> ProfilerServer<Self> {
        ProfilerServer::new(Self {
            sessions,
            settings,
            backend,
            started: Instant::now(),
            probing: Arc::default(),
        })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES)
    }
}

/// What unwinding has taken since the agent started. Copies are counted by session.
fn unwind(status: &UnwindStatus) -> pb::UnwindFacts {
    let tables = &status.tables;
    let facts = UnwindFacts {
        tables_built: tables.built,
        tables_refused: refusals(&tables.refused),
        table_bytes: tables.bytes as u64,
        build_cpu_ns: tables.build_cpu.as_nanos() as u64,
        ..UnwindFacts::default()
    };
    (&facts).into()
}

#[tonic::async_trait]
impl Profiler for Service {
    type CaptureStream = ReceiverStream<delivery::Item>;

    async fn capture(
        &self,
        request: Request<pb::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let peer = request.extensions().get::<Peer>().map(Peer::to_string);
        let spec = spec(request.into_inner())?;
        let target = spec.target.to_string();
        let running = self.sessions.begin(spec).map_err(refused)?;
        let session = running.id();
        tracing::info!(session, target, peer, "capture begins");
        let (sender, stream) = mpsc::channel(delivery::RESPONSE_QUEUE);
        delivery::start(running, self.backend.run, self.settings.clone(), sender)
            .map_err(|error| Status::internal(format!("cannot start a thread: {error}")))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn stop(
        &self,
        request: Request<pb::StopRequest>,
    ) -> Result<Response<pb::StopResponse>, Status> {
        let session = request.into_inner().session;
        if self.sessions.stop(session) {
            Ok(Response::new(pb::StopResponse {}))
        } else {
            Err(Status::not_found(format!(
                "no session {session} is running"
            )))
        }
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let host = rustix::system::uname();
        let totals = self.sessions.totals();
        Ok(Response::new(pb::StatusResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            host: host.nodename().to_string_lossy().into_owned(),
            kernel: host.release().to_string_lossy().into_owned(),
            sessions: self.sessions.status(),
            cpu_ns: own_cost::cpu_ns(),
            rss_bytes: own_cost::rss_bytes(),
            bpf_map_bytes: own_cost::bpf_map_bytes(),
            captures_completed: totals.completed,
            captures_failed: totals.failed,
            ledger: Some((&totals.ledger).into()),
            unwind: self
                .settings
                .unwinder
                .status()
                .map(|status| unwind(&status)),
        }))
    }

    async fn doctor(
        &self,
        _request: Request<pb::DoctorRequest>,
    ) -> Result<Response<pb::DoctorResponse>, Status> {
        let turn = Arc::clone(&self.probing).lock_owned().await;
        let settings = self.settings.load;
        let probe = self.backend.probe;
        let examination = tokio::task::spawn_blocking(move || {
            // Held to the end even where the caller does not wait for it.
            let _turn = turn;
            pb::DoctorResponse {
                checks: doctor::examine(),
                events: probe(&settings),
            }
        });
        match examination.await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => Err(Status::internal(format!("the examination failed: {error}"))),
        }
    }

    async fn doctor_process(
        &self,
        request: Request<pb::DoctorProcessRequest>,
    ) -> Result<Response<pb::DoctorProcessResponse>, Status> {
        let pid = request.into_inner().pid;
        let turn = Arc::clone(&self.probing).lock_owned().await;
        let symbols = Arc::clone(&self.settings.symbols);
        let examination = tokio::task::spawn_blocking(move || {
            // Held to the end even where the caller does not wait for it.
            let _turn = turn;
            doctor::process::examine(pid, symbols.fetched())
        });
        match examination.await {
            Ok(Ok(response)) => Ok(Response::new(response)),
            Ok(Err(error)) => Err(process_exam_failed(&error)),
            Err(error) => Err(Status::internal(format!("the examination failed: {error}"))),
        }
    }
}

fn process_exam_failed(error: &ProcessExamError) -> Status {
    let message = error.to_string();
    match error {
        ProcessExamError::None(_) => Status::not_found(message),
        ProcessExamError::Denied { .. } => Status::permission_denied(message),
        ProcessExamError::Failed(_) => Status::internal(message),
    }
}

fn spec(request: pb::CaptureRequest) -> Result<CaptureSpec, Status> {
    let spec = request
        .spec
        .ok_or_else(|| Status::invalid_argument("the request has no spec"))?;
    CaptureSpec::try_from(spec).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn refused(reason: Refused) -> Status {
    match reason {
        Refused::Full { .. } => Status::resource_exhausted(reason.to_string()),
        Refused::ShuttingDown => Status::unavailable(reason.to_string()),
    }
}
