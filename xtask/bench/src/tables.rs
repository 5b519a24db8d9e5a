//! What unwind tables take, and how soon they are there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use profiler_proto::{Event, StackEnd};
use profiler_tests::{Agent, Build, Running, Skipped, program, run};

use crate::figure::{
    Figure, Series,
    Unit::{Megabytes, Milliseconds, Percent, Thousands},
};
use crate::lab::{Bench, utc_ns};

/// Targets: millions of bytes on a host with so many processes of so many programs, and milliseconds from exec to
/// the first sample of a large program that is whole.
const TABLES_MB: f64 = 80.0;
const PROCESSES: usize = 200;
const PROGRAMS: usize = 60;
const FIRST_WHOLE: f64 = 1000.0;

/// After that long there is nothing new to build tables of.
const TABLES_ARE_BUILT: Duration = Duration::from_secs(20);

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut series = Series::default();
    build_speed(bench, &mut series)?;
    memory(bench, &mut series)?;
    for _ in 0..bench.pace.latency_runs {
        match large_program(bench, &mut series) {
            Err(error) if error.is::<Skipped>() => {
                eprintln!("==> no large program measured: {error}");
                break;
            }
            measured => measured?,
        }
    }
    Ok(series.figures())
}

/// By the example that builds the table of every file.
fn build_speed(bench: &Bench, series: &mut Series) -> Result<()> {
    const FOLDERS: [&str; 2] = ["/usr/bin", "/usr/lib/x86_64-linux-gnu"];
    let Some(sweep) = &bench.unwind_sweep else {
        eprintln!("==> speed of building tables not measured: no --unwind-sweep");
        return Ok(());
    };
    let done = run(Command::new(sweep).arg("--no-compare").args(FOLDERS))?;
    done.expect_code(0)?;
    // "12.34 s, 5678 rows/s, 4.56 bytes/row"
    let line = done.stdout.lines().find(|line| line.contains(" rows/s"));
    let line = line.context("unwind_sweep tells no rows/s")?;
    let numbers: Vec<_> = line.split(", ").filter_map(first_number).collect();
    let [seconds, rows, bytes] = numbers[..] else {
        anyhow::bail!("unwind_sweep tells {line:?}");
    };
    series
        .add(
            "unwind tables: rows built, one thread",
            Thousands,
            rows / 1e3,
        )
        .note(format!(
            "{seconds:.1} s for {}; {bytes:.2} bytes a row",
            FOLDERS.join(" and ")
        ));
    Ok(())
}

fn first_number(text: &str) -> Option<f64> {
    text.split(' ').next()?.parse().ok()
}

/// A host with many processes of many programs, all of them captured.
fn memory(bench: &Bench, series: &mut Series) -> Result<()> {
    let programs = programs(PROGRAMS)?;
    let settled = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/settled.c");
    let library = bench.lab.scratch().join("libsettled.so");
    Build::Library.compile(&settled, &library, &[])?;
    let mut processes = Vec::new();
    for program in programs.iter().cycle().take(PROCESSES) {
        let mut command = Command::new(program);
        processes.push(Running::start(command.env("LD_PRELOAD", &library))?);
    }
    let agent = Agent::start(&bench.lab, &[])?;
    let capture = bench.capture(&agent, &["-e", "cpu,offcpu", "-F", "99"])?;
    // Tables are built with low priority, beside 200 processes.
    thread::sleep(bench.pace.agent_window.max(TABLES_ARE_BUILT));
    let held = agent.holds()?;
    let mut running = 0;
    for process in &mut processes {
        running += usize::from(!process.has_ended()?);
    }
    let reading = capture.end()?;
    let facts = &reading.capture.facts.unwind;
    series
        .add(
            &format!("unwind tables: memory, {PROCESSES} processes of {PROGRAMS} programs"),
            Megabytes,
            facts.table_bytes as f64 / 1e6,
        )
        .at_most(TABLES_MB)
        .note(format!(
            "{running} of them ran to the end; {} tables in {:.1} s of CPU time, {} refused; {:.0} MB resident",
            facts.tables_built,
            facts.build_cpu_ns as f64 / 1e9,
            facts.tables_refused.values().sum::<u64>(),
            held.rss_bytes as f64 / 1e6,
        ));
    ensure!(
        2 * running > PROCESSES,
        "only {running} of the processes ran"
    );
    Ok(())
}

/// Programs of this machine, evenly chosen among all that are linked dynamically.
fn programs(count: usize) -> Result<Vec<PathBuf>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir("/usr/bin")?
        .flatten()
        .map(|one| one.path())
        .collect();
    entries.sort();
    for path in entries {
        let Ok(real) = path.canonicalize() else {
            continue;
        };
        if seen.insert(real) && is_dynamic_program(&path).unwrap_or(false) {
            found.push(path);
        }
    }
    ensure!(
        found.len() >= count,
        "only {} programs in /usr/bin",
        found.len()
    );
    let step = found.len() / count;
    Ok(found.into_iter().step_by(step.max(1)).take(count).collect())
}

/// An ELF file of 64 bits that names an interpreter, and that has no other user's rights: those ignore LD_PRELOAD.
fn is_dynamic_program(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let mut begin = Vec::new();
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    file.take(4096).read_to_end(&mut begin)?;
    let names_interpreter = begin.windows(8).any(|window| window == b"/ld-linu");
    Ok(begin.starts_with(b"\x7fELF\x02") && names_interpreter && mode & 0o6000 == 0)
}

/// The Rust compiler, most of which is one library of more than 100 MB, compiles something while the whole host is
/// captured by an agent that has never seen it.
fn large_program(bench: &Bench, series: &mut Series) -> Result<()> {
    let sysroot = run(Command::new(program("rustc")?).args(["--print", "sysroot"]))?;
    let rustc = Path::new(sysroot.stdout.trim()).join("bin/rustc");
    let source = bench.lab.scratch().join("large.rs");
    fs::write(&source, LARGE_SOURCE)?;
    let agent = Agent::start(&bench.lab, &[])?;
    let capture = bench.capture(&agent, &["-e", "cpu", "-F", "999"])?;
    let begun_ns = utc_ns(SystemTime::now())?;
    let mut command = Command::new(rustc);
    command.args(["-O", "--edition", "2021", "-o"]);
    let mut compiling = Running::start(command.arg(source.with_extension("out")).arg(&source))?;
    let pid = compiling.pid();
    thread::sleep(Duration::from_secs(3));
    let ended = compiling.has_ended()?;
    drop(compiling);
    let reading = capture.end()?;
    let profile = reading.capture.profile(Event::Cpu).context("no samples")?;
    let dictionary = &reading.capture.dictionary;
    let (mut first_whole, mut late, mut late_whole) = (None, 0, 0);
    for sample in &profile.samples {
        let stack = dictionary.stack(sample.stack);
        let process = dictionary.process(dictionary.thread(sample.thread).process);
        if process.pid != pid || stack.user_end == StackEnd::None {
            continue;
        }
        let in_library = stack.user.iter().any(|id| {
            let mapping = dictionary.mapping(dictionary.frame(*id).mapping);
            mapping.is_some_and(|one| dictionary.string(one.path).contains("librustc_driver"))
        });
        let ms = sample.time_ns.saturating_sub(begun_ns) as f64 / 1e6;
        let is_whole = stack.user_end == StackEnd::Whole;
        if in_library && is_whole {
            first_whole = Some(first_whole.map_or(ms, |first: f64| first.min(ms)));
        }
        if ms > FIRST_WHOLE {
            late += sample.count;
            late_whole += u64::from(is_whole) * sample.count;
        }
    }
    let note = if ended {
        "it compiled in less than 3 s"
    } else {
        "in the first 3 s"
    };
    series
        .add(
            "large program: exec to its first whole stack",
            Milliseconds,
            first_whole.context("no stack of the compiler's library is whole")?,
        )
        .at_most(FIRST_WHOLE)
        .note(format!("rustc; {note}"));
    series
        .add(
            "large program: stacks that are not whole, later than 1 s after exec",
            Percent,
            100.0 * (late - late_whole) as f64 / late.max(1) as f64,
        )
        .note(format!("of {late}"));
    Ok(())
}

/// Takes the compiler some seconds.
const LARGE_SOURCE: &str = r#"
macro_rules! many { ($($name:ident)*) => { $(
    fn $name(text: &str) -> std::collections::BTreeMap<String, Vec<u64>> {
        let mut all = std::collections::BTreeMap::new();
        for (at, word) in text.split(' ').enumerate() {
            let sorted: &mut Vec<u64> = all.entry(format!("{}{word}", stringify!($name))).or_default();
            sorted.push(at as u64);
            sorted.sort_by(|a, b| b.cmp(a));
        }
        all
    }
)* fn main() { for text in std::env::args() { $( println!("{:?}", $name(&text)); )* } } } }
many! { a1 a2 a3 a4 a5 a6 a7 a8 a9 b1 b2 b3 b4 b5 b6 b7 b8 b9 c1 c2 c3 c4 c5 c6 c7 c8 c9 d1 d2 d3 d4 d5 d6 d7 d8 d9 }
"#;
