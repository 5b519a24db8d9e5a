//! Stacks of programs that do real work, against what is known of every
//! program: its first thread's stack ends in `_start`.

use std::{collections::BTreeMap, env, io::Write, process::Command};

use profiler_abi::stack_end;

use super::{
    super::StackWalker,
    stopped::{Program, Stopped, vdso},
};

/// Walks many stacks of a program. Returns how many were walked and how those
/// ended that were not whole.
fn survey(command: &mut Command, stops: usize) -> (usize, BTreeMap<(u8, String), usize>) {
    let mut walker = StackWalker::new(vdso(), StackWalker::DEFAULT_BUDGET);
    let mut program = Program::start(command).unwrap();
    let mut failures = BTreeMap::new();
    let mut walked = 0;
    let mut see = |stopped: &Stopped<'_>| {
        let walk = stopped.walk(&mut walker);
        walked += 1;
        if walk.end != stack_end::WHOLE {
            let frames = walk.frames.iter().map(|frame| stopped.place(*frame));
            let chain = frames.collect::<Vec<_>>().join(" ");
            *failures.entry((walk.end, chain)).or_default() += 1;
        }
    };
    for _ in 0..stops {
        if program.stop(&mut see).is_none() {
            break;
        }
    }
    (walked, failures)
}

#[test]
fn survey_command() {
    let Ok(line) = env::var("STACKS_OF") else {
        return;
    };
    let stops = env::var("STOPS").map_or(1000, |stops| stops.parse().unwrap());
    let (walked, failures) = survey(
        Command::new("sh").arg("-c").arg(format!("exec {line}")),
        stops,
    );
    let failed: usize = failures.values().sum();
    eprintln!("{walked} stacks, {failed} not whole: {line}");
    let mut failures: Vec<_> = failures.into_iter().collect();
    failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for ((end, chain), count) in failures.into_iter().take(12) {
        eprintln!("{count} x end {end}: {chain}");
    }
}

/// Program counters of all frames, leaf first, as gdb has them.
fn gdb(pid: u32) -> Vec<u64> {
    const FRAMES: &str = "set backtrace past-main on
python
frame = gdb.newest_frame()
while frame:
    if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
        print('frame', frame.pc())
    frame = frame.older()
";
    let mut script = tempfile::NamedTempFile::new().unwrap();
    script.write_all(FRAMES.as_bytes()).unwrap();
    let output = Command::new("gdb")
        .args(["-batch", "-nx", "-p", &pid.to_string(), "-x"])
        .arg(script.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let frames = text.lines().filter_map(|line| line.strip_prefix("frame "));
    frames.map(|pc| pc.parse().unwrap()).collect()
}

#[test]
#[ignore = "needs gdb and takes a second per stop"]
fn gdb_walks_the_same() {
    let line = env::var("STACKS_OF").unwrap();
    let stops = env::var("STOPS").map_or(20, |stops| stops.parse().unwrap());
    let mut walker = StackWalker::new(vdso(), StackWalker::DEFAULT_BUDGET);
    let mut program =
        Program::start(Command::new("sh").arg("-c").arg(format!("exec {line}"))).unwrap();
    let mut different = 0;
    for _ in 0..stops {
        let ours = program.stop_and_leave(|stopped| stopped.walk(&mut walker).frames);
        let theirs = gdb(program.pid());
        // It goes on behind the dynamic linker's first function.
        if ours.as_ref().is_none_or(|ours| !theirs.starts_with(ours)) {
            eprintln!("ours   {ours:x?}\ntheirs {theirs:x?}");
            different += 1;
        }
        program.take_back();
    }
    eprintln!("{different} of {stops} stacks differ from gdb's: {line}");
}
