//! Stacks of programs that do real work, against what is known of every
//! program: its first thread's stack ends in its first function. And, for
//! those who ask for it, against gdb.

use std::{
    collections::BTreeMap,
    env,
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

use profiler_abi::{INTERRUPTED, stack_end};

use super::{
    super::StackWalker,
    stopped::{Program, Stopped, vdso},
};

/// What came of many stacks.
#[derive(Default)]
struct Survey {
    stacks: usize,
    frames: usize,
    /// How those ended that were not whole, with their frames.
    not_whole: BTreeMap<(u8, String), usize>,
    /// What walking took by a walker that knew nothing yet, and by one that had
    /// walked the same stack.
    cold: Duration,
    warm: Duration,
}

impl Survey {
    fn of(command: &mut Command, stops: usize) -> Self {
        let mut this = Self::default();
        let mut walker = StackWalker::new(vdso(), StackWalker::DEFAULT_BUDGET);
        let mut program = Program::start(command).unwrap();
        for _ in 0..stops {
            if program
                .stop(|stopped| this.add(stopped, &mut walker))
                .is_none()
            {
                break;
            }
        }
        this
    }

    fn add(&mut self, stopped: &Stopped<'_>, walker: &mut StackWalker) {
        let mut cold = StackWalker::new(vdso(), StackWalker::DEFAULT_BUDGET);
        let start = Instant::now();
        stopped.walk(&mut cold);
        self.cold += start.elapsed();
        let walk = stopped.walk(walker);
        let start = Instant::now();
        assert_eq!(stopped.walk(walker), walk);
        self.warm += start.elapsed();
        self.stacks += 1;
        self.frames += walk.frames.len();
        if walk.end != stack_end::WHOLE {
            let places = walk.frames.iter().map(|frame| stopped.place(*frame));
            let places: Vec<String> = places.collect();
            let key = (walk.end, places.join(" "));
            *self.not_whole.entry(key).or_default() += 1;
        }
    }

    fn count_not_whole(&self) -> usize {
        self.not_whole.values().sum()
    }
}

#[test]
fn programs_that_every_system_has() {
    for line in ["while :; do true; done", "exec gzip -9 < /dev/urandom"] {
        let survey = Survey::of(Command::new("sh").args(["-c", line]), 400);
        assert_eq!(survey.stacks, 400, "{line}");
        // At most 0.5 %.
        let bad = survey.count_not_whole();
        assert!(bad <= 2, "{line}: {bad} {:?}", survey.not_whole);
    }
}

/// The command in `STACKS_OF`, stopped `STOPS` times.
fn asked_for(default_stops: usize) -> (String, usize) {
    let line = env::var("STACKS_OF").unwrap();
    let stops = env::var("STOPS").map_or(default_stops, |stops| stops.parse().unwrap());
    (line, stops)
}

#[test]
#[ignore = "needs a command in STACKS_OF, and prints"]
fn survey() {
    let (line, stops) = asked_for(1000);
    let command = format!("exec {line}");
    let survey = Survey::of(Command::new("sh").args(["-c", &command]), stops);
    let (stacks, frames) = (survey.stacks, survey.frames);
    let bad = survey.count_not_whole();
    eprintln!("{stacks} stacks of {frames} frames, {bad} not whole: {line}");
    for (name, time) in [("cold", survey.cold), ("warm", survey.warm)] {
        let ns = time.as_nanos();
        let (stack, frame) = (ns / stacks as u128, ns / frames as u128);
        eprintln!("{name}: {stack} ns per stack, {frame} ns per frame");
    }
    let mut not_whole: Vec<_> = survey.not_whole.into_iter().collect();
    not_whole.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for ((end, places), count) in not_whole.into_iter().take(12) {
        eprintln!("{count} x end {end}: {places}");
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
#[ignore = "needs a command in STACKS_OF, gdb, and a second per stop"]
fn gdb_walks_the_same() {
    let (line, stops) = asked_for(20);
    let command = format!("exec {line}");
    let mut walker = StackWalker::new(vdso(), StackWalker::DEFAULT_BUDGET);
    let mut program = Program::start(Command::new("sh").args(["-c", &command])).unwrap();
    let mut different = 0;
    for _ in 0..stops {
        let ours = program.stop_and_leave(|stopped| stopped.walk(&mut walker).frames);
        let ours: Vec<u64> = ours.unwrap().iter().map(|pc| pc & !INTERRUPTED).collect();
        let theirs = gdb(program.pid());
        // It goes on behind the dynamic linker's first function.
        if !theirs.starts_with(&ours) {
            eprintln!("ours   {ours:x?}\ntheirs {theirs:x?}");
            different += 1;
        }
        program.take_back();
    }
    eprintln!("{different} of {stops} stacks differ from gdb's: {line}");
    // A program with a timer may have been interrupted in between.
    assert!(different * 10 <= stops, "{different} of {stops}");
}
