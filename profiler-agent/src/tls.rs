//! Mutual TLS: the only way by which the agent serves other hosts.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::config::TlsFiles;

/// How long a client may take to show its certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Read {
        /// The key of the configuration that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{key}: {} holds no {expected} in PEM format: {source}", path.display())]
    NotPem {
        /// The key of the configuration that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What was found.
        source: pem::Error,
    },
    /// The key belongs to another certificate, or is of a kind that cannot be used.
    #[error(
        "the private key in {} does not belong to the certificate in {}: {message}",
        key.display(), cert.display()
    )]
    Pair {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Nothing that clients' certificates could be checked against.
    #[error("tls_client_ca: {} holds a certificate that cannot be used: {message}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Reads and checks the files. Clients must show a certificate of the authority: there is no
/// setting that lets one in without.
///
/// # Errors
/// Says which file cannot be used and why.
pub fn load(files: &TlsFiles) -> Result<ServerTlsConfig, TlsError> {
    let TlsFiles {
        cert,
        key,
        client_ca,
    } = files;
    let cert_pem = read("tls_cert", cert)?;
    let key_pem = read("tls_key", key)?;
    let ca_pem = read("tls_client_ca", client_ca)?;

    let chain = certificates("tls_cert", cert, &cert_pem)?;
    let private_key = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|error| not_pem("tls_key", key, "private key", error))?;
    CertifiedKey::from_der(chain, private_key, &ring::default_provider()).map_err(|error| {
        TlsError::Pair {
            cert: cert.clone(),
            key: key.clone(),
            message: error.to_string(),
        }
    })?;
    check_authorities(
        client_ca,
        certificates("tls_client_ca", client_ca, &ca_pem)?,
    )?;

    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(cert_pem, key_pem))
        .client_ca_root(Certificate::from_pem(ca_pem))
        .client_auth_optional(false)
        .timeout(HANDSHAKE_TIMEOUT))
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        key,
        path: path.to_owned(),
        source,
    })
}

fn certificates(
    key: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(not_pem(key, path, "certificate", pem::Error::NoItemsFound))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(not_pem(key, path, "certificate", error)),
    }
}

fn not_pem(key: &'static str, path: &Path, expected: &'static str, source: pem::Error) -> TlsError {
    TlsError::NotPem {
        key,
        path: path.to_owned(),
        expected,
        source,
    }
}

fn check_authorities(path: &Path, found: Vec<CertificateDer<'static>>) -> Result<(), TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    found
        .into_iter()
        .try_for_each(|certificate| roots.add(certificate))
        .map_err(|error| TlsError::Authority {
            path: path.to_owned(),
            message: error.to_string(),
        })
}
