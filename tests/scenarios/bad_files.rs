//! Places that cannot be written, and captures that are none.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use profiler_tests::{Agent, Lab, Tmpfs, Workload, run};

const COMPLETE: i32 = 0;
const FAILED: i32 = 1;

pub(crate) fn unwritable_places_are_found_early(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let folder = lab.folder()?;
    let read_only = Tmpfs::new(&folder.join("read-only"), 64)?;
    read_only.make_read_only()?;
    let cases = [
        read_only.path().join("x.capture"),
        read_only.path().join("x.svg"),
        read_only.path().join("new/"),
        folder.join("not-there/x.capture"),
        Path::new("/dev/null/x.capture").to_owned(),
    ];
    for out in &cases {
        // Longer than this test may take: it must not come to a capture.
        let done = run(&mut agent.record(lab, &["-e", "cpu", "-d", "1h"], out)?)?;
        println!("{}: {}", out.display(), done.stderr.trim());
        let name = out.to_string_lossy();
        done.expect_code(FAILED)?
            .expect_sentence(name.trim_end_matches('/'))?;
    }
    let status = agent.status(lab)?;
    ensure!(
        status["captures_completed"] == 0 && status["captures_failed"] == 0,
        "{status}"
    );
    Ok(())
}

pub(crate) fn full_disk_leaves_nothing(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let _busy = Workload::start(lab, "waits", &[])?;
    let folder = lab.folder()?;
    // One page: the file can be begun and not finished.
    let disk = Tmpfs::new(&folder.join("full"), 4)?;
    for name in ["x.capture", "x.svg", "new/"] {
        let out = disk.path().join(name);
        let done = run(&mut agent.record(lab, &["-e", "offcpu", "-d", "500ms"], &out)?)?;
        println!("{name}: {}", done.stderr.trim());
        done.expect_code(FAILED)?.expect_sentence("space")?;
        let left: Vec<_> = fs::read_dir(disk.path())?
            .flatten()
            .map(|e| e.path())
            .collect();
        ensure!(left.is_empty(), "{left:?} is left");
    }
    Ok(())
}

pub(crate) fn closed_pipe_is_no_failure(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let capture = lab.folder()?.join("x.capture");
    run(&mut agent.record(lab, &["-d", "300ms"], &capture)?)?.expect_written()?;
    for command in ["top", "folded", "flamegraph"] {
        let mut reader = lab.profiler([command, "-e", "offcpu", "--all"])?;
        if command == "flamegraph" {
            reader.args(["-o", "-"]);
        }
        let (read_end, write_end) = std::io::pipe()?;
        drop(read_end);
        let child = reader
            .arg(&capture)
            .stdout(write_end)
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        let done = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        println!("{command}: {}", done.status);
        ensure!(
            done.status.code() == Some(COMPLETE),
            "{command}: {}: {said}",
            done.status
        );
        ensure!(
            !said.contains("panicked") && !said.contains("pipe"),
            "{command} says {said}"
        );
    }
    Ok(())
}

pub(crate) fn broken_captures_are_refused(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let folder = lab.folder()?;
    let whole = folder.join("whole.capture");
    run(&mut agent.record(lab, &["-e", "cpu", "-d", "300ms"], &whole)?)?.expect_written()?;
    let bytes = fs::read(&whole)?;
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 0x40;
    let mut newer = bytes.clone();
    newer[8] = 99;
    let cases: &[(&str, &[u8], &str)] = &[
        ("empty", &[], "capture"),
        ("header", &bytes[..10], "cut"),
        ("half", &bytes[..bytes.len() / 2], "cut"),
        ("without_end", &bytes[..bytes.len() - 8], "cut"),
        ("last_byte", &bytes[..bytes.len() - 1], "cut"),
        ("flipped", &flipped, "checksum"),
        ("newer", &newer, "99"),
        (
            "foreign",
            b"PK\x03\x04 this is something else altogether",
            "not a capture",
        ),
    ];
    for (name, content, part) in cases {
        let path = folder.join(format!("{name}.capture"));
        fs::write(&path, content)?;
        for command in ["top", "folded", "flamegraph"] {
            let mut reader = lab.profiler([command, "-e", "cpu"])?;
            let done = run(reader.arg(&path).current_dir(&folder))?;
            if command == "top" {
                println!("{name}: {}", done.stderr.trim());
            }
            done.expect_code(FAILED)?
                .expect_sentence(part)?
                .expect_sentence(name)?;
            ensure!(done.stdout.is_empty(), "{command} prints something of it");
        }
        ensure!(
            !folder.join(format!("{name}.cpu.svg")).exists(),
            "a picture of nothing"
        );
    }
    let missing = folder.join("missing.capture");
    let done = run(lab.profiler(["top", "-e", "cpu"])?.arg(&missing))?;
    done.expect_code(FAILED)?
        .expect_sentence("missing.capture")?;
    Ok(())
}
