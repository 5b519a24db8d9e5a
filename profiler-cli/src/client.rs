//! The connection to an agent, and what its answers mean to the user.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use profiler_proto::MAX_FRAME_BYTES;
use profiler_proto::pb;
use profiler_proto::pb::profiler_client::ProfilerClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use crate::error::{CliError, chain, root_cause};
use crate::private_agent::PrivateAgent;
use crate::privileges;
use crate::text;

/// Where a local agent listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/run/profiler/agent.sock";

/// How long a connection over the network may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for the message around a frame.
const MESSAGE_OVERHEAD_BYTES: usize = 64 << 10;

/// Which agent to talk to.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Agent")]
pub(crate) struct AgentArgs {
    /// Unix socket of a local agent [default: /run/profiler/agent.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "host")]
    socket: Option<PathBuf>,
    /// Agent on another host, over mutual TLS
    #[arg(long, value_name = "HOST:PORT", requires_all = ["tls_ca", "tls_cert", "tls_key"])]
    pub(crate) host: Option<String>,
    /// Certificate authority that signed the agent's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "host")]
    tls_ca: Option<PathBuf>,
    /// This client's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "host")]
    tls_cert: Option<PathBuf>,
    /// This client's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "host")]
    tls_key: Option<PathBuf>,
}

/// What to do where no agent listens on the default socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAgent {
    /// Start one for the length of the command, if privileges allow.
    StartOne,
    /// Say so.
    Fail,
}

/// A connected agent.
pub(crate) struct Agent {
    /// Calls it.
    pub(crate) client: ProfilerClient<Channel>,
    /// Names it in messages: "the agent at /run/profiler/agent.sock".
    pub(crate) name: String,
    private: Option<PrivateAgent>,
}

impl Agent {
    /// Connects to the agent the arguments name, or to the local one.
    pub(crate) async fn connect(args: &AgentArgs, no_agent: NoAgent) -> Result<Self, CliError> {
        if let Some(host) = &args.host {
            return Self::connect_host(args, host).await;
        }
        let socket = args.socket.as_deref();
        let path = socket.unwrap_or(Path::new(DEFAULT_SOCKET));
        let failure = match connect_socket(path).await {
            Ok(channel) => {
                return Ok(Self::new(
                    channel,
                    format!("the agent at {}", path.display()),
                    None,
                ));
            }
            Err(failure) => failure,
        };
        let may_start = socket.is_none() && no_agent == NoAgent::StartOne;
        if failure.kind() == io::ErrorKind::PermissionDenied
            && !(may_start && privileges::suffice())
        {
            return Err(CliError::Denied(format!(
                "no permission to use the agent's socket {}: join its group, or run as root",
                path.display()
            )));
        }
        if !may_start {
            let other = match socket {
                Some(_) => "give --socket the path of one that runs",
                None => "name its socket with --socket",
            };
            return Err(CliError::Failed(format!(
                "no agent answers at {}: {failure}; start profiler-agent, or {other}",
                path.display()
            )));
        }
        Self::start_private(path).await
    }

    async fn start_private(socket: &Path) -> Result<Self, CliError> {
        if !privileges::suffice() {
            return Err(CliError::Denied(format!(
                "no agent listens at {}, and this user may not start one: that needs root, or the \
                 capabilities CAP_BPF and CAP_PERFMON",
                socket.display()
            )));
        }
        let private = PrivateAgent::start().await?;
        let name = "the agent that was started for this command".to_owned();
        match connect_socket(&private.socket()).await {
            Ok(channel) => Ok(Self::new(channel, name, Some(private))),
            Err(error) => {
                let log = private.end().await;
                Err(CliError::Failed(format!(
                    "{name} does not answer: {error}{log}"
                )))
            }
        }
    }

    async fn connect_host(args: &AgentArgs, host: &str) -> Result<Self, CliError> {
        let name = format!("the agent at {host}");
        let failed = |error: tonic::transport::Error| {
            CliError::Failed(format!("cannot connect to {name}: {}", root_cause(&error)))
        };
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if !has_port {
            return Err(CliError::Usage(format!(
                "--host wants HOST:PORT, and `{host}` has no port"
            )));
        }
        let endpoint = Endpoint::from_shared(format!("https://{host}"))
            .map_err(|error| CliError::Usage(format!("--host {host}: {}", root_cause(&error))))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_config(args.tls()?)
            .map_err(failed)?
            .connect()
            .await
            .map_err(failed)?;
        let mut agent = Self::new(channel, name, None);
        agent.await_admission().await?;
        Ok(agent)
    }

    /// Finds out whether an agent on another host accepts our certificate. In TLS 1.3 it looks at it
    /// when for us the connection already stands, and ends the connection if it does not.
    async fn await_admission(&mut self) -> Result<(), CliError> {
        let answer = self.client.status(pb::StatusRequest {}).await;
        answer.map(drop).map_err(|status| match status.source() {
            Some(cause) => CliError::Denied(format!(
                "{} ended the connection at once ({}): most likely it does not accept the certificate \
                 given with --tls-cert",
                self.name,
                root_cause(cause)
            )),
            None => self.error("the question for its status", &status),
        })
    }

    fn new(channel: Channel, name: String, private: Option<PrivateAgent>) -> Self {
        let client = ProfilerClient::new(channel)
            .max_decoding_message_size(MAX_FRAME_BYTES + MESSAGE_OVERHEAD_BYTES);
        Self {
            client,
            name,
            private,
        }
    }

    /// Ends the agent if it was started for this command; returns the end of its log.
    pub(crate) async fn end(self) -> String {
        drop(self.client);
        match self.private {
            Some(private) => private.end().await,
            None => String::new(),
        }
    }

    /// Turns what a call ended with into a sentence: what failed on what, and what to do.
    pub(crate) fn error(&self, doing: &str, status: &Status) -> CliError {
        status_error(&self.name, doing, status)
    }
}

impl AgentArgs {
    fn tls(&self) -> Result<ClientTlsConfig, CliError> {
        let read = |path: &Option<PathBuf>| {
            let path = path.as_deref().unwrap_or(Path::new(""));
            std::fs::read(path).map_err(|error| CliError::file("read", path, error))
        };
        let identity = Identity::from_pem(read(&self.tls_cert)?, read(&self.tls_key)?);
        Ok(ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.tls_ca)?))
            .identity(identity))
    }
}

fn status_error(agent: &str, doing: &str, status: &Status) -> CliError {
    let said = text::clean(status.message());
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => {
            CliError::Denied(format!("{agent} refuses {doing}: {said}"))
        }
        Code::InvalidArgument => CliError::Usage(format!("{agent} cannot do {doing}: {said}")),
        // No event that was asked for can be measured on that host.
        Code::FailedPrecondition => CliError::NoEvent(format!("{agent} cannot do {doing}: {said}")),
        Code::Unimplemented => CliError::Failed(format!(
            "{agent} is of another version and does not know {doing}"
        )),
        // What it says tells when to try again.
        Code::ResourceExhausted => {
            CliError::Failed(format!("{agent} has no room for {doing}: {said}"))
        }
        // The transport's own words are about frames and streams, the reason lies below them.
        _ if status.source().is_some() => {
            let cause = status.source().map_or(said, root_cause);
            CliError::AgentLost(format!("{agent} went away during {doing} ({cause})"))
        }
        _ => CliError::Failed(format!("{doing} failed on {agent}: {said}")),
    }
}

async fn connect_socket(path: &Path) -> Result<Channel, io::Error> {
    let path = path.to_str().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path is not valid UTF-8")
    })?;
    let endpoint = Endpoint::from_shared(format!("unix:{path}")).map_err(io::Error::other)?;
    endpoint.connect().await.map_err(|error| io_cause(&error))
}

/// The system's error below an error of the transport.
fn io_cause(error: &(dyn Error + 'static)) -> io::Error {
    chain(error)
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
        .map_or_else(
            || io::Error::other(root_cause(error)),
            io::Error::from_raw_os_error,
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit;

    #[test]
    fn answers_become_exit_codes_and_sentences() {
        let error = |code| status_error("the agent at x", "the capture", &Status::new(code, "why"));
        let denied = error(Code::PermissionDenied);
        assert_eq!(denied.exit_code(), exit::DENIED);
        assert_eq!(
            denied.to_string(),
            "the agent at x refuses the capture: why"
        );
        assert_eq!(error(Code::Unauthenticated).exit_code(), exit::DENIED);
        assert_eq!(error(Code::InvalidArgument).exit_code(), exit::USAGE);
        assert_eq!(error(Code::FailedPrecondition).exit_code(), exit::PARTIAL);
        for code in [
            Code::Unavailable,
            Code::Internal,
            Code::NotFound,
            Code::Unimplemented,
        ] {
            assert_eq!(error(code).exit_code(), exit::FAILED);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_is_not_there_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect_socket(&dir.path().join("none")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
