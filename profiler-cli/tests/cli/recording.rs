//! `profiler record`, `status` and `doctor` against an agent that is not one.

use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fake_agent::{Behaviour, FakeAgent};
use crate::place::{Place, names, run};
use crate::sample_capture;
use profiler_proto::{Capture, Event, read_capture};
use rustix::process::{Pid, Signal, kill_process};

struct Bench {
    agent: FakeAgent,
    // The agent's socket is not in the directory whose files are looked at.
    _socket: tempfile::TempDir,
    place: Place,
}

impl Bench {
    fn new(behaviour: Behaviour) -> Self {
        Self::with(behaviour, sample_capture::capture())
    }

    fn with(behaviour: Behaviour, capture: Capture) -> Self {
        let socket = tempfile::tempdir().unwrap();
        let agent = FakeAgent::start(&socket.path().join("agent.sock"), behaviour, capture);
        let place = Place::new();
        Self {
            agent,
            _socket: socket,
            place,
        }
    }

    /// `profiler record`, with the agent's socket before the other arguments.
    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [&["record", "--socket", self.agent.address()], args].concat()
    }

    fn record(&self, args: &[&str]) -> (i32, String, String) {
        run(self.place.profiler(&self.args(args)))
    }

    fn spawn(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_profiler"))
            .args(self.args(args))
            .current_dir(self.place.path(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn capture(&self, name: &str) -> Capture {
        read_capture(File::open(self.place.path(name)).unwrap()).unwrap()
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).unwrap();
}

/// Ends a child that does not end by itself, so that a failing test fails instead of hanging.
fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_o_the_capture_is_named_after_host_and_time() {
    let bench = Bench::new(Behaviour::Deliver);
    let (code, out, error) = bench.record(&[]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert_eq!(bench.place.files(), ["web-1-20261120T135501Z.capture"]);
    assert!(out.contains("core::hash::mix"), "{out}");
    assert!(
        out.contains("wrote web-1-20261120T135501Z.capture"),
        "{out}"
    );
    let mut written = bench.capture("web-1-20261120T135501Z.capture");
    let mut sent = sample_capture::capture();
    written.canonicalize();
    sent.canonicalize();
    assert_eq!(written, sent);
}

#[test]
fn a_second_capture_of_the_same_second_does_not_replace_the_first() {
    let bench = Bench::new(Behaviour::Deliver);
    bench.record(&[]);
    let (code, out, _) = bench.record(&["-e", "cpu"]);
    assert_eq!(code, 0);
    let name = "web-1-20261120T135501Z";
    assert!(out.contains(&format!("wrote {name}-2.capture")), "{out}");
    let files = [format!("{name}-2.capture"), format!("{name}.capture")];
    assert_eq!(bench.place.files(), files);
    let events = |name: &str| bench.capture(name).facts.spec.events.len();
    assert_eq!((events(&files[0]), events(&files[1])), (1, 3));
}

#[test]
fn what_is_removed_is_said() {
    let bench = Bench::new(Behaviour::Deliver);
    bench.record(&["-o", "all/"]);
    let (_, out, _) = bench.record(&["-e", "cpu,offcpu", "-o", "all/"]);
    assert!(
        out.contains("removed all/io.svg, of an earlier capture"),
        "{out}"
    );
    assert!(!bench.place.path("all/io.svg").exists());
}

#[test]
fn flags_arrive_at_the_agent() {
    let bench = Bench::new(Behaviour::Deliver);
    let args = [
        "-e", "io,cpu", "-F", "499", "-d", "250ms", "-p", "7", "-p", "5", "--comm", "nginx",
    ];
    assert_eq!(bench.record(&args).0, 0);
    let spec = bench.agent.spec();
    let target = spec.target.unwrap();
    assert_eq!(spec.events, [Event::Cpu.to_wire(), Event::Io.to_wire()]);
    assert_eq!((spec.frequency_hz, spec.duration_ns), (499, 250_000_000));
    assert_eq!(
        (target.pids, target.comms),
        (vec![5, 7], vec!["nginx".to_owned()])
    );
    assert!(!target.follow_forks);
}

#[test]
fn the_ending_decides_what_is_written() {
    let bench = Bench::new(Behaviour::Deliver);
    for name in ["a.svg", "a.folded", "a.pb.gz", "a.capture"] {
        let (code, _, error) = bench.record(&["-e", "cpu", "-o", name]);
        assert_eq!(code, 0, "{name}: {error}");
    }
    assert_eq!(
        bench.place.files(),
        ["a.capture", "a.folded", "a.pb.gz", "a.svg"]
    );
    assert_eq!(bench.record(&["-o", "all/"]).0, 0);
    let files = names(&bench.place.path("all"));
    assert_eq!(files.len(), 10, "{files:?}");
    assert!(files.contains(&"host.capture".to_owned()) && files.contains(&"offcpu.svg".to_owned()));
}

#[test]
fn what_is_missing_or_lost_decides_the_exit_code() {
    let bench = Bench::with(Behaviour::Deliver, sample_capture::lossy());
    let (code, out, _) = bench.record(&["-o", "x.capture"]);
    assert_eq!(code, 3, "{out}");
    assert!(
        out.contains("io could not be measured") && out.contains("ring buffer full"),
        "{out}"
    );
    assert_eq!(
        bench.record(&["-o", "x.capture", "--min-coverage", "50"]).0,
        4
    );
    let (code, out, _) = bench.record(&[
        "-e",
        "cpu",
        "-o",
        "x.capture",
        "--min-coverage",
        "90",
        "--output",
        "json",
    ]);
    assert_eq!(code, 3);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["verdict"], "partial");
    assert_eq!(json["ledger"][0]["lost"], 4);
    assert_eq!(json["files"][0], "x.capture");
}

#[test]
fn ctrl_c_ends_the_capture_and_writes_it() {
    for stop in [Signal::INT, Signal::TERM, Signal::HUP] {
        let bench = Bench::new(Behaviour::DeliverWhenStopped);
        let child = bench.spawn(&["-o", "x.capture"]);
        bench.agent.await_armed();
        signal(&child, stop);
        let output = finish(child);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(bench.place.files(), ["x.capture"]);
        bench.capture("x.capture");
    }
}

#[test]
fn a_second_ctrl_c_gives_up_and_leaves_nothing() {
    let bench = Bench::new(Behaviour::Hang);
    let child = bench.spawn(&["-o", "new/deep/"]);
    bench.agent.await_armed();
    signal(&child, Signal::INT);
    thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::INT);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("nothing was written"),
        "{}",
        text(&output.stderr)
    );
    assert!(bench.place.files().is_empty(), "{:?}", bench.place.files());
}

#[test]
fn a_second_ctrl_c_leaves_the_command_to_itself_and_says_so() {
    let bench = Bench::new(Behaviour::Hang);
    let child = bench.spawn(&["-o", "x.capture", "--", "sleep", "1"]);
    bench.agent.await_armed();
    signal(&child, Signal::INT);
    thread::sleep(Duration::from_millis(100));
    signal(&child, Signal::INT);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("the command runs on as process") && error.contains("nothing was written"),
        "{error}"
    );
    assert!(bench.place.files().is_empty());
}

#[test]
fn an_agent_that_dies_leaves_a_sentence_and_no_file() {
    let bench = Bench::new(Behaviour::Hang);
    let child = bench.spawn(&["-o", "x.capture"]);
    bench.agent.await_armed();
    let Bench { agent, place, .. } = bench;
    agent.die();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("went away during the capture"),
        "{}",
        text(&output.stderr)
    );
    assert!(place.files().is_empty(), "{:?}", place.files());
}

#[test]
fn half_a_capture_is_none() {
    let bench = Bench::new(Behaviour::HalfOfIt);
    let (code, _, error) = bench.record(&["-o", "x.capture"]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("not a whole capture"), "{error}");
    assert!(bench.place.files().is_empty());
}

#[test]
fn refusals_become_exit_codes() {
    use tonic::Code;
    for (code, exit) in [
        (Code::PermissionDenied, 5),
        (Code::Unauthenticated, 5),
        (Code::InvalidArgument, 2),
        (Code::NotFound, 1),
        (Code::ResourceExhausted, 1),
    ] {
        let bench = Bench::new(Behaviour::Refuse(code, "process 77 is not there"));
        let (got, out, error) = bench.record(&["-p", "77"]);
        assert_eq!(got, exit, "{code:?}: {error}");
        assert!(
            error.contains("process 77 is not there") && out.is_empty(),
            "{error}"
        );
        assert!(bench.place.files().is_empty());
    }
}

#[test]
fn a_command_runs_once_the_capture_is_armed_and_its_exit_code_is_passed_on() {
    let bench = Bench::new(Behaviour::DeliverWhenStopped);
    let script = "echo to stdout; echo to stderr >&2; exit 7";
    let (code, out, error) = bench.record(&["-o", "x.capture", "--", "sh", "-c", script]);
    assert_eq!((code, out.as_str()), (7, "to stdout\n"), "{error}");
    assert!(
        error.contains("to stderr") && error.contains("wrote x.capture"),
        "{error}"
    );
    let command = bench.capture("x.capture").facts.command.unwrap();
    assert_eq!(command.argv, ["sh", "-c", script]);
    assert_eq!(command.exit_code, 7);
    let target = bench.agent.spec().target.unwrap();
    assert!(target.follow_forks && target.pids.len() == 1);
}

#[test]
fn a_command_ended_by_a_signal_is_reported_as_a_shell_does() {
    let bench = Bench::new(Behaviour::DeliverWhenStopped);
    let (code, _, _) = bench.record(&["-o", "x.capture", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(code, 137);
    assert_eq!(
        bench.capture("x.capture").facts.command.unwrap().exit_code,
        137
    );
}

#[test]
fn a_command_outlives_the_capture() {
    let bench = Bench::new(Behaviour::Deliver);
    let (code, out, _) = bench.record(&[
        "-d",
        "100ms",
        "--",
        "sh",
        "-c",
        "sleep 0.5; echo end; exit 3",
    ]);
    assert_eq!((code, out.as_str()), (3, "end\n"));
}

#[test]
fn the_profiler_s_own_failure_wins_over_the_command_s_exit_code() {
    let bench = Bench::with(Behaviour::DeliverWhenStopped, sample_capture::lossy());
    assert_eq!(bench.record(&["--", "true"]).0, 0);
    assert_eq!(bench.record(&["--min-coverage", "99", "--", "true"]).0, 4);
    let bench = Bench::new(Behaviour::HalfOfIt);
    let (code, out, error) = bench.record(&["--", "sh", "-c", "sleep 0.3; echo end"]);
    assert_eq!((code, out.as_str()), (1, "end\n"), "{error}");
}

#[test]
fn a_command_runs_on_where_the_agent_dies() {
    let bench = Bench::new(Behaviour::Hang);
    let child = bench.spawn(&["--", "sh", "-c", "sleep 1; echo end"]);
    bench.agent.await_armed();
    let Bench { agent, place, .. } = bench;
    agent.die();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "end\n");
    let error = text(&output.stderr);
    assert!(error.contains("the command runs on as process"), "{error}");
    assert_eq!(error.matches("went away").count(), 1, "{error}");
    assert!(place.files().is_empty());
}

#[test]
fn a_command_that_cannot_run_is_reported_as_a_shell_does() {
    let bench = Bench::new(Behaviour::DeliverWhenStopped);
    fs::write(bench.place.path("plain"), "text").unwrap();
    fs::write(bench.place.path("no-interpreter"), "#!/no/such/shell\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bench.place.path("no-interpreter"), mode).unwrap();
    for (command, exit) in [
        ("no-such-command", 127),
        ("./plain", 126),
        ("./no-interpreter", 127),
    ] {
        let (code, out, error) = bench.record(&["-o", "x.capture", "--", command]);
        assert_eq!(code, exit, "{command}: {error}");
        assert!(
            error.contains("cannot run") && error.contains(command),
            "{error}"
        );
        assert!(
            out.is_empty() && !bench.place.path("x.capture").exists(),
            "{command}"
        );
    }
}

#[test]
fn a_refused_capture_leaves_no_stopped_command() {
    let bench = Bench::new(Behaviour::Refuse(tonic::Code::PermissionDenied, "no"));
    let marker = bench.place.path("ran");
    let (code, _, _) = bench.record(&["--", "touch", marker.to_str().unwrap()]);
    assert_eq!(code, 5);
    assert!(!marker.exists());
    // The command's process would have our marker as an argument.
    let left = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        text(&line).contains(marker.to_str().unwrap())
    });
    assert!(!left);
}

#[test]
fn nobody_at_the_socket_is_a_sentence() {
    let place = Place::new();
    for command in ["record", "status", "doctor"] {
        let (code, out, error) = run(place.profiler(&[command, "--socket", "none.sock"]));
        assert_eq!(code, 1, "{error}");
        assert!(
            error.contains("no agent answers at none.sock") && out.is_empty(),
            "{error}"
        );
        assert!(place.files().is_empty());
    }
}

#[test]
fn status_and_doctor_print_and_judge() {
    let bench = Bench::new(Behaviour::Deliver);
    let ask = |command: &str, output: &str| {
        let args = [
            command,
            "--socket",
            bench.agent.address(),
            "--output",
            output,
        ];
        run(bench.place.profiler(&args))
    };
    let (code, out, _) = ask("status", "text");
    assert!(code == 0 && out.contains("web-1"), "{out}");
    let (code, out, _) = ask("doctor", "text");
    assert!(
        code == 3 && out.contains("cannot be measured here"),
        "{out}"
    );
    for command in ["status", "doctor"] {
        let (_, out, _) = ask(command, "json");
        assert!(
            serde_json::from_str::<serde_json::Value>(&out).is_ok(),
            "{out}"
        );
    }
}

#[test]
fn doctor_looks_at_one_process() {
    let bench = Bench::new(Behaviour::Deliver);
    let ask = |pid: &str| {
        let args = ["doctor", "--socket", bench.agent.address(), "--pid", pid];
        run(bench.place.profiler(&args))
    };
    let (code, out, _) = ask("812");
    assert!(code == 3 && out.contains("812 node"), "{out}");
    let (code, out, error) = ask("9");
    assert!(code == 1 && out.is_empty(), "{out}");
    assert!(error.contains("there is no process 9"), "{error}");
    let (code, _, error) = ask("1");
    assert!(code == 5 && error.contains("not yours"), "{error}");
    let (code, _, error) = ask("0");
    assert!(code == 2, "{error}");
}
