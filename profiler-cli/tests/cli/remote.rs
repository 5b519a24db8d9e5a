//! An agent on another host: mutual TLS, and nothing less.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::fake_agent::{Behaviour, FakeAgent};
use crate::place::{Place, run};
use crate::sample_capture;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key for localhost, PEM.
fn signed_by(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

struct Remote {
    agent: FakeAgent,
    place: Place,
}

impl Remote {
    /// An agent and a client's files; `client` signs the client's certificate.
    fn new(server: &Authority, client: &Authority) -> Self {
        let (certificate, key) = signed_by(server);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(server.pem()));
        let agent = FakeAgent::start_tls(tls, Behaviour::Deliver, sample_capture::capture());
        let place = Place::new();
        let (certificate, key) = signed_by(client);
        fs::write(place.path("ca.pem"), server.pem()).unwrap();
        fs::write(place.path("me.pem"), certificate).unwrap();
        fs::write(place.path("me.key"), key).unwrap();
        Self { agent, place }
    }

    fn record(&self, ca: &str) -> (i32, String, String) {
        let host = self.agent.address();
        let tls = [
            "--tls-ca",
            ca,
            "--tls-cert",
            "me.pem",
            "--tls-key",
            "me.key",
        ];
        let args = [&["record", "-o", "x.capture", "--host", host][..], &tls].concat();
        run(self.place.profiler(&args))
    }
}

#[test]
fn a_capture_comes_over_mutual_tls() {
    let authority = authority();
    let remote = Remote::new(&authority, &authority);
    let (code, _, error) = remote.record("ca.pem");
    assert_eq!(code, 0, "{error}");
    assert!(remote.place.path("x.capture").exists());
}

#[test]
fn a_certificate_of_somebody_else_is_not_accepted() {
    let (ours, theirs) = (authority(), authority());
    let remote = Remote::new(&ours, &theirs);
    let (code, _, error) = remote.record("ca.pem");
    assert_eq!(code, 5, "{error}");
    assert!(error.contains("certificate"), "{error}");
    assert!(!remote.place.path("x.capture").exists());
}

#[test]
fn an_agent_of_somebody_else_is_not_trusted() {
    let (ours, theirs) = (authority(), authority());
    let remote = Remote::new(&ours, &ours);
    fs::write(remote.place.path("other.pem"), theirs.pem()).unwrap();
    let (code, _, error) = remote.record("other.pem");
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let authority = authority();
    let remote = Remote::new(&authority, &authority);
    let (code, _, error) = remote.record("none.pem");
    assert!(code == 1 && error.contains("none.pem"), "{error}");
    let tls = [
        "--tls-ca",
        "ca.pem",
        "--tls-cert",
        "me.pem",
        "--tls-key",
        "me.key",
    ];
    let args = [&["record", "--host", "localhost"][..], &tls].concat();
    let (code, _, error) = run(remote.place.profiler(&args));
    assert!(code == 2 && error.contains("HOST:PORT"), "{error}");
}
