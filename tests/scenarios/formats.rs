//! What comes out: every format opens with what it is made for.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use profiler_proto::Event;
use profiler_tests::{Agent, Lab, Reading, Workload, folded_lines, run};
use quick_xml::events::Event as Xml;

pub(crate) fn directory_has_every_format(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let _busy = [
        Workload::start(lab, "cpu_split", &[])?,
        Workload::start(lab, "waits", &[])?,
    ];
    let folder = lab.folder()?.join("out");
    let with_slash = format!("{}/", folder.display());
    let done = run(&mut agent.record(lab, &["-d", "1s"], Path::new(&with_slash))?)?;
    done.expect_written()?;
    let reading = Reading::open(&folder.join("host.capture"))?;
    let mut expected = BTreeSet::from(["host.capture".to_owned()]);
    for event in Event::ALL {
        let path = |ending: &str| folder.join(format!("{event}.{ending}"));
        expected.extend(["svg", "folded", "pb.gz"].map(|ending| format!("{event}.{ending}")));
        let has_samples = !reading.stacks(event)?.is_empty();
        check_svg(&path("svg"), &reading.capture.facts.host, has_samples)?;
        check_folded(&path("folded"), event, &reading)?;
        // pprof refuses a profile without samples, and the host may have been without I/O.
        if has_samples {
            check_pprof(lab, &path("pb.gz"), event)?;
        }
    }
    let found = names(&folder)?;
    println!("{}", found.iter().cloned().collect::<Vec<_>>().join(" "));
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    Ok(())
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    fs::read_dir(folder)?.map(name).collect()
}

/// Well-formed XML that names the host, with a title on every frame if there are any.
fn check_svg(path: &Path, host: &str, has_samples: bool) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (root, titles) = parse_xml(&text).with_context(|| path.display().to_string())?;
    println!("{}: <{root}>, {titles} titles", path.display());
    ensure!(root == "svg", "no picture but <{root}>");
    ensure!(
        (titles > 0) == has_samples,
        "{titles} titles in {}",
        path.display()
    );
    ensure!(
        text.contains(host),
        "{} does not name the host {host}",
        path.display()
    );
    Ok(())
}

/// Name of the root and number of `title` elements, after a whole pass.
fn parse_xml(text: &str) -> Result<(String, u64)> {
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().check_comments = true;
    let (mut root, mut depth, mut titles) = (None, 0_i64, 0);
    loop {
        let event = reader.read_event()?;
        if let Xml::Start(tag) | Xml::Empty(tag) = &event {
            let name = String::from_utf8(tag.local_name().as_ref().to_vec())?;
            titles += u64::from(name == "title");
            root.get_or_insert(name);
            for attribute in tag.attributes() {
                attribute?;
            }
        }
        match event {
            Xml::Start(_) => depth += 1,
            Xml::End(_) => depth -= 1,
            Xml::Eof => break,
            _ => {}
        }
    }
    ensure!(depth == 0, "{depth} elements are not closed");
    Ok((root.context("no element")?, titles))
}

/// Every line is one, and for cpu they add up to the samples.
fn check_folded(path: &Path, event: Event, reading: &Reading) -> Result<()> {
    let lines = folded_lines(&fs::read_to_string(path)?)?;
    let sum: u64 = lines.iter().map(|(_, weight)| weight).sum();
    let samples = reading.stacks(event)?;
    println!(
        "{}: {} lines, {sum} {}",
        path.display(),
        lines.len(),
        event.folded_unit()
    );
    if event == Event::Cpu {
        let all: u64 = samples.iter().map(|stack| stack.count).sum();
        ensure!(
            sum == all,
            "{sum} samples in the lines, {all} in the capture"
        );
        let chain = "main;serve;accept_job;parse_job;check_job;plan_job;queue_job;take_job;run_job";
        let found = lines.iter().any(|(frames, _)| {
            frames.first().is_some_and(|comm| comm == "cpu_split")
                && frames.join(";").contains(chain)
        });
        ensure!(found, "the workload's chain is in no line");
        ensure!(
            lines
                .iter()
                .any(|(frames, _)| frames.iter().any(|frame| frame.ends_with("_[k]"))),
            "no kernel frame is marked"
        );
    }
    Ok(())
}

/// It unpacks, and pprof itself reads it where Go is installed.
fn check_pprof(lab: &Lab, path: &Path, event: Event) -> Result<()> {
    let mut message = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path)?).read_to_end(&mut message)?;
    ensure!(!message.is_empty());
    let Some(go) = find_go() else {
        println!(
            "{}: go is not installed, so pprof was not asked",
            path.display()
        );
        return Ok(());
    };
    let mut pprof = Command::new(go);
    pprof
        // By what they hold: the leaves are functions inlined into these.
        .args(["tool", "pprof", "-top", "-cum", "-nodecount=80"])
        .arg(path);
    // It writes settings, and looks for binaries.
    pprof
        .env("XDG_CONFIG_HOME", lab.folder()?)
        .env("PPROF_BINARY_PATH", "/nonexistent");
    let done = run(&mut pprof)?;
    if done.stderr.contains("no such tool") {
        println!("{}: this go has no pprof", path.display());
        return Ok(());
    }
    done.expect_code(0)?;
    let first = done.stdout.lines().next().unwrap_or_default();
    println!("{}: pprof says {first}", path.display());
    ensure!(
        done.stdout.contains("flat%"),
        "pprof shows nothing: {}",
        done.stdout
    );
    if event == Event::Cpu {
        ensure!(
            done.stdout.contains("part_large"),
            "not the workload: {}",
            done.stdout
        );
    }
    Ok(())
}

fn find_go() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.push("/usr/local/go/bin".into());
    let mut candidates = folders.into_iter().map(|folder| folder.join("go"));
    candidates.find(|go| go.is_file())
}

pub(crate) fn single_files_and_default_name(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let _busy = Workload::start(lab, "cpu_split", &[])?;
    let folder = lab.folder()?;
    for name in ["cpu.svg", "cpu.folded", "cpu.pb.gz"] {
        let out = folder.join(name);
        run(&mut agent.record(lab, &["-e", "cpu", "-d", "300ms"], &out)?)?.expect_written()?;
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    check_svg(&folder.join("cpu.svg"), host.trim(), true)?;
    folded_lines(&fs::read_to_string(folder.join("cpu.folded"))?)?;
    check_pprof(lab, &folder.join("cpu.pb.gz"), Event::Cpu)?;

    let elsewhere = lab.folder()?;
    let mut record = lab.profiler(["record", "-e", "cpu", "-d", "300ms", "--socket"])?;
    let done = run(record.arg(agent.socket()).current_dir(&elsewhere))?;
    done.expect_written()?;
    let found: Vec<_> = names(&elsewhere)?.into_iter().collect();
    println!("by default: {found:?}");
    let [name] = found.as_slice() else {
        anyhow::bail!("not one file: {found:?}");
    };
    let time = name
        .strip_prefix(&format!("{}-", host.trim()))
        .and_then(|rest| rest.strip_suffix("Z.capture"));
    let digits = |time: &str| time.len() == 15 && time.as_bytes()[8] == b'T';
    ensure!(time.is_some_and(digits), "{name} is not HOST-TIME.capture");
    ensure!(
        done.stdout.contains(name),
        "the summary does not say what was written: {}",
        done.stdout
    );
    Reading::open(&elsewhere.join(name))?;
    Ok(())
}

pub(crate) fn captures_render_again(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let _busy = Workload::start(lab, "cpu_split", &[])?;
    let folder = lab.folder()?;
    let out = folder.join("again.capture");
    run(&mut agent.record(lab, &["-F", "499", "-d", "1s"], &out)?)?.expect_written()?;
    let reading = Reading::open(&out)?;
    let call = |arguments: &[&str]| {
        let mut command = lab.profiler(arguments)?;
        let done = run(command.arg(&out).current_dir(&folder))?;
        done.expect_code(0)?;
        Ok::<_, anyhow::Error>(done.stdout)
    };
    call(&["flamegraph", "-e", "cpu"])?;
    check_svg(
        &folder.join("again.cpu.svg"),
        &reading.capture.facts.host,
        true,
    )?;
    for event in ["cpu", "offcpu", "io"] {
        folded_lines(&call(&["folded", "-e", event])?)?;
    }
    let table = call(&["top", "-e", "cpu", "-n", "100"])?;
    ensure!(table.contains("part_large"), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&call(&["top", "-e", "cpu", "-n", "3", "--output", "json"])?)?;
    let functions = json["functions"]
        .as_array()
        .context("no functions in the JSON")?;
    println!("top of JSON: {}", serde_json::to_string(&functions[0])?);
    ensure!(functions.len() == 3);
    ensure!(json["ledger"].is_array(), "no ledger in the JSON");
    Ok(())
}
