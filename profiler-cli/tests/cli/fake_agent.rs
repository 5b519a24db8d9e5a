//! An agent without a kernel side: it answers as it is told to, with a made-up capture.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use profiler_proto::pb::capture_response::Part;
use profiler_proto::pb::profiler_server::{Profiler, ProfilerServer};
use profiler_proto::pb::{self, CaptureResponse, Phase};
use profiler_proto::{Capture, EndReason, chunks, encode_frame};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// How the agent behaves in a capture.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Delivers the capture after a moment.
    Deliver,
    /// Delivers it once it is told to stop.
    DeliverWhenStopped,
    /// Delivers half of it and ends the stream.
    HalfOfIt,
    /// Begins and never ends.
    Hang,
    /// Refuses.
    Refuse(tonic::Code, &'static str),
}

/// A running one.
pub(crate) struct FakeAgent {
    runtime: Option<Runtime>,
    address: String,
    service: Service,
}

#[derive(Clone)]
struct Service {
    behaviour: Behaviour,
    capture: Arc<Capture>,
    stop: Arc<Notify>,
    armed: Arc<Notify>,
    spec: Arc<Mutex<Option<pb::CaptureSpec>>>,
}

impl FakeAgent {
    pub(crate) fn start(socket: &Path, behaviour: Behaviour, capture: Capture) -> Self {
        let runtime = Runtime::new().unwrap();
        let service = Service::new(behaviour, capture);
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        let server = Server::builder()
            .add_service(ProfilerServer::new(service.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        Self {
            runtime: Some(runtime),
            address: socket.to_str().unwrap().to_owned(),
            service,
        }
    }

    /// Listens on localhost, over mutual TLS.
    pub(crate) fn start_tls(tls: ServerTlsConfig, behaviour: Behaviour, capture: Capture) -> Self {
        let runtime = Runtime::new().unwrap();
        let service = Service::new(behaviour, capture);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(ProfilerServer::new(service.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(server);
        Self {
            runtime: Some(runtime),
            address,
            service,
        }
    }

    /// Its socket, or its host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What the client asked for.
    pub(crate) fn spec(&self) -> pb::CaptureSpec {
        self.service.spec.lock().unwrap().clone().unwrap()
    }

    /// Waits until a capture is running, and the client has had time to hear of it.
    pub(crate) fn await_armed(&self) {
        let armed = self.service.armed.notified();
        self.runtime.as_ref().unwrap().block_on(armed);
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Drops every connection at once, as a killed process does.
    pub(crate) fn die(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    fn new(behaviour: Behaviour, capture: Capture) -> Self {
        Self {
            behaviour,
            capture: Arc::new(capture),
            stop: Arc::new(Notify::new()),
            armed: Arc::new(Notify::new()),
            spec: Arc::new(Mutex::new(None)),
        }
    }

    async fn run(self, spec: pb::CaptureSpec, out: mpsc::Sender<Result<CaptureResponse, Status>>) {
        let mut capture = Capture::clone(&self.capture);
        capture.facts.spec = spec.try_into().unwrap();
        for phase in [Phase::Arming, Phase::Armed, Phase::Capturing] {
            let progress = pb::Progress {
                session: 1,
                phase: phase.into(),
                duration_ns: 1,
                ..pb::Progress::default()
            };
            send(&out, Part::Progress(progress)).await;
        }
        self.armed.notify_one();
        match self.behaviour {
            Behaviour::Hang => return std::future::pending().await,
            Behaviour::DeliverWhenStopped => {
                self.stop.notified().await;
                capture.facts.end_reason = EndReason::Stopped;
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        for mut chunk in chunks(&capture) {
            if matches!(self.behaviour, Behaviour::HalfOfIt) {
                chunk.facts = None;
                chunk.ledger = None;
            }
            send(&out, Part::Frame(encode_frame(&chunk).unwrap())).await;
        }
    }
}

async fn send(out: &mpsc::Sender<Result<CaptureResponse, Status>>, part: Part) {
    let response = CaptureResponse { part: Some(part) };
    // A client that has gone away is a case of its own, and no failure here.
    drop(out.send(Ok(response)).await);
}

#[tonic::async_trait]
impl Profiler for Service {
    type CaptureStream = ReceiverStream<Result<CaptureResponse, Status>>;

    async fn capture(
        &self,
        request: Request<pb::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        if let Behaviour::Refuse(code, message) = self.behaviour {
            return Err(Status::new(code, message));
        }
        let spec = request.into_inner().spec.unwrap();
        *self.spec.lock().unwrap() = Some(spec.clone());
        let (out, stream) = mpsc::channel(4);
        tokio::spawn(self.clone().run(spec, out));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn stop(
        &self,
        request: Request<pb::StopRequest>,
    ) -> Result<Response<pb::StopResponse>, Status> {
        assert_eq!(request.into_inner().session, 1);
        self.stop.notify_one();
        Ok(Response::new(pb::StopResponse {}))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(pb::StatusResponse {
            host: "web-1".to_owned(),
            agent_version: "0.1.0".to_owned(),
            ..pb::StatusResponse::default()
        }))
    }

    async fn doctor(
        &self,
        _: Request<pb::DoctorRequest>,
    ) -> Result<Response<pb::DoctorResponse>, Status> {
        let probe = |event, available| pb::EventProbe {
            event,
            rungs: vec![pb::RungProbe {
                mechanism: "a way".to_owned(),
                available,
                reason: "no BTF".to_owned(),
                ..pb::RungProbe::default()
            }],
        };
        Ok(Response::new(pb::DoctorResponse {
            checks: Vec::new(),
            events: vec![probe(1, true), probe(3, false)],
        }))
    }

    async fn doctor_process(
        &self,
        request: Request<pb::DoctorProcessRequest>,
    ) -> Result<Response<pb::DoctorProcessResponse>, Status> {
        match request.into_inner().pid {
            1 => Err(Status::permission_denied("process 1: not yours")),
            812 => Ok(Response::new(pb::DoctorProcessResponse {
                pid: 812,
                comm: "node".to_owned(),
                mappings: vec![pb::CodeMapping {
                    unwind: ".eh_frame".to_owned(),
                    names_state: pb::CheckState::Failed.into(),
                    ..pb::CodeMapping::default()
                }],
                ..pb::DoctorProcessResponse::default()
            })),
            pid => Err(Status::not_found(format!("there is no process {pid}"))),
        }
    }
}
