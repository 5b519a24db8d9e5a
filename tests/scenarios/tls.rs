//! An agent on the network: mutual TLS or nothing.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use profiler_proto::Event;
use profiler_tests::{Agent, Finished, Lab, Reading, run, skip, until};

/// A certificate, its key, and the authority it is from.
struct Identity {
    cert: PathBuf,
    key: PathBuf,
}

/// An authority that certifies.
struct Authority<'a> {
    folder: &'a Path,
    name: &'static str,
    own: Identity,
}

impl<'a> Authority<'a> {
    fn new(folder: &'a Path, name: &'static str) -> Result<Self> {
        let own = Identity::at(folder, name);
        let mut request = Command::new("openssl");
        request
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
            .arg("-keyout")
            .arg(&own.key)
            .arg("-out")
            .arg(&own.cert);
        run(&mut request)?.expect_code(0)?;
        Ok(Self { folder, name, own })
    }

    /// Certifies a new key, for 127.0.0.1.
    fn certify(&self, name: &str) -> Result<Identity> {
        let id = Identity::at(self.folder, &format!("{}-{name}", self.name));
        let (request, extensions) = (id.cert.with_extension("csr"), id.cert.with_extension("ext"));
        std::fs::write(
            &extensions,
            "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
        )?;
        let mut ask = Command::new("openssl");
        ask.args([
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", &format!("/CN={name}")])
        .arg("-keyout")
        .arg(&id.key)
        .arg("-out")
        .arg(&request);
        run(&mut ask)?.expect_code(0)?;
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"])
            .arg(&request)
            .arg("-CA")
            .arg(&self.own.cert)
            .arg("-CAkey")
            .arg(&self.own.key)
            .arg("-extfile")
            .arg(&extensions)
            .arg("-out")
            .arg(&id.cert);
        run(&mut sign)?.expect_code(0)?;
        Ok(id)
    }
}

impl Identity {
    fn at(folder: &Path, name: &str) -> Self {
        Self {
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        }
    }
}

pub(crate) fn tcp_needs_both_certificates(lab: &Lab) -> Result<()> {
    if run(Command::new("openssl").arg("version")).is_err() {
        return Err(skip("openssl is not installed"));
    }
    let folder = lab.folder()?;
    let (ours, theirs) = (
        Authority::new(&folder, "ours")?,
        Authority::new(&folder, "theirs")?,
    );
    let (server, client) = (ours.certify("agent")?, ours.certify("client")?);
    let stranger = theirs.certify("stranger")?;
    let address = free_address()?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let agent = Agent::start(
        lab,
        &[
            "--listen",
            &address,
            "--tls-cert",
            &text(&server.cert),
            "--tls-key",
            &text(&server.key),
            "--tls-client-ca",
            &text(&ours.own.cert),
        ],
    )?;
    // It listens here a moment later than on its socket.
    until(Duration::from_secs(10), || {
        Ok(TcpStream::connect(&address).is_ok())
    })?;
    let out = folder.join("remote.capture");
    let record = |ca: &Identity, identity: &Identity| -> Result<Finished> {
        let mut command = lab.profiler([
            "record", "-e", "cpu", "-d", "300ms", "--host", &address, "-o",
        ])?;
        command
            .arg(&out)
            .arg("--tls-ca")
            .arg(&ca.cert)
            .arg("--tls-cert")
            .arg(&identity.cert)
            .arg("--tls-key")
            .arg(&identity.key);
        run(&mut command)
    };

    record(&ours.own, &client)?.expect_written()?;
    let ledger_of = Reading::open(&out)?;
    println!(
        "over TLS: {} samples",
        ledger_of.ledger(Event::Cpu)?.delivered
    );
    std::fs::remove_file(&out)?;

    for (what, ca, identity) in [
        ("a client of another authority", &ours.own, &stranger),
        ("an agent of another authority", &theirs.own, &client),
    ] {
        let done = record(ca, identity)?;
        println!("{what}: exit code {}: {}", done.code, done.stderr.trim());
        ensure!(
            [1, 5].contains(&done.code),
            "{what} is let in: exit code {}",
            done.code
        );
        done.expect_sentence(&address)?;
        ensure!(!out.exists(), "{what} got a capture");
    }
    without_certificate(&address, &ours)?;
    in_plain_text(&address)?;
    // And it has taken no harm.
    let status = agent.status(lab)?;
    ensure!(status["captures_completed"] == 1, "{status}");
    Ok(())
}

/// openssl plays a client that has none: the agent says what it wants and hangs up.
fn without_certificate(address: &str, authority: &Authority<'_>) -> Result<()> {
    let mut client = Command::new("openssl");
    client
        .args([
            "s_client",
            "-connect",
            address,
            "-alpn",
            "h2",
            "-verify_return_error",
            "-ign_eof",
        ])
        .arg("-CAfile")
        .arg(&authority.own.cert);
    let done = run(&mut client)?;
    let alert = done.stderr.lines().find(|line| line.contains("alert"));
    println!("no certificate: {}", alert.unwrap_or("no alert"));
    ensure!(
        alert.is_some_and(|alert| alert.contains("certificate required")),
        "{done:?}"
    );
    Ok(())
}

/// HTTP/2 without TLS gets no answer in HTTP/2: no SETTINGS frame, whose type is the fourth byte.
fn in_plain_text(address: &str) -> Result<()> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut answer = Vec::new();
    // Closing with bytes unread is a reset, which is an answer too.
    let read = stream.read_to_end(&mut answer);
    println!("plain text: {} bytes back, {read:?}", answer.len());
    let settings = answer.len() >= 9 && answer[3] == 4;
    ensure!(!settings, "the agent speaks plain HTTP/2");
    Ok(())
}

fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.to_string())
}
