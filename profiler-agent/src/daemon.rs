//! The agent from start to end: listens, serves, and ends without leaving anything behind.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use profiler_proto::pb::profiler_server::SERVICE_NAME;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::{Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::access::{AccessPolicy, Gate};
use crate::config::Config;
use crate::own_cost;
use crate::server::incoming::{self, Incoming};
use crate::server::socket::{SocketError, SocketFile};
use crate::server::{Backend, Service};
use crate::sessions::Sessions;
use crate::tls::{self, TlsError};

/// How long sessions have to deliver what they captured.
const DELIVERY_GRACE: Duration = Duration::from_secs(5);
/// How long connections have to take what is on its way to them.
const CONNECTION_GRACE: Duration = Duration::from_secs(1);
/// A host that went away without a word is found out after one interval and one timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at a time on one connection. A command makes two: a capture and the one that stops it.
const MAX_STREAMS: u32 = 16;

/// An agent that could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The TCP socket.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Its certificates.
    #[error(transparent)]
    Certificates(#[from] TlsError),
    /// What passed as certificates, until they were put together.
    #[error("cannot set up TLS: {0}")]
    Tls(#[source] tonic::transport::Error),
    /// Nobody could be told that the agent is ready.
    #[error("cannot say that the agent is ready: {0}")]
    Ready(#[source] io::Error),
    /// A listener ended by itself.
    #[error("the server on {name} ended: {reason}")]
    Ended {
        /// Which one.
        name: &'static str,
        /// Why.
        reason: String,
    },
}

/// Serves until `stop` ends. Calls `ready` once callers are served.
///
/// # Errors
/// Fails where the agent cannot listen, and where it stops serving by itself.
pub async fn run(
    config: &Config,
    backend: Backend,
    ready: impl FnOnce() -> io::Result<()>,
    stop: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    own_cost::limit_arenas();
    own_cost::raise_file_limit();
    let tls = config
        .tcp
        .as_ref()
        .map(|tcp| tls::load(&tcp.tls))
        .transpose()?;
    let group = config.socket_group.as_ref();
    let (_file, unix) = SocketFile::bind(&config.socket, group.map(|group| group.gid))?;

    let sessions = Sessions::new(config.max_sessions);
    let service = Service::server(Arc::clone(&sessions), config.session.clone(), backend);
    let (health, health_service) = tonic_health::server::health_reporter();
    let mut routes = Routes::builder();
    routes.add_service(service).add_service(health_service);
    let mut servers = Servers::new(routes.routes(), gate(config));

    servers.start("the Unix socket", incoming::accept(unix), None)?;
    if let (Some(tcp), Some(tls)) = (&config.tcp, tls) {
        let listener = listen(tcp.listen).await?;
        servers.start("TCP", incoming::accept(listener), Some(tls))?;
        tracing::info!(address = %tcp.listen, "serving other hosts");
    }
    set_health(&health, ServingStatus::Serving).await;
    ready().map_err(DaemonError::Ready)?;
    tracing::info!(socket = %config.socket.as_path().display(), "ready");

    let result = tokio::select! {
        () = stop => Ok(()),
        ended = servers.first_to_end() => Err(ended),
    };
    set_health(&health, ServingStatus::NotServing).await;
    sessions.shut_down(DELIVERY_GRACE).await;
    servers.stop().await;
    result
}

fn gate(config: &Config) -> Gate {
    Gate::new(AccessPolicy {
        own_uid: rustix::process::geteuid().as_raw(),
        group: config.socket_group.clone(),
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, DaemonError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| DaemonError::Listen { address, source })
}

/// Of the service, and of the whole server, which has the empty name.
async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for name in [SERVICE_NAME, ""] {
        health.set_service_status(name, status).await;
    }
}

/// The listeners, each with a task that serves it.
struct Servers {
    routes: Routes,
    gate: Gate,
    tasks: JoinSet<DaemonError>,
    stopping: watch::Sender<bool>,
}

impl Servers {
    fn new(routes: Routes, gate: Gate) -> Self {
        Self {
            routes,
            gate,
            tasks: JoinSet::new(),
            stopping: watch::Sender::new(false),
        }
    }

    fn start<S>(
        &mut self,
        name: &'static str,
        incoming: Incoming<S>,
        tls: Option<ServerTlsConfig>,
    ) -> Result<(), DaemonError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(MAX_STREAMS);
        if let Some(tls) = tls {
            server = server.tls_config(tls).map_err(DaemonError::Tls)?;
        }
        let mut stopping = self.stopping.subscribe();
        let stopped = async move {
            // An error means that whoever could stop it is gone, which stops it too.
            stopping.wait_for(|&stopping| stopping).await.ok();
        };
        let serving = server
            .layer(InterceptorLayer::new(self.gate.clone()))
            .add_routes(self.routes.clone())
            .serve_with_incoming_shutdown(incoming, stopped);
        self.tasks.spawn(async move {
            let reason = match serving.await {
                Ok(()) => "it accepts no more connections".to_owned(),
                Err(error) => error.to_string(),
            };
            DaemonError::Ended { name, reason }
        });
        Ok(())
    }

    /// Waits for a server that ends although nobody has stopped it.
    async fn first_to_end(&mut self) -> DaemonError {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => DaemonError::Ended {
                name: "a listener",
                reason: error.to_string(),
            },
            // There is always the Unix socket's.
            None => std::future::pending().await,
        }
    }

    /// Accepts no more connections, and gives those that are there a moment to take what is on
    /// its way to them.
    async fn stop(mut self) {
        self.stopping.send_replace(true);
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CONNECTION_GRACE, all_ended)
            .await
            .is_err()
        {
            tracing::info!("closing connections that their callers keep open");
        }
    }
}
