//! Commands that read a capture file, and the command line itself.

use std::fs;
use std::process::{Command, Stdio};

use crate::place::{Place, run};
use crate::sample_capture;

#[test]
fn every_command_explains_itself() {
    let place = Place::new();
    let (code, help, _) = run(place.profiler(&["--help"]));
    assert_eq!(code, 0);
    for (number, word) in [
        "complete", "failed", "usage", "partial", "coverage", "denied",
    ]
    .iter()
    .enumerate()
    {
        let line = help
            .lines()
            .find(|l| l.trim_start().starts_with(&format!("{number}  ")));
        assert!(
            line.is_some_and(|line| line.contains(word)),
            "{number}: {line:?}"
        );
    }
    assert!(!help.contains("exec-stopped"), "{help}");
    for command in ["record", "flamegraph", "top", "folded", "doctor", "status"] {
        let (code, help, _) = run(place.profiler(&[command, "--help"]));
        assert_eq!(code, 0, "{command}");
        assert!(help.contains("Examples:"), "{command}");
    }
}

#[test]
fn a_wrong_command_line_is_refused_before_anything_starts() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::capture());
    for args in [
        &["record", "-e", "disk"][..],
        &["record", "-F", "0"],
        &["record", "-F", "fast"],
        &["record", "-d", "10"],
        &["record", "-d", "25h"],
        &["record", "-p", "0"],
        &["record", "--comm", "longer than fifteen"],
        &["record", "--min-coverage", "101"],
        &["record", "-o", "x.txt"],
        &["record", "-o", "x.svg"],
        &["record", "-e", "cpu,io", "-o", "x.pb.gz"],
        &["record", "-p", "1", "--", "true"],
        &["record", "--host", "db1:1"],
        &["record", "--tls-ca", "x"],
        &["record", "--host", "db1:1", "--socket", "/x"],
        &["record", "--output", "yaml"],
        &["top"],
        &["top", "x.capture"],
        &["top", "x.capture", "-e", "disk"],
        &["flamegraph", "x.capture", "-e", "cpu", "-o", "x.txt"],
        &["folded", "x.capture", "-e", "cpu", "-o", "x.svg"],
        &["record", "-e", "cpu", "-o", "-"],
        &["nonsense"],
        &[],
    ] {
        let (code, out, error) = run(place.profiler(args));
        assert_eq!(code, 2, "{args:?}: {error}");
        assert!(out.is_empty() && !error.is_empty(), "{args:?}: {out}");
        assert_eq!(place.files(), ["x.capture"], "{args:?}");
    }
}

#[test]
fn usage_errors_name_the_way_out() {
    let place = Place::new();
    let error = |args: &[&str]| run(place.profiler(args)).2;
    assert!(error(&["record", "-o", "x.txt"]).contains(".svg, .folded, .pb.gz"));
    assert!(error(&["record", "-o", "x.svg"]).contains("-e"));
    let of_picture = error(&["flamegraph", "x.capture", "-o", "x.capture"]);
    assert!(
        of_picture.contains(".svg, .folded, .pb.gz, or be -"),
        "{of_picture}"
    );
    let of_lines = error(&["folded", "x.capture", "-o", "x.svg"]);
    assert!(
        of_lines.contains("must end in .folded, or be -"),
        "{of_lines}"
    );
    assert!(error(&["record", "-e", "disk"]).contains("cpu, offcpu and io"));
}

#[test]
fn a_place_that_cannot_be_written_is_known_before_the_capture() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    for out in ["missing/x.capture", "file/x.capture", "file/"] {
        // The socket is not there either; the output comes first.
        let args = ["record", "-o", out, "--socket", "none.sock"];
        let (code, _, error) = run(place.profiler(&args));
        assert_eq!(code, 1, "{out}: {error}");
        assert!(error.contains(out.trim_end_matches('/')), "{out}: {error}");
        assert_eq!(place.files(), ["file"]);
    }
}

#[test]
fn captures_that_are_none_are_refused_with_a_sentence() {
    let place = Place::new();
    let whole = fs::read(place.write("x.capture", &sample_capture::capture())).unwrap();
    let mut newer = whole.clone();
    newer[8] = 200;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (bytes, says) in [
        (&whole[..whole.len() - 4], "cut"),
        (&whole[..20], "cut"),
        (
            &b"not a capture at all, but long enough"[..],
            "not a capture",
        ),
        (&[][..], "not a capture"),
        (&newer, "version 200"),
        (&damaged, "checksum"),
    ] {
        fs::write(place.path("x.capture"), bytes).unwrap();
        for command in ["top", "folded", "flamegraph"] {
            let (code, out, error) = run(place.profiler(&[command, "x.capture", "-e", "cpu"]));
            assert_eq!(code, 1, "{says}: {error}");
            assert!(out.is_empty(), "{says}: {out}");
            assert!(
                error.contains(says) && error.contains("x.capture"),
                "{says}: {error}"
            );
            assert_eq!(place.files(), ["x.capture"]);
        }
    }
    let (code, _, error) = run(place.profiler(&["top", "none.capture", "-e", "cpu"]));
    assert_eq!(code, 1);
    assert!(
        error.contains("none.capture") && error.contains("No such file"),
        "{error}"
    );
    let (code, _, error) = run(place.profiler(&["top", ".", "-e", "cpu"]));
    assert_eq!(code, 1);
    assert!(error.contains("directory"), "{error}");
}

#[test]
fn an_event_that_was_not_measured_says_why() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::lossy());
    let (code, _, error) = run(place.profiler(&["top", "x.capture", "-e", "io"]));
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
}

#[test]
fn the_only_event_need_not_be_named() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::hostile());
    let (code, out, error) = run(place.profiler(&["folded", "x.capture"]));
    assert_eq!(code, 0, "{error}");
    assert_eq!(out.lines().count(), sample_capture::HOSTILE_NAMES.len());
}

#[test]
fn a_picture_gets_its_name_from_the_capture() {
    let place = Place::new();
    place.write("web.capture", &sample_capture::capture());
    let (code, out, error) = run(place.profiler(&["flamegraph", "web.capture", "-e", "offcpu"]));
    assert_eq!(code, 0, "{error}");
    assert!(out.is_empty());
    assert!(
        error.contains("web.offcpu.svg") && error.contains("left out"),
        "{error}"
    );
    assert_eq!(place.files(), ["web.capture", "web.offcpu.svg"]);
    let (_, out, _) =
        run(place.profiler(&["flamegraph", "web.capture", "-e", "offcpu", "-o", "-"]));
    assert_eq!(
        out,
        fs::read_to_string(place.path("web.offcpu.svg")).unwrap()
    );
}

#[test]
fn folded_lines_go_to_a_file_or_to_standard_output() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::capture());
    let folded = |out: &[&str]| {
        let args = [&["folded", "x.capture", "-e", "cpu"], out].concat();
        run(place.profiler(&args))
    };
    let (_, lines, _) = folded(&[]);
    assert_eq!(folded(&["-o", "-"]).1, lines);
    let (code, out, error) = folded(&["-o", "x.folded"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(error.contains("wrote x.folded"), "{error}");
    assert_eq!(fs::read_to_string(place.path("x.folded")).unwrap(), lines);
    assert_eq!(place.files(), ["x.capture", "x.folded"]);
}

#[test]
fn losses_are_told_beside_every_result() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::lossy());
    let (_, out, _) = run(place.profiler(&["top", "x.capture", "-e", "cpu"]));
    assert!(out.contains("3 lost (ring buffer full)"), "{out}");
    let (_, out, error) = run(place.profiler(&["folded", "x.capture", "-e", "cpu"]));
    assert!(error.contains("3 lost (ring buffer full)"), "{error}");
    assert!(!out.contains("lost"), "{out}");
    let (_, out, _) = run(place.profiler(&["top", "x.capture", "-e", "cpu", "--output", "json"]));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["ledger"][0]["losses"]["ring buffer full"], 3);
    assert_eq!(json["unavailable"][0]["event"], "io");
}

#[test]
fn stacks_that_are_not_whole_are_told_beside_every_result() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::languages());
    let says = "7.0 % of user stacks are not whole: 3.0 % no unwind rule";
    let advice = "`profiler doctor --pid 100` shows why";
    let (_, out, _) = run(place.profiler(&["top", "x.capture", "-e", "cpu"]));
    assert!(out.contains(says) && out.contains(advice), "{out}");
    for args in [
        &["folded", "x.capture", "-e", "cpu"][..],
        &["flamegraph", "x.capture", "-e", "cpu"],
    ] {
        let (_, _, error) = run(place.profiler(args));
        assert!(error.contains(says) && error.contains(advice), "{error}");
        let (_, _, error) = run(place.profiler(&[&args[..3], &["offcpu"]].concat()));
        assert!(!error.contains("not whole"), "{error}");
    }
    let args = ["top", "x.capture", "-e", "cpu", "--output", "json"];
    let json: serde_json::Value = serde_json::from_str(&run(place.profiler(&args)).1).unwrap();
    let cpu = &json["ledger"][0];
    assert_eq!(cpu["user_stacks"]["no unwind rule"], 30);
    assert_eq!(cpu["user_methods"]["copy of the stack"], 40);
}

#[test]
fn lines_are_told_apart_where_they_are_asked_for() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::languages());
    let of = |command: &str, more: &[&str]| {
        let args = [&[command, "x.capture", "-e", "cpu"], more].concat();
        run(place.profiler(&args)).1
    };
    let folded = of("folded", &[]);
    assert!(folded.contains(";handle (app.py) 120"), "{folded}");
    assert!(folded.contains(";core::hash::mix_[i] 130"), "{folded}");
    let folded = of("folded", &["--lines"]);
    assert!(folded.contains(";handle (app.py:17) 120"), "{folded}");
    assert!(
        folded.contains(";core::hash::mix (app.rs:10)_[i] 130"),
        "{folded}"
    );
    let top = of("top", &["--lines"]);
    assert!(top.contains("core::hash::mix (app, app.rs:10)"), "{top}");
    assert!(of("flamegraph", &["--lines", "-o", "-"]).contains(">handle (app.py:17) ("));
    let top = of("top", &["--lines", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&top).unwrap();
    let functions = json["functions"].as_array().unwrap();
    let handle = functions.iter().find(|one| one["line"] == 17).unwrap();
    assert_eq!(handle["function"], "handle");
    assert_eq!(handle["file"], "/srv/app.py");
    assert_eq!(handle["kind"], "interpreted");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::capture());
    for args in [
        ["folded", "x.capture", "-e", "cpu"],
        ["top", "x.capture", "-e", "cpu"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_profiler"))
            .args(args)
            .current_dir(place.path(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(
            output.stderr.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_full_disk_is_an_error_on_standard_output_too() {
    let place = Place::new();
    place.write("x.capture", &sample_capture::capture());
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_profiler"))
        .args(["folded", "x.capture", "-e", "cpu"])
        .current_dir(place.path(""))
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("No space left"), "{error}");
}
