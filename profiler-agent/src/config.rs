//! What the agent was told: flags and a TOML file, turned once into a [`Config`].
//!
//! A flag wins over the file, the file over the default. A flag and its key in the file have the
//! same name, but for `-` and `_`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use clap::Parser;
use serde::Deserialize;

use crate::access::Group;
use crate::bpf::LoadSettings;
use crate::session::SessionSettings;
use crate::symbols::shared::{SymbolSettings, Symbols};
use crate::unwind::{loader::UnwindSettings, shared::SharedUnwinder};

mod values;

pub use values::{
    Bounded, CacheBytes, CacheDir, DebugBytes, LogFilter, MaxSamples, MaxSessions, RingBytes,
    RungChoice, ServerUrl, SocketPath, UnwindBytes, UnwindCpuSeconds, ValueError,
};

/// Read where no other file is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/profiler/agent.toml";
/// Each session has its own programs and maps in the kernel.
pub const DEFAULT_MAX_SESSIONS: MaxSessions = MaxSessions::new(4);
/// About 100 CPUs at 99 Hz for 100 s.
pub const DEFAULT_MAX_SAMPLES: MaxSamples = MaxSamples::new(400_000);
/// Tables of some hundreds of binaries and lists of some thousands of processes.
pub const DEFAULT_UNWIND_BYTES: UnwindBytes = UnwindBytes::new(64 << 20);
/// A third of one CPU, for as long as new binaries appear.
pub const DEFAULT_UNWIND_CPU_SECONDS: UnwindCpuSeconds = UnwindCpuSeconds::new(20);
/// Names of a few thousand binaries.
pub const DEFAULT_CACHE_BYTES: CacheBytes = CacheBytes::new(256 << 20);
/// Most binaries with debug information have less; a second's work.
pub const DEFAULT_DEBUG_BYTES: DebugBytes = DebugBytes::new(512 << 20);

const EXAMPLES: &str = "\
Examples:
  profiler-agent
      Serve local callers on /run/profiler/agent.sock.
  profiler-agent --socket-group profiler
      The same, and let members of group `profiler` in.
  profiler-agent --listen 0.0.0.0:7464 --tls-cert agent.pem --tls-key agent.key --tls-client-ca clients.pem
      Serve other hosts too: those that show a certificate of that authority.
  profiler-agent --config agent.toml --check-config
      Say whether the configuration is valid, and end.

Exit codes: 0 ended as asked, 1 could not start or serve, 2 wrong flag or configuration.";

/// The profiling daemon: loads the kernel programs, names frames, serves captures.
#[derive(Debug, Parser)]
#[command(name = "profiler-agent", version, after_help = EXAMPLES)]
pub struct Args {
    /// Configuration file [default: /etc/profiler/agent.toml if it exists]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// Serve the parent process alone: print `ready` once calls are accepted, end when standard
    /// input does, leave SIGINT to the parent, and ignore what the file says about listening
    #[arg(long)]
    pub until_stdin_closes: bool,

    /// Check flags, configuration file and the files it names, and end
    #[arg(long)]
    pub check_config: bool,

    #[command(flatten)]
    settings: Settings,
}

/// What a flag and the file can both set.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Unix socket to listen on [default: /run/profiler/agent.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<SocketPath>,

    /// Group whose members may use the socket, besides root; a name or a number
    #[arg(long, value_name = "NAME")]
    socket_group: Option<String>,

    /// Also listen on this TCP address; needs the three --tls flags
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Certificate of this agent, with those that lead to its root (PEM)
    #[arg(long, value_name = "PATH")]
    tls_cert: Option<PathBuf>,

    /// Private key of that certificate (PEM)
    #[arg(long, value_name = "PATH")]
    tls_key: Option<PathBuf>,

    /// Certificates of the authorities that clients must have theirs from (PEM)
    #[arg(long, value_name = "PATH")]
    tls_client_ca: Option<PathBuf>,

    /// Sessions that may run at the same time [default: 4]
    #[arg(long, value_name = "N")]
    max_sessions: Option<MaxSessions>,

    /// Ring buffer between kernel and agent, bytes per session, a power of two [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    ring_bytes: Option<RingBytes>,

    /// Samples kept in memory per session; what comes after is counted as lost [default: 400000]
    #[arg(long, value_name = "N")]
    max_samples: Option<MaxSamples>,

    /// How off-CPU learns that a thread runs again: auto, sched_exit_tp, fentry, kprobe or
    /// switch-out [default: auto]
    #[arg(long, value_name = "RUNG")]
    offcpu_rung: Option<RungChoice>,

    /// Folder in which names are kept across restarts; empty for none
    /// [default: /var/cache/profiler, if the agent runs as root]
    #[arg(long, value_name = "PATH")]
    cache_dir: Option<CacheDir>,

    /// What that folder may take, in bytes [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    cache_bytes: Option<CacheBytes>,

    /// Most debug information of one file that is read, in bytes; of larger files there are names,
    /// but no lines and inlined functions; 0 for none at all [default: 536870912]
    #[arg(long, value_name = "BYTES")]
    debug_bytes: Option<DebugBytes>,

    /// Server of debug files (debuginfod), which is told what runs here; may be repeated
    /// [default: none]
    #[arg(long = "debuginfod-url", value_name = "URL")]
    debuginfod_urls: Option<Vec<ServerUrl>>,

    /// Most kernel memory for unwind tables, in bytes; stacks in what does not fit are copied and
    /// walked by the agent, which costs more [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    unwind_bytes: Option<UnwindBytes>,

    /// CPU time that building unwind tables may take in each minute, in seconds [default: 20]
    #[arg(long, value_name = "SECONDS")]
    unwind_cpu_seconds: Option<UnwindCpuSeconds>,

    /// What to log: error, warn, info, debug, trace, or directives [default: RUST_LOG, else info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<LogFilter>,
}

/// What the agent was told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Unix socket.
    pub socket: SocketPath,
    /// Whose members may use the Unix socket.
    pub socket_group: Option<Group>,
    /// The TCP listener, if any.
    pub tcp: Option<Tcp>,
    /// Sessions that may run at the same time.
    pub max_sessions: MaxSessions,
    /// The same for every session.
    pub session: SessionSettings,
    /// What is logged.
    pub log: LogFilter,
}

/// The TCP listener. There is none without certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Where its certificates are.
    pub tls: TlsFiles,
}

/// The files that mutual TLS needs, all PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The agent's certificate and those that lead to its root.
    pub cert: PathBuf,
    /// The agent's private key.
    pub key: PathBuf,
    /// The authorities of clients' certificates.
    pub client_ca: PathBuf,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or value in the file.
    #[error("{}, line {line}: `{text}`: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The line itself.
        text: String,
        /// What is wrong, and what is accepted.
        message: String,
    },
    /// A log filter that is none.
    #[error("environment variable RUST_LOG: {0}")]
    RustLog(#[from] ValueError),
    /// Plain TCP was asked for.
    #[error(
        "listen is set without {}; the agent serves TCP only with mutual TLS",
        .missing.join(" and ")
    )]
    ListenWithoutTls {
        /// The keys that are not set.
        missing: Vec<&'static str>,
    },
    /// Certificates for nothing.
    #[error("{} set without listen; certificates are for TCP only", set_keys(.0))]
    TlsWithoutListen(Vec<&'static str>),
    /// Nobody could be a member.
    #[error("socket_group: there is no group `{0}` in /etc/group")]
    NoSuchGroup(String),
}

fn set_keys(keys: &[&str]) -> String {
    let verb = if keys.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", keys.join(" and "))
}

impl Config {
    /// Reads the file, puts the flags over it and checks the whole.
    ///
    /// # Errors
    /// Names the file, line and key, or the flag, that cannot be used.
    pub fn load(args: Args) -> Result<Self, ConfigError> {
        let mut file = read_file(args.config.as_deref())?;
        if args.until_stdin_closes {
            file = file.for_the_parent_alone();
        }
        let rust_log = std::env::var("RUST_LOG").ok();
        Self::build(args.settings, rust_log.as_deref(), file)
    }

    fn build(
        flags: Settings,
        rust_log: Option<&str>,
        mut file: Settings,
    ) -> Result<Self, ConfigError> {
        if let Some(text) = rust_log.filter(|text| !text.is_empty()) {
            file.log = Some(LogFilter::from_environment(text)?);
        }
        let Settings {
            socket,
            socket_group,
            listen,
            tls_cert,
            tls_key,
            tls_client_ca,
            max_sessions,
            ring_bytes,
            max_samples,
            offcpu_rung,
            cache_dir,
            cache_bytes,
            debug_bytes,
            debuginfod_urls,
            unwind_bytes,
            unwind_cpu_seconds,
            log,
        } = flags.or(file);
        Ok(Self {
            socket: socket.unwrap_or_default(),
            socket_group: socket_group.map(find_group).transpose()?,
            tcp: tcp(listen, tls_cert, tls_key, tls_client_ca)?,
            max_sessions: max_sessions.unwrap_or(DEFAULT_MAX_SESSIONS),
            session: SessionSettings {
                unwinder: SharedUnwinder::new(UnwindSettings {
                    budget_bytes: unwind_bytes.unwrap_or(DEFAULT_UNWIND_BYTES).get(),
                    build_cpu_per_minute: Duration::from_secs(
                        unwind_cpu_seconds
                            .unwrap_or(DEFAULT_UNWIND_CPU_SECONDS)
                            .get() as u64,
                    ),
                }),
                load: LoadSettings {
                    ring_bytes: ring_bytes.unwrap_or_default().get(),
                    offcpu_rung: offcpu_rung.unwrap_or_default().get(),
                },
                max_samples: max_samples.unwrap_or(DEFAULT_MAX_SAMPLES).get(),
                symbols: Symbols::new(SymbolSettings {
                    cache_dir: cache_dir.unwrap_or_default().into_path(),
                    cache_bytes: cache_bytes.unwrap_or(DEFAULT_CACHE_BYTES).get() as u64,
                    debug_bytes: debug_bytes.unwrap_or(DEFAULT_DEBUG_BYTES).get() as u64,
                    debuginfod_urls: debuginfod_urls
                        .unwrap_or_default()
                        .into_iter()
                        .map(ServerUrl::into_string)
                        .collect(),
                }),
            },
            log: log.unwrap_or_default(),
        })
    }
}

impl Settings {
    /// Without what lets others in: the file's listeners are those of the host's own agent, which
    /// may run beside a child of the command line.
    fn for_the_parent_alone(self) -> Self {
        Self {
            socket: None,
            socket_group: None,
            listen: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            ..self
        }
    }

    /// These, and the other ones where these say nothing.
    fn or(self, other: Self) -> Self {
        let Self {
            socket,
            socket_group,
            listen,
            tls_cert,
            tls_key,
            tls_client_ca,
            max_sessions,
            ring_bytes,
            max_samples,
            offcpu_rung,
            cache_dir,
            cache_bytes,
            debug_bytes,
            debuginfod_urls,
            unwind_bytes,
            unwind_cpu_seconds,
            log,
        } = self;
        Self {
            socket: socket.or(other.socket),
            socket_group: socket_group.or(other.socket_group),
            listen: listen.or(other.listen),
            tls_cert: tls_cert.or(other.tls_cert),
            tls_key: tls_key.or(other.tls_key),
            tls_client_ca: tls_client_ca.or(other.tls_client_ca),
            max_sessions: max_sessions.or(other.max_sessions),
            ring_bytes: ring_bytes.or(other.ring_bytes),
            max_samples: max_samples.or(other.max_samples),
            offcpu_rung: offcpu_rung.or(other.offcpu_rung),
            cache_dir: cache_dir.or(other.cache_dir),
            cache_bytes: cache_bytes.or(other.cache_bytes),
            debug_bytes: debug_bytes.or(other.debug_bytes),
            debuginfod_urls: debuginfod_urls.or(other.debuginfod_urls),
            unwind_bytes: unwind_bytes.or(other.unwind_bytes),
            unwind_cpu_seconds: unwind_cpu_seconds.or(other.unwind_cpu_seconds),
            log: log.or(other.log),
        }
    }
}

fn read_file(named: Option<&Path>) -> Result<Settings, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(path) {
        Ok(text) => parse_file(path, &text),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok(Settings::default())
        }
        Err(source) => Err(ConfigError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn parse_file(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::File {
            path: path.to_owned(),
            line,
            text: text
                .lines()
                .nth(line - 1)
                .unwrap_or_default()
                .trim()
                .to_owned(),
            message: error.message().replace('\n', "; "),
        }
    })
}

fn find_group(name: String) -> Result<Group, ConfigError> {
    let path = Path::new("/etc/group");
    let groups = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    Group::find(&name, &groups).ok_or(ConfigError::NoSuchGroup(name))
}

fn tcp(
    listen: Option<SocketAddr>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<Tcp>, ConfigError> {
    let files = [
        ("tls_cert", cert.is_some()),
        ("tls_key", key.is_some()),
        ("tls_client_ca", client_ca.is_some()),
    ];
    let keys = |set: bool| {
        let files = files.iter().filter(move |(_, is_set)| *is_set == set);
        files.map(|(key, _)| *key).collect::<Vec<_>>()
    };
    match (listen, cert, key, client_ca) {
        (Some(listen), Some(cert), Some(key), Some(client_ca)) => Ok(Some(Tcp {
            listen,
            tls: TlsFiles {
                cert,
                key,
                client_ca,
            },
        })),
        (Some(_), ..) => Err(ConfigError::ListenWithoutTls {
            missing: keys(false),
        }),
        (None, None, None, None) => Ok(None),
        (None, ..) => Err(ConfigError::TlsWithoutListen(keys(true))),
    }
}

#[cfg(test)]
mod tests;
