//! TCP: who is let in, and what the agent says of certificates it cannot use.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use common::Agent;
use profiler_agent::config::{Tcp, TlsFiles};
use profiler_agent::tls;
use profiler_proto::pb::profiler_client::ProfilerClient;
use profiler_proto::pb::{StatusRequest, StatusResponse};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// An authority and what it has signed, for one name.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    /// A certificate and its key.
    fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["agent.test".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The agent's files, and the authorities behind them.
struct Setup {
    folder: TempDir,
    servers: Authority,
    clients: Authority,
}

impl Setup {
    fn new() -> Self {
        let setup = Self {
            folder: tempfile::tempdir().unwrap(),
            servers: Authority::new(),
            clients: Authority::new(),
        };
        let (cert, key) = setup.servers.sign();
        setup.write("cert", &cert);
        setup.write("key", &key);
        setup.write("ca", &setup.clients.pem());
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert: self.path("cert"),
            key: self.path("key"),
            client_ca: self.path("ca"),
        }
    }

    /// What `tls::load` says.
    fn error(&self) -> String {
        tls::load(&self.files()).unwrap_err().to_string()
    }

    fn starts(path: &Path) -> String {
        format!("{} ", path.display())
    }
}

async fn agent(setup: &Setup) -> (Agent, SocketAddr) {
    // Free a moment ago; the agent does not tell which port it got for 0.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap();
    drop(free);
    let tls = setup.files();
    (Agent::start(Some(Tcp { listen, tls })).await, listen)
}

async fn call(endpoint: Endpoint) -> Result<StatusResponse, Box<dyn std::error::Error>> {
    let channel = endpoint.connect().await?;
    let response = ProfilerClient::new(channel)
        .status(StatusRequest {})
        .await?;
    Ok(response.into_inner())
}

fn over_tls(address: SocketAddr, setup: &Setup, identity: Option<&Authority>) -> Endpoint {
    let mut config = ClientTlsConfig::new()
        .domain_name("agent.test")
        .ca_certificate(Certificate::from_pem(setup.servers.pem()));
    if let Some(authority) = identity {
        let (cert, key) = authority.sign();
        config = config.identity(Identity::from_pem(cert, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(config).unwrap()
}

#[tokio::test]
async fn only_certificates_of_the_right_authority_are_let_in() {
    let setup = Setup::new();
    let (agent, address) = agent(&setup).await;

    let right = over_tls(address, &setup, Some(&setup.clients));
    assert_eq!(call(right).await.unwrap().pid, std::process::id());

    let stranger = Authority::new();
    for (who, endpoint) in [
        ("no certificate", over_tls(address, &setup, None)),
        (
            "another authority's",
            over_tls(address, &setup, Some(&stranger)),
        ),
        (
            "the server's authority's",
            over_tls(address, &setup, Some(&setup.servers)),
        ),
        (
            "plain",
            Endpoint::from_shared(format!("http://{address}")).unwrap(),
        ),
    ] {
        assert!(call(endpoint).await.is_err(), "{who} was let in");
    }
    agent.stop().await;
}

#[test]
fn good_files_are_accepted() {
    tls::load(&Setup::new().files()).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    for (name, key) in [
        ("cert", "tls_cert"),
        ("key", "tls_key"),
        ("ca", "tls_client_ca"),
    ] {
        let setup = Setup::new();
        fs::remove_file(setup.path(name)).unwrap();
        let error = setup.error();
        let expected = format!("{key}: cannot read {}: ", setup.path(name).display());
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_file_that_is_not_pem_is_named() {
    for (name, key, what) in [
        ("cert", "tls_cert", "certificate"),
        ("key", "tls_key", "private key"),
        ("ca", "tls_client_ca", "certificate"),
    ] {
        for text in ["", "not PEM", "-----BEGIN CERTIFICATE-----\n%%%\n"] {
            let setup = Setup::new();
            setup.write(name, text);
            let error = setup.error();
            let path = Setup::starts(&setup.path(name));
            let expected = format!("{key}: {path}holds no {what} in PEM format: ");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let setup = Setup::new();
    let (_, other_key) = setup.servers.sign();
    setup.write("key", &other_key);
    let error = setup.error();
    assert!(error.starts_with("the private key in "), "{error}");
    assert!(
        error.contains("does not belong to the certificate in "),
        "{error}"
    );
}

#[test]
fn an_authority_that_is_no_certificate_is_refused() {
    let setup = Setup::new();
    let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    setup.write("ca", text);
    let error = setup.error();
    assert!(
        error.contains("a certificate that cannot be used"),
        "{error}"
    );
}
