//! Python functions, with every interpreter of this machine whose version is known: what the profiler shows is
//! compared with what the interpreter itself says of its calls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use profiler_proto::{Event, Frame, FrameKind, StackEnd};
use profiler_tests::{Agent, Lab, Reading, Running, Workload, run, skip, until};
use rustix::process::Signal;
use serde::Deserialize;

/// Minor versions that the profiler knows.
const KNOWN: std::ops::RangeInclusive<u32> = 8..=13;

/// Percent of the samples in a function that does the work which show the whole way there, its lines included.
const RIGHT: f64 = 99.0;
/// Percent of all samples that are in such functions: the rest is the way there and back.
const AT_WORK: f64 = 80.0;
/// Percent of the samples in which each call of the interpreter is shown as the functions it ran. The first ones come
/// before the agent knows the process, and what an interpreter does before its first call and after its last has no
/// function.
const MERGED: f64 = 95.0;

/// Frames told of a stack that is wrong.
const SHOWN_FRAMES: usize = 40;

/// Function, file, and line where that is told.
type Call = (String, String, Option<u32>);

/// As `chains.py` writes it.
#[derive(Debug, Deserialize)]
struct Truth {
    /// How each function that does the work is reached, outermost call first.
    ways: BTreeMap<String, BTreeSet<Vec<Call>>>,
}

/// One frame of a merged stack.
#[derive(Debug)]
struct Shown {
    is_python: bool,
    function: String,
    file: String,
    line: u32,
}

pub(crate) fn functions_of_every_version(lab: &Lab) -> Result<()> {
    let interpreters = interpreters();
    if interpreters.is_empty() {
        return Err(skip("no Python from 3.8 to 3.13 is here"));
    }
    let agent = Agent::start(lab, &[])?;
    for (version, interpreter) in &interpreters {
        for arguments in [&[][..], &["threads"]] {
            check(lab, &agent, interpreter, arguments)
                .with_context(|| format!("{version}: {} {arguments:?}", interpreter.display()))?;
        }
    }
    Ok(())
}

/// Version and path of all interpreters on the PATH and below `PYENV_ROOT`.
fn interpreters() -> BTreeMap<String, PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .flat_map(|folder| KNOWN.map(move |minor| folder.join(format!("python3.{minor}"))));
    let root = std::env::var_os("PYENV_ROOT").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    );
    let versions = std::fs::read_dir(root.join("versions"));
    let installed = versions
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin/python3"));
    let told = on_path.chain(installed).filter_map(|interpreter| {
        let said = run(Command::new(&interpreter).arg("--version")).ok()?;
        let version = said.stdout.trim().strip_prefix("Python ")?.to_owned();
        let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
        KNOWN.contains(&minor).then_some((version, interpreter))
    });
    told.collect()
}

fn check(lab: &Lab, agent: &Agent, interpreter: &Path, arguments: &[&str]) -> Result<()> {
    let truth_file = lab.folder()?.join("truth.json");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/chains.py");
    let mut command = Command::new(interpreter);
    command.arg(script).args(arguments);
    let running = Running::start(command.env("TRUTH", &truth_file))?;
    until(std::time::Duration::from_secs(30), || {
        Ok(running.stdout()?.contains("ready"))
    })
    .context("the workload is not ready")?;
    let pid = running.pid();
    let capture = ["-e", "cpu", "-F", "499", "-d", "6s", "-p", &pid.to_string()];
    let reading = agent.capture(lab, &capture)?;
    running.signal(Signal::TERM)?;
    running.wait()?.expect_code(0)?;
    let truth: Truth = serde_json::from_str(&std::fs::read_to_string(&truth_file)?)?;

    let score = Score::of(&truth, &reading, pid)?;
    println!(
        "{} {arguments:?}: {} samples, {} at work, {} of these right; merged {}",
        interpreter.display(),
        score.all,
        score.at_work,
        score.right,
        score.merged
    );
    for wrong in &score.wrong {
        println!("    {wrong}");
    }
    ensure!(score.all > 200, "only {} samples", score.all);
    // Threads that work without the interpreter's lock are in C.
    if arguments.is_empty() {
        ensure!(percent(score.at_work, score.all) >= AT_WORK);
    }
    ensure!(percent(score.right, score.at_work) >= RIGHT);
    ensure!(percent(score.merged, score.all) >= MERGED);
    Ok(())
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

#[derive(Debug, Default)]
struct Score {
    all: u64,
    /// In a function that does the work.
    at_work: u64,
    /// Of these, those that show how the interpreter came there.
    right: u64,
    /// Of all, those without a call of the interpreter that is left as it is.
    merged: u64,
    /// Some that are not right.
    wrong: Vec<String>,
}

impl Score {
    fn of(truth: &Truth, reading: &Reading, pid: u32) -> Result<Self> {
        let dictionary = &reading.capture.dictionary;
        let profile = reading.capture.profile(Event::Cpu).context("no profile")?;
        let mut score = Self::default();
        for sample in &profile.samples {
            let thread = dictionary.thread(sample.thread);
            if dictionary.process(thread.process).pid != pid {
                continue;
            }
            let stack = dictionary.stack(sample.stack);
            let frames = stack.user.iter().rev().map(|id| dictionary.frame(*id));
            let shown: Vec<Shown> = frames.map(|frame| show(reading, frame)).collect();
            // Of a deep recursion the native frames of its first calls are not kept.
            let has_root = stack.user_end != StackEnd::Cut;
            score.add(truth, &shown, has_root, sample.count);
        }
        Ok(score)
    }

    fn add(&mut self, truth: &Truth, shown: &[Shown], has_root: bool, count: u64) {
        self.all += count;
        if shown
            .iter()
            .all(|frame| frame.is_python || frame.function != "_PyEval_EvalFrameDefault")
        {
            self.merged += count;
        }
        let python: Vec<&Shown> = shown.iter().filter(|frame| frame.is_python).collect();
        let at = python
            .iter()
            .position(|frame| truth.ways.contains_key(&frame.function));
        let Some(at) = at else {
            return;
        };
        self.at_work += count;
        let ways = &truth.ways[&python[at].function];
        let is_right = ways.iter().any(|way| is_way(way, &python[..=at]));
        if is_right && is_interleaved(shown, has_root) {
            self.right += count;
        } else if self.wrong.len() < 5 {
            let innermost = shown.iter().rev().take(SHOWN_FRAMES).rev();
            let names = innermost.map(|frame| format!("{}:{}", frame.function, frame.line));
            self.wrong.push(names.collect::<Vec<_>>().join(" "));
        }
    }
}

fn show(reading: &Reading, frame: &Frame) -> Shown {
    let dictionary = &reading.capture.dictionary;
    let line = frame.lines.first();
    let text = |id| dictionary.string(id).to_owned();
    Shown {
        is_python: frame.kind == FrameKind::Interpreted,
        function: line.map_or_else(String::new, |line| text(line.function)),
        file: line.map_or_else(String::new, |line| text(line.file)),
        line: line.map_or(0, |line| line.line),
    }
}

/// The line of the last function is not told, because it is at work.
fn is_way(way: &[Call], python: &[&Shown]) -> bool {
    way.len() == python.len()
        && way
            .iter()
            .zip(python)
            .all(|((function, file, line), shown)| {
                shown.function == *function
                    && shown.file == *file
                    && line.is_none_or(|line| line == shown.line)
            })
}

/// The program begins in C, and between a call of `sorted` and that of its key there is C.
fn is_interleaved(shown: &[Shown], has_root: bool) -> bool {
    let begins_in_c = !has_root || shown.first().is_some_and(|frame| !frame.is_python);
    let mut pairs = shown.windows(2);
    begins_in_c && !pairs.any(|pair| pair[0].function == "sorts" && pair[1].function == "sort_key")
}

/// What a process says of its interpreter may be wrong in every way: its own stacks show it, those of others are
/// whole.
pub(crate) fn an_interpreter_that_lies(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let binary = lab.build(
        "false_python",
        profiler_tests::Build::Frameless,
        &["-rdynamic"],
    )?;
    let liar = Workload::start_command(lab, Command::new(binary))?;
    let pid = liar.pid();
    let arguments = ["-e", "cpu", "-F", "499", "-d", "6s", "-p", &pid.to_string()];
    let reading = agent.capture(lab, &arguments)?;
    liar.finish()?;
    let stacks = reading.stacks_of(Event::Cpu, pid)?;
    let count = |function: &str, chain: &[&str]| {
        let has = stacks.iter().filter(|stack| stack.has(function));
        let (mut all, mut held) = (0, 0);
        for stack in has {
            all += stack.count;
            held += stack.count * u64::from(stack.holds(chain));
        }
        (all, held)
    };
    let (honest, right) = count("honest", &["main", "honest", "outer_", "inner_"]);
    let (lying, native) = count("lying", &["main", "lying"]);
    println!("{right} of {honest} honest samples, {native} of {lying} others");
    println!("the capture says: {:?}", reading.capture.facts.warnings);
    ensure!(honest > 100 && lying > 100);
    // The first samples come before the agent knows the process.
    ensure!(percent(right, honest) >= MERGED);
    ensure!(native == lying);
    reading.ledger(Event::Cpu)?;
    Ok(())
}
