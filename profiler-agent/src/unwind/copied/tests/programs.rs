//! Stacks of programs that do real work, against what is known of every
//! program: its first thread's stack ends in `_start`.

use std::{collections::BTreeMap, env, process::Command};

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
