//! Debug files from servers (debuginfod), for binaries that have none on this
//! host. Off unless the configuration names servers: a request tells them what
//! runs here. Files are fetched one after the other by a thread of their own
//! and found by the sessions that come after.

use std::{
    collections::HashSet,
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::{
    cache::{Cache, DEBUG, MISSING, MISSING_TIME},
    debug_files::hex,
};
use crate::unwind::elf::ElfImage;

/// How long a server may take to accept a connection, to begin its answer, and
/// to send all of it.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(30);
const WHOLE_TIME: Duration = Duration::from_secs(300);

/// Files that may wait to be fetched, and build-ids that are remembered as
/// asked for. What comes after is asked for again in another session.
const QUEUE: usize = 64;
const MAX_ASKED: usize = 4096;

/// Where distributions keep the certificates of public authorities: Debian and
/// Alpine, Fedora, SUSE.
const AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server did not answer as it should.
    #[error("{url}: {source}")]
    Server {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// It cannot be kept.
    #[error("{url}: {source}")]
    Store {
        /// What was asked for.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The server sent something else.
    #[error("{0}: what came is not the debug file of that build-id")]
    Other(String),
}

/// Fetches debug files in the background.
pub struct Downloads {
    wanted: SyncSender<Vec<u8>>,
    asked: Mutex<HashSet<Vec<u8>>>,
}

impl Downloads {
    /// Starts the thread. Files of up to `limit` bytes go to the cache.
    ///
    /// # Errors
    /// Fails where the system has no thread left.
    pub fn start(urls: Vec<String>, cache: Arc<Cache>, limit: u64) -> io::Result<Self> {
        let (wanted, build_ids) = sync_channel(QUEUE);
        let client = Client {
            agent: agent(),
            urls,
            cache,
            limit,
        };
        thread::Builder::new()
            .name("debuginfod".to_owned())
            .spawn(move || client.run(&build_ids))?;
        Ok(Self {
            wanted,
            asked: Mutex::default(),
        })
    }

    /// Asks for the debug file of a build-id, once, and waits for nothing.
    pub fn want(&self, build_id: &[u8]) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= MAX_ASKED {
            asked.clear();
        }
        if asked.contains(build_id) {
            return;
        }
        match self.wanted.try_send(build_id.to_vec()) {
            Ok(()) => {
                asked.insert(build_id.to_vec());
            }
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => tracing::error!("the debuginfod thread died"),
        }
    }
}

struct Client {
    agent: ureq::Agent,
    urls: Vec<String>,
    cache: Arc<Cache>,
    limit: u64,
}

impl Client {
    fn run(&self, build_ids: &Receiver<Vec<u8>>) {
        for build_id in build_ids {
            if let Err(error) = self.fetch(&build_id) {
                tracing::warn!("no debug file: {error}");
            }
            if let Err(error) = self.cache.shrink() {
                tracing::warn!("{}: {error}", self.cache.folder().display());
            }
        }
    }

    /// Whether some server had it. A build-id that none has is remembered.
    fn fetch(&self, build_id: &[u8]) -> Result<bool, DownloadError> {
        let path = |kind| {
            self.cache
                .folder()
                .join(format!("{}.{kind}", hex(build_id)))
        };
        let (found, missing) = (path(DEBUG), path(MISSING));
        if found.exists() || is_recent(&missing) {
            return Ok(false);
        }
        let mut failed = None;
        for server in &self.urls {
            let url = format!(
                "{}/buildid/{}/debuginfo",
                server.trim_end_matches('/'),
                hex(build_id)
            );
            match self.fetch_from(&url, build_id, &found) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => {
                let source = self.cache.write(&missing, |_| Ok(()));
                source.map_err(|source| DownloadError::Store {
                    url: missing.display().to_string(),
                    source,
                })?;
                Ok(false)
            }
        }
    }

    fn fetch_from(&self, url: &str, build_id: &[u8], to: &Path) -> Result<bool, DownloadError> {
        let server = |source| DownloadError::Server {
            url: url.to_owned(),
            source: Box::new(source),
        };
        let response = match self.agent.get(url).call() {
            Ok(response) => response,
            Err(ureq::Error::StatusCode(404)) => return Ok(false),
            Err(error) => return Err(server(error)),
        };
        let body = response.into_body().into_with_config().limit(self.limit);
        let mut is_its_own = false;
        self.cache
            .write(to, |file| {
                io::copy(&mut body.reader(), file)?;
                is_its_own = build_id_of(file)? == build_id;
                match is_its_own {
                    true => Ok(()),
                    false => Err(io::ErrorKind::InvalidData.into()),
                }
            })
            .map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => DownloadError::Other(url.to_owned()),
                _ => DownloadError::Store {
                    url: url.to_owned(),
                    source,
                },
            })?;
        Ok(is_its_own)
    }
}

fn build_id_of(file: &fs::File) -> io::Result<Vec<u8>> {
    let image = ElfImage::read(file);
    Ok(image.map(|image| image.build_id(file)).unwrap_or_default())
}

fn is_recent(missing: &Path) -> bool {
    let modified = fs::metadata(missing).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| {
        let age = SystemTime::now().duration_since(time).unwrap_or_default();
        age < MISSING_TIME
    })
}

fn agent() -> ureq::Agent {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(authorities())))
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("profiler-agent/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIME))
        .timeout_recv_response(Some(ANSWER_TIME))
        .timeout_global(Some(WHOLE_TIME))
        .build()
        .new_agent()
}

/// The certificates that this host trusts.
fn authorities() -> Vec<Certificate<'static>> {
    let pem = AUTHORITIES.iter().find_map(|path| fs::read(path).ok());
    let pem = pem.unwrap_or_default();
    CertificateDer::pem_slice_iter(&pem)
        .filter_map(Result::ok)
        .map(|certificate| Certificate::from_der(&certificate).to_owned())
        .collect()
}

#[cfg(test)]
mod tests;
