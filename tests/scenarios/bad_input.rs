//! Wrong flags, targets that are not there, and missing privileges: a sentence and the right exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use profiler_tests::{Agent, Finished, Lab, run};

const COMPLETE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const DENIED: i32 = 5;
/// `nobody`, and a group without rights.
const NOBODY: u32 = 65534;

pub(crate) fn flags_are_usage_errors(lab: &Lab) -> Result<()> {
    let folder = lab.folder()?;
    let cases: &[(&[&str], &str)] = &[
        (&["record", "-F", "0"], "0"),
        (&["record", "-F", "1000000"], "1000000"),
        (&["record", "-d", "0s"], "0s"),
        (&["record", "-d", "soon"], "soon"),
        (&["record", "-e", "cpu,gpu"], "gpu"),
        (&["record", "-p", "0"], "0"),
        (&["record", "-p", "4194305"], "4194305"),
        (&["record", "--comm", "longer than fifteen"], "15 bytes"),
        (&["record", "--no-such-flag"], "--no-such-flag"),
        (&["record", "-p", "1", "--", "true"], "-- <COMMAND>"),
        (&["record", "-o", "two-events.svg"], "two-events.svg"),
        (
            &["record", "-e", "cpu", "-o", "picture.jpeg"],
            "picture.jpeg",
        ),
        (&["record", "--host", "there:1"], "--tls-ca"),
        (&["flamegraph"], "CAPTURE"),
        (&["no-such-command"], "no-such-command"),
    ];
    for (arguments, part) in cases {
        let done = run(lab.profiler(*arguments)?.current_dir(&folder))?;
        let first = done.stderr.lines().next().unwrap_or_default();
        println!("{}: {first}", arguments.join(" "));
        let words = part.trim_start_matches("-- <").trim_end_matches('>');
        done.expect_code(USAGE)?.expect_sentence(words)?;
    }
    let agent =
        |arguments: &[&str]| run(Command::new(lab.binary("profiler-agent")?).args(arguments));
    agent(&["--listen", "127.0.0.1:1"])?
        .expect_code(USAGE)?
        .expect_sentence("tls_cert")?;
    agent(&["--ring-bytes", "1000"])?
        .expect_code(USAGE)?
        .expect_sentence("1000")?;
    ensure!(
        fs::read_dir(&folder)?.next().is_none(),
        "something was written"
    );
    Ok(())
}

pub(crate) fn targets_are_named(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let folder = lab.folder()?;
    let pid = pid_that_is_gone()?.to_string();
    let missing = "/sys/fs/cgroup/profiler-e2e-is-not-there";
    let no_cgroup = folder.to_string_lossy().into_owned();
    let cases: &[(&[&str], &str)] = &[
        (&["-p", &pid], &pid),
        (&["--cgroup", missing], missing),
        (&["--cgroup", &no_cgroup], &no_cgroup),
    ];
    for (arguments, part) in cases {
        let out = folder.join("none.capture");
        let done = run(&mut agent.record(lab, &[&["-d", "10s"], *arguments].concat(), &out)?)?;
        println!(
            "{}: exit code {}: {}",
            arguments.join(" "),
            done.code,
            done.stderr.trim()
        );
        done.expect_sentence(part)?;
        ensure!(
            [FAILED, USAGE].contains(&done.code),
            "exit code {}",
            done.code
        );
        ensure!(
            fs::read_dir(&folder)?.next().is_none(),
            "something was written"
        );
    }
    // A name that nobody has is no error: somebody may yet come to have it.
    let arguments = ["-e", "io", "-d", "200ms", "--comm", "nobody-has-it"];
    let out = folder.join("empty.capture");
    run(&mut agent.record(lab, &arguments, &out)?)?.expect_code(COMPLETE)?;
    Ok(())
}

/// Of a process that has just ended.
fn pid_that_is_gone() -> Result<u32> {
    let mut child = Command::new("true").spawn()?;
    child.wait()?;
    Ok(child.id())
}

pub(crate) fn no_privilege_is_denied(lab: &Lab) -> Result<()> {
    let folder = lab.folder()?;
    open_to_all(lab, &folder)?;
    let own = folder.join("own");
    fs::create_dir(&own)?;
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777))?;
    for name in ["profiler", "profiler-agent"] {
        fs::copy(lab.binary(name)?, folder.join(name))?;
    }
    let as_nobody = |arguments: &[&str]| -> Result<Finished> {
        let mut command = Command::new(folder.join("profiler"));
        command
            .args(arguments)
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir(&own);
        run(&mut command)
    };

    let alone = as_nobody(&["record", "-e", "cpu", "-d", "1s", "-o", "x.capture"])?;
    println!("without an agent: {}", alone.stderr.trim());
    alone.expect_code(DENIED)?.expect_sentence("root")?;

    let agent = Agent::start(lab, &[])?;
    open_to_all(lab, agent.socket().parent().unwrap_or(&folder))?;
    let socket = agent.socket().to_string_lossy();
    let stranger = as_nobody(&[
        "record",
        "-e",
        "cpu",
        "-d",
        "1s",
        "-o",
        "x.capture",
        "--socket",
        &socket,
    ])?;
    println!("with root's agent: {}", stranger.stderr.trim());
    stranger.expect_code(DENIED)?.expect_sentence(&socket)?;
    let status = as_nobody(&["status", "--socket", &socket])?;
    status.expect_code(DENIED)?.expect_sentence(&socket)?;
    ensure!(
        fs::read_dir(&own)?.next().is_none(),
        "something was written"
    );
    Ok(())
}

/// Lets everybody into a folder of the lab.
fn open_to_all(lab: &Lab, folder: &Path) -> Result<()> {
    for folder in [folder, lab.scratch()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
