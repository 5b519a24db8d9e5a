//! The agent as a process: how it starts, says that it is ready, and ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Without the configuration of the machine that runs the tests.
fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_profiler-agent"));
    command
        .args(["--config", "/dev/null"])
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = agent(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// Starts a child that ends with its standard input, and waits until it is ready.
fn start(socket: &Path) -> Child {
    let arguments = ["--until-stdin-closes", "--socket", socket.to_str().unwrap()];
    let mut child = agent(&arguments).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert!(socket.exists());
    child
}

/// Waits for the end; returns the exit code and what was logged.
fn end(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), log)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn ends_with_standard_input_but_not_by_sigint() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let mut child = start(&socket);
    signal(&child, Signal::INT);
    drop(child.stdin.take());
    let (code, log) = end(child);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("end of standard input"), "{log}");
    assert!(!log.contains('\x1b'), "coloured without a terminal: {log}");
    assert!(!socket.exists());
}

#[test]
fn ends_by_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let child = start(&socket);
    signal(&child, Signal::TERM);
    let (code, log) = end(child);
    assert_eq!(code, 0, "{log}");
    assert!(!socket.exists());
}

#[test]
fn a_second_agent_does_not_take_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let first = start(&socket);
    let (code, error) = run(&["--socket", socket.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(error.contains("another agent listens on "), "{error}");
    assert!(socket.exists());
    assert_eq!(end(first).0, 0);
}

#[test]
fn a_killed_agents_socket_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let mut first = start(&socket);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(socket.exists());
    assert_eq!(end(start(&socket)).0, 0);
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let notify = folder.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    let socket = folder.path().join("agent.sock");
    let child = agent(&["--socket", socket.to_str().unwrap()])
        .env("NOTIFY_SOCKET", &notify)
        .spawn()
        .unwrap();
    let told = || {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(told(), "READY=1");
    assert!(socket.exists());
    signal(&child, Signal::INT);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(end(child).0, 0);
}

#[test]
fn wrong_configuration_ends_with_2_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "max_sessions = 2\nring_bytes = 5\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_profiler-agent"))
        .args(["--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let place = format!("{}, line 2: `ring_bytes = 5`: ", file.display());
    assert!(error.contains(&place), "{error}");

    let (code, error) = run(&["--listen", "127.0.0.1:7464"]);
    assert_eq!(code, 2);
    assert!(error.contains("mutual TLS"), "{error}");
    assert_eq!(run(&["--ring-bytes", "12"]).0, 2);
}

#[test]
fn what_cannot_start_ends_with_1() {
    let (code, error) = run(&["--socket", "/proc/no/agent.sock"]);
    assert_eq!(code, 1);
    assert!(error.contains("/proc/no"), "{error}");
}

#[test]
fn a_configuration_can_be_checked_without_starting() {
    let mut child = agent(&["--check-config"]).spawn().unwrap();
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "The configuration is valid.\n");
    assert_eq!(end(child).0, 0);

    let tls = [
        "--tls-cert",
        "/no/cert",
        "--tls-key",
        "/no/key",
        "--tls-client-ca",
        "/no/ca",
    ];
    let arguments = [
        &["--check-config", "--listen", "127.0.0.1:7464"],
        tls.as_slice(),
    ]
    .concat();
    let (code, error) = run(&arguments);
    assert_eq!(code, 2);
    assert!(error.contains("tls_cert: cannot read /no/cert"), "{error}");
}
