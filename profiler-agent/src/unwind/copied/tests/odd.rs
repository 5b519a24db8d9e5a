//! Stacks that are hard to walk, of a program that knows its own: `odd.c`.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    thread,
    time::Duration,
};

use profiler_abi::{INTERRUPTED, stack_end};
use tempfile::TempDir;

use super::{
    super::{StackWalker, Walk},
    stopped::{Program, Stopped, vdso},
};
use crate::unwind::elf::{ElfImage, Symbol};

const STOPS: usize = 200;

/// The program, built once.
fn odd() -> PathBuf {
    static BUILT: OnceLock<TempDir> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let built = Command::new("cc")
            .args(["-O2", "-fomit-frame-pointer", "-x", "c", "-o"])
            .arg(folder.path().join("odd"))
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/unwind/copied/tests/odd.c"
            ))
            .args(["-lpthread", "-ldl"])
            .status();
        assert!(built.unwrap().success());
        folder
    });
    folder.path().join("odd")
}

/// Names its functions.
struct Names {
    image: ElfImage,
    symbols: Vec<Symbol>,
}

impl Names {
    fn read() -> Self {
        let file = File::open(odd()).unwrap();
        let image = ElfImage::read(&file).unwrap();
        let symbols = image.symbols_with_prefix(&file, "in_");
        Self { image, symbols }
    }

    fn name(&self, stopped: &Stopped<'_>, pc: u64) -> Option<&str> {
        let mut mappings = stopped.mappings.iter().zip(&stopped.paths);
        let (mapping, _) = mappings.find(|(mapping, path)| {
            (mapping.start..mapping.end).contains(&pc) && path.ends_with("/odd")
        })?;
        let address = self.image.address_of(mapping.offset)? + (pc - mapping.start);
        let mut symbols = self.symbols.iter();
        let symbol = symbols.find(|symbol| address.wrapping_sub(symbol.address) < symbol.size)?;
        Some(&symbol.name)
    }

    /// The functions of the known chain in a stack, outermost first, each once
    /// where it calls itself.
    fn chain(&self, stopped: &Stopped<'_>, walk: &Walk) -> Vec<String> {
        let addresses = walk.frames.iter().enumerate();
        // A return address may be behind its function's end.
        let addresses = addresses.map(|(depth, pc)| match pc & INTERRUPTED {
            0 => pc - u64::from(depth > 0),
            _ => pc & !INTERRUPTED,
        });
        let names = addresses.filter_map(|pc| self.name(stopped, pc));
        let mut chain: Vec<String> = names.map(str::to_owned).collect();
        chain.reverse();
        chain.dedup();
        chain
    }
}

/// Stops the program often while it does `what`, and calls `check` with each
/// stack and its part of the known chain. Returns how often that was the whole
/// of `expected`; it was always the beginning of it.
fn follow(
    what: &str,
    thread: usize,
    expected: &[&str],
    mut check: impl FnMut(&Walk, &[String]),
) -> usize {
    let names = Names::read();
    let mut walker = StackWalker::new(vdso(), StackWalker::DEFAULT_BUDGET);
    let mut program = Program::start(Command::new(odd()).arg(what)).unwrap();
    if thread > 0 {
        program.follow(nth_thread(program.pid(), thread));
    }
    let mut full = 0;
    for _ in 0..STOPS {
        let seen = program.stop(|stopped| {
            let walk = stopped.walk(&mut walker);
            let chain = names.chain(stopped, &walk);
            (walk, chain)
        });
        let (walk, chain) = seen.unwrap();
        let begin = expected.get(..chain.len()).unwrap_or_default();
        assert_eq!(chain, begin, "{what}");
        check(&walk, &chain);
        full += usize::from(chain.len() == expected.len());
    }
    full
}

/// A thread's id, once there are as many.
fn nth_thread(pid: u32, index: usize) -> u32 {
    for _ in 0..1000 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let ids = tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap());
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        if let Some(id) = ids.get(index) {
            return *id;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("process {pid} has no thread {index}");
}

/// Every stack is whole, and most have the whole chain.
fn assert_whole(what: &str, thread: usize, expected: &[&str]) {
    let full = follow(what, thread, expected, |walk, chain| {
        assert_eq!(walk.end, stack_end::WHOLE, "{what}: {chain:?} {walk:x?}");
    });
    // A stop that comes with a signal is seldom in the leaf.
    assert!(full > 0, "{what}");
}

#[test]
fn code_that_a_signal_interrupted() {
    let chain = ["in_signal", "in_interrupted", "in_handler", "in_leaf"];
    assert_whole("signal", 0, &chain);
}

#[test]
fn a_handler_with_a_stack_of_its_own_hides_the_other_one() {
    let chain = ["in_interrupted", "in_handler", "in_leaf"];
    let names = Names::read();
    let mut walker = StackWalker::new(vdso(), StackWalker::DEFAULT_BUDGET);
    let mut program = Program::start(Command::new(odd()).arg("other_stack")).unwrap();
    let mut hidden = 0;
    for _ in 0..STOPS {
        let seen = program.stop(|stopped| {
            let walk = stopped.walk(&mut walker);
            let chain = names.chain(stopped, &walk);
            (walk, chain)
        });
        let (walk, found) = seen.unwrap();
        if found.iter().any(|name| name == "in_handler") {
            assert!(matches!(walk.end, stack_end::CUT | stack_end::UNREADABLE));
            assert_eq!(found, &chain[..found.len()]);
            hidden += 1;
        } else {
            assert_eq!(walk.end, stack_end::WHOLE);
        }
    }
    assert!(hidden > STOPS / 2, "{hidden}");
}

#[test]
fn the_kernels_code_in_user_space() {
    assert_whole("vdso", 0, &["in_vdso"]);
}

#[test]
fn procedure_linkage_tables() {
    assert_whole("linkage", 0, &["in_linkage"]);
}

#[test]
fn frames_that_are_realigned() {
    assert_whole("realigned", 0, &["in_realigned", "in_leaf"]);
}

#[test]
fn libraries_that_were_loaded_later() {
    assert_whole("loaded", 0, &["in_loaded"]);
}

#[test]
fn functions_that_a_library_calls() {
    assert_whole("sort", 0, &["in_sort", "in_compare", "in_leaf"]);
}

#[test]
fn coroutines() {
    assert_whole("coroutine", 0, &["in_coroutine", "in_leaf"]);
}

#[test]
fn threads() {
    assert_whole("thread", 1, &["in_thread", "in_leaf"]);
}

#[test]
fn recursions() {
    let mut deepest = 0;
    let chain = ["in_recursion", "in_leaf"];
    let full = follow("recursion", 0, &chain, |walk, _| {
        assert_eq!(walk.end, stack_end::WHOLE);
        deepest = deepest.max(walk.frames.len());
    });
    assert!(full > STOPS / 2);
    // 400 calls, the leaf, `main`, and three of the C library's.
    assert!(deepest >= 405, "{deepest}");
}
