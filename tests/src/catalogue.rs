//! The workloads whose stacks are known to the last frame: how they are built and started, and what they look like.

use std::process::Command;

use anyhow::{Context, Result};

use crate::score::{Chain, Expected, Root};
use crate::{Build, Lab, Skipped, Workload};

/// One of `workloads/`, in one way it can be built and started.
#[derive(Clone, Debug)]
pub struct Work {
    /// In tables.
    pub name: String,
    /// What its stacks are.
    pub expected: Expected,
    /// Command name of its children, where those are what is to be looked at.
    pub children: Option<&'static str>,
    source: &'static str,
    build: Build,
    /// A library it is linked with.
    library: Option<&'static str>,
    arguments: Vec<Argument>,
}

/// An argument for a workload.
#[derive(Clone, Debug)]
enum Argument {
    Text(String),
    /// Path of another workload that is built as a library.
    Library(&'static str),
    /// Path of another workload that is built the same way.
    Program(&'static str),
}

impl Work {
    fn new(source: &'static str, build: Build, expected: Expected) -> Self {
        let name = match build {
            Build::Frameless => source.to_owned(),
            _ => format!("{source} ({})", build.name()),
        };
        Self {
            name,
            expected,
            children: None,
            source,
            build,
            library: None,
            arguments: Vec::new(),
        }
    }

    fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn argument(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Command name of its process.
    pub fn source(&self) -> &str {
        self.source
    }

    /// Compiles it, where that was not done before.
    ///
    /// # Errors
    /// Skips the test where this machine cannot compile it.
    pub fn command(&self, lab: &Lab) -> Result<Command> {
        let mut after = vec!["-ldl".to_owned()];
        if let Some(name) = self.library {
            let library = lab.build(name, Build::Library, &[])?;
            let folder = library.parent().context("a library without a folder")?;
            after.push(library.display().to_string());
            after.push(format!("-Wl,-rpath,{}", folder.display()));
        }
        let after: Vec<_> = after.iter().map(String::as_str).collect();
        let mut command = Command::new(lab.build(self.source, self.build, &after)?);
        for argument in &self.arguments {
            match argument {
                Argument::Text(text) => command.arg(text),
                Argument::Library(name) => command.arg(lab.build(name, Build::Library, &[])?),
                Argument::Program(name) => command.arg(lab.build(name, self.build, &[])?),
            };
        }
        Ok(command)
    }

    /// Starts it.
    ///
    /// # Errors
    /// As [`Self::command`]; fails where it does not get to work.
    pub fn start(&self, lab: &Lab) -> Result<Workload> {
        Workload::start_command(lab, self.command(lab)?)
    }
}

/// Those of the workloads that this machine can compile; says of the others why not.
///
/// # Errors
/// Fails where a compiler refuses.
pub fn available(lab: &Lab, works: Vec<Work>) -> Result<Vec<Work>> {
    let mut available = Vec::new();
    for work in works {
        match work.command(lab) {
            Ok(_) => available.push(work),
            Err(error) if error.is::<Skipped>() => println!("{}: left out, {error}", work.name),
            Err(error) => return Err(error),
        }
    }
    Ok(available)
}

fn main_chain(leaf: &str, between: &[&str]) -> Chain {
    rooted_chain(Root::Main, leaf, between)
}

fn rooted_chain(root: Root, leaf: &str, between: &[&str]) -> Chain {
    let steps = ["main", "drive"].iter().chain(between).chain([&leaf]);
    let steps: Vec<_> = steps.copied().chain(["churn ?"]).collect();
    Chain::new(leaf, root, &steps)
}

const MAIN_DRIVE: (Root, &[&str]) = (Root::Main, &["main", "drive"]);

/// A chain of calls of a known depth; frames above and below `levels` come on top.
pub fn deep(levels: usize, build: Build) -> Work {
    let names: Vec<_> = (0..levels).map(|at| format!("level_{}", at % 5)).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let parts = ["part_large", "part_middle", "part_small"];
    let root = match build {
        Build::Musl => Root::Musl,
        _ => Root::Main,
    };
    let chains = parts.map(|part| rooted_chain(root, part, &names)).to_vec();
    let expected = Expected::new(chains, &[(root, &["main", "drive"])]);
    let work = Work::new("deep", build, expected);
    let suffix = match build {
        Build::Frameless => String::new(),
        _ => format!(" ({})", build.name()),
    };
    work.named(format!("{levels} levels{suffix}"))
        .argument(Argument::Text(levels.to_string()))
}

/// Callbacks out of libc.
pub fn callbacks(build: Build) -> Work {
    let sort = "@libc/qsort%/__qsort%/msort_with_tmp%/__GI_%/@ld-musl *";
    let search = "@libc/bsearch/__GI_%/@ld-musl *";
    let chains = vec![
        main_chain("compare_cost", &["sort_all", sort, "compare"]),
        main_chain("probe_cost", &["find_all", search, "probe"]),
    ];
    Work::new("callbacks", build, Expected::new(chains, &[MAIN_DRIVE]))
}

/// 32 threads.
pub fn threads() -> Work {
    let chain = |kind: usize| {
        let leaf = format!("part_{kind}");
        let steps = ["body", "stage_a", "stage_b", leaf.as_str()];
        Chain::new(&leaf, Root::Thread, &steps)
    };
    let expected = Expected::new((0..4).map(chain).collect(), &[(Root::Thread, &["body"])])
        .also(Root::Thread, &["body", "sleep_ns", "@libc *"])
        .also(
            Root::Main,
            &["main", "wait_for_stop ?", "sleep_ns", "@libc *"],
        );
    Work::new("threads", Build::Frameless, expected).argument(Argument::Text("32".to_owned()))
}

/// C++: exceptions, virtual calls, lambdas, callbacks out of templates.
pub fn objects() -> Work {
    const LIBRARIES: &str = "@libstdc++/@libgcc_s/@libc/@ld-linux/app::Guard::% *";
    let chain = |leaf: &str, steps: &[&str]| {
        let steps = [&["main", "app::drive"], steps].concat();
        Chain::new(leaf, Root::Main, &steps)
    };
    let chains = vec![
        chain(
            "app::word_cost",
            &[
                "app::sort_words",
                "std::%/__gnu_cxx::%/app::sort_words% *",
                "app::word_cost",
            ],
        ),
        chain("app::catch_cost", &["app::fail_once", "app::catch_cost"]),
        chain(
            "app::shape_cost",
            &[
                "app::draw_all",
                "app::Circle::draw",
                "std::%/main::%/operator% *",
                "app::shape_cost",
            ],
        ),
        // Guards of both functions are destroyed on the way up.
        chain(
            "app::middle",
            &["app::fail_often", "app::outer", "app::middle", LIBRARIES],
        ),
        // The second one while the stack is being put back, when it is between two states.
        chain(
            "app::outer",
            &["app::fail_often", "app::outer", "app::outer ?", LIBRARIES],
        ),
        chain("app::fail_often", &["app::fail_often", LIBRARIES]),
        chain(
            "app::middle",
            &["app::fail_once", "app::outer", "app::middle", LIBRARIES],
        ),
        chain("app::outer", &["app::fail_once", "app::outer", LIBRARIES]),
        chain("app::fail_once", &["app::fail_once", LIBRARIES]),
    ];
    let place: &[&str] = &["main", "app::drive"];
    let expected = Expected::new(chains, &[(Root::Main, place)]).also(
        Root::Main,
        &[place, &["app::sort_words ?", LIBRARIES]].concat(),
    );
    Work::new("objects", Build::Frameless, expected).named("C++ objects")
}

/// Rust in release mode, by its own linker.
pub fn rusty() -> Work {
    const STD: &str =
        "std::%/core::%/alloc::%/<alloc::%/<core::%/<std::%/<&%/__rust%/rust_%/<rusty::% *";
    const UNWINDER: &str = "std::%/core::%/alloc::%/<%/__rust%/rust_%/_Unwind%/_R%/rusty::fail_inside/\
                            rusty::fail/rusty::main::%/rusty::drive::%/@libgcc_s/@libc/@ld-linux *";
    let chain = |leaf: &str, steps: &[&str]| {
        let steps = [&["main", STD, "rusty::main", "rusty::drive"], steps].concat();
        Chain::new(leaf, Root::Main, &steps)
    };
    let chains = vec![
        chain(
            "rusty::compare_cost",
            &["rusty::sort_items", STD, "rusty::compare_cost"],
        ),
        chain(
            "rusty::shape_cost",
            &[
                "rusty::draw_all",
                "<rusty::Circle as rusty::Shape>::draw",
                "rusty::shape_cost",
            ],
        ),
        chain("rusty::caught_cost", &["rusty::fail", "rusty::caught_cost"]),
        chain("rusty::fail_inside", &["rusty::fail", UNWINDER]),
        chain("rusty::fail", &["rusty::fail", UNWINDER]),
        Chain::new(
            "rusty::thread_cost",
            Root::Thread,
            &[STD, "rusty::body", "rusty::thread_cost"],
        ),
    ];
    let place: &[&str] = &["main", STD, "rusty::main", "rusty::drive"];
    let body: &[&str] = &[STD, "rusty::body"];
    let expected = Expected::new(chains, &[(Root::Main, place), (Root::Thread, body)])
        .also(
            Root::Main,
            &[place, &["rusty::draw_all", "<rusty::% *"]].concat(),
        )
        .also(Root::Thread, &[STD, "rusty::body", "std::%/@libc *"]);
    Work::new("rusty", Build::Frameless, expected).named("Rust release")
}

/// Frames that are not like others.
pub fn odd() -> Work {
    const RAISE: &str = "@libc/@[vdso] *";
    let mut chains = vec![
        Chain::new(
            "ask_clock",
            Root::Main,
            &["main", "drive", "ask_clock", "@libc/@[vdso]/@linux-vdso *"],
        ),
        main_chain("signal_cost", &["raise_it", RAISE, "on_signal"]),
        main_chain("other_cost", &["raise_other", RAISE, "on_other"]),
        main_chain("aligned_cost", &["align_stack"]),
        main_chain("variable_cost", &["grow_stack"]),
        main_chain("loaded_cost", &["call_loaded", "loaded_entry"]),
        main_chain("tail_cost", &["tail_last"]),
        main_chain("assembly_cost", &["asm_outer", "asm_inner"]),
    ];
    chains.push(Chain::new(
        "coroutine_cost",
        Root::Own,
        &["coroutine", "coroutine_cost"],
    ));
    let expected = Expected::new(chains, &[MAIN_DRIVE])
        .also(
            Root::Main,
            &["main", "drive", "raise_it/raise_other", "@libc *"],
        )
        .also(Root::Main, &["main", "drive", "resume", "@libc *"])
        .also(Root::Own, &["coroutine", "@libc *"]);
    Work::new("odd", Build::Frameless, expected)
        .named("odd frames")
        .argument(Argument::Library("loaded"))
}

/// Signals at any instruction.
pub fn interrupted() -> Work {
    let handler = ["@libc", "on_timer"];
    let interrupted = |steps: &[&str]| main_chain("timer_cost", &[steps, &handler].concat());
    let calm = |steps: &[&str]| {
        Chain::new(
            "busy",
            Root::Main,
            &[&["main", "drive", "busy"], steps].concat(),
        )
    };
    let chains = vec![
        interrupted(&["busy ?"]),
        interrupted(&["busy", "small_1", "small_2 ?", "small_3 ?"]),
        interrupted(&["span_begin/span_end", "% *"]),
        calm(&["small_1", "small_2", "small_3"]),
        calm(&["small_1", "small_3"]),
    ];
    let expected = Expected::new(chains, &[MAIN_DRIVE]);
    Work::new("interrupted", Build::Frameless, expected)
}

/// Samples in linkage tables.
pub fn plt(build: Build) -> Work {
    // A table's entry may have a name, such as `tiny_1@plt`, or none.
    let entry = "tiny_1%/tiny_2%/tiny_3%/tiny_4%/@plt *";
    let chain = Chain::new(
        "call_tiny",
        Root::Main,
        &["main", "drive", "call_tiny", entry],
    );
    let mut work = Work::new("plt", build, Expected::new(vec![chain], &[MAIN_DRIVE]));
    work.library = Some("tiny");
    work
}

/// Code made at run time.
pub fn jit() -> Work {
    let chains = vec![
        main_chain("native_cost", &["enter_code", "jit_call", "native"]),
        main_chain("jit_spin", &["enter_code"]),
    ];
    Work::new(
        "jit",
        Build::Frameless,
        Expected::new(chains, &[MAIN_DRIVE]),
    )
    .named("JIT")
}

/// Go.
pub fn gopher() -> Work {
    // The runtime interrupts goroutines by a signal, to let others run.
    const SIGNAL: &str = "runtime.% *";
    let chain = |leaf: &str| {
        let steps = [
            "main.main.% ?",
            "main.body",
            "main.outer",
            "main.middle",
            leaf,
            SIGNAL,
        ];
        Chain::new(leaf, Root::Goroutine, &steps)
    };
    let chains = vec![chain("main.leafCost"), chain("main.framedCost")];
    let body = ["main.main.% ?", "main.body"];
    let interrupted = |steps: &[&'static str]| [&body[..], steps, &[SIGNAL]].concat();
    let expected = Expected::new(chains, &[])
        .also(Root::Goroutine, &interrupted(&[]))
        .also(Root::Goroutine, &interrupted(&["main.outer"]))
        .also(
            Root::Goroutine,
            &interrupted(&["main.outer", "main.middle"]),
        )
        .also(Root::Goroutine, &[&body[..], &["main.now", "% *"]].concat())
        // The runtime's own threads and stacks.
        .also(Root::Own, &["runtime.%", "% *"]);
    Work::new("gopher", Build::Frameless, expected).named("Go")
}

/// 65,536 different stacks.
pub fn many_stacks(us_each: u32) -> Work {
    let steps = ["walk"].into_iter().chain(["left/right"; 16]);
    let chain = main_chain("path_cost", &steps.collect::<Vec<_>>());
    let expected = Expected::new(vec![chain], &[MAIN_DRIVE]);
    Work::new("many_stacks", Build::Frameless, expected)
        .named("65,536 stacks")
        .argument(Argument::Text(us_each.to_string()))
}

/// Processes that live for 2 ms. The stacks are those of the children.
pub fn fork_storm(a_second: u32) -> Work {
    const LOADER: &str = "@ld-linux/@libc *";
    const FINI: &str =
        "@libc/@ld-linux/_fini/fini/__do_global_dtors_aux/deregister_tm_clones/__cxa_finalize% *";
    let steps = ["main", "short_a", "short_b", "short_cost"];
    let chain = Chain::new("short_cost", Root::Main, &steps);
    let expected = Expected::new(vec![chain], &[])
        // Before main, and after it.
        .also(Root::Own, &["_start/_dl_start_user", LOADER])
        .also_if_whole(Root::Own, &["@ld-linux", LOADER])
        .also(Root::Main, &["@libc/@ld-linux *"])
        .also(Root::Main, &["exit", FINI])
        .also(Root::Main, &["main", "@libc *"]);
    const CHILD: &str = "short_lived";
    let mut work = Work::new("fork_storm", Build::Frameless, expected)
        .named("fork storm")
        .argument(Argument::Program(CHILD))
        .argument(Argument::Text(a_second.to_string()));
    work.children = Some(CHILD);
    work
}

/// Threads that wait, without frame pointers.
pub fn waits() -> Work {
    const CALLS: &str = "call_%/sleep_ns/@libc/@[vdso] *";
    let chain = |body: &str, wait: &str| {
        let steps = [body, "wait_once ?", "enter_wait", wait, CALLS];
        Chain::new(wait, Root::Thread, &steps)
    };
    let chains = vec![
        chain("naps_body/locks_body", "nap"),
        chain("short_naps_body", "short_nap"),
        chain("locks_body", "take_lock"),
        chain("pipes_body", "read_pipe"),
        chain("polls_body", "poll_nothing"),
        chain("never_runs_body", "stay"),
    ];
    // The CPU is also taken from them between two waits.
    let bodies = "naps_body/short_naps_body/locks_body/lock_holder_body/pipes_body/pipe_feeder_body/polls_body";
    let expected = Expected::new(chains, &[(Root::Thread, &[bodies, "wait_once ?"])])
        .also(
            Root::Thread,
            &[bodies, "wait_once ?", "enter_wait ?", CALLS],
        )
        .also(Root::Main, &["main", "wait_for_stop ?", CALLS]);
    Work::new("waits", Build::Frameless, expected)
}

/// Writes to a file, past the page cache.
pub fn disk_writer(file: &str) -> Work {
    let chain = |leaf: &str, call: &str| {
        let steps = ["main", "write_blocks", leaf, call, "@libc *"];
        Chain::new(leaf, Root::Main, &steps)
    };
    let chains = vec![
        chain("write_block", "call_write ?"),
        chain("sync_file", "call_sync ?"),
    ];
    Work::new("disk_writer", Build::Frameless, Expected::new(chains, &[]))
        .argument(Argument::Text(file.to_owned()))
}

/// Processes that make work for whoever looks at them; `kind` as in `hostile.c`.
pub fn hostile(kind: &str, more: &[String]) -> Work {
    // Code made at run time has a name of 2 MiB, or none.
    let expected = Expected::new(vec![main_chain("part_busy", &[])], &[MAIN_DRIVE])
        .also(Root::Main, &["main", "drive", "%"])
        .also(Root::Main, &["main", "drive", "@libc *"]);
    let work = Work::new("hostile", Build::Frameless, expected);
    let texts = std::iter::once(kind).chain(more.iter().map(String::as_str));
    texts.fold(work.named(format!("hostile {kind}")), |work, text| {
        work.argument(Argument::Text(text.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Frame;
    use crate::score::{Observed, Score};

    fn is_clean(work: &Work, stack: &str, claims_whole: bool) -> bool {
        let parse = |frame: &str| match frame.split_once('@') {
            Some((function, module)) => Frame::new(function, module),
            None => Frame::new(frame, "program"),
        };
        let observed = Observed {
            frames: stack.split_whitespace().map(parse).collect(),
            claims_whole,
            count: 1,
            weight: 0,
        };
        let score = Score::of(&work.expected, &[observed]);
        score.all.clean == 1 && score.all.wrong == 0
    }

    #[test]
    fn goroutines_are_interrupted_anywhere() {
        let signal = "runtime.cgoSigtramp runtime.sigtrampgo runtime.sighandler";
        let body = "runtime.goexit main.main.func1 main.body";
        for above in [
            "",
            "main.outer",
            "main.outer main.middle",
            "main.outer main.middle main.leafCost",
        ] {
            let stack = format!("{body} {above} {signal}");
            assert!(is_clean(&gopher(), &stack, true), "{stack}");
        }
        for above in ["main.outer main.leafCost", "main.leafCost"] {
            let stack = format!("{body} {above} {signal}");
            assert!(!is_clean(&gopher(), &stack, true), "{stack}");
        }
    }

    #[test]
    fn short_lived_processes_begin_and_end() {
        let work = fork_storm(1);
        let root = "_start __libc_start_main_impl@libc.so.6 __libc_start_call_main@libc.so.6";
        let exit = "exit@libc.so.6 __run_exit_handlers@libc.so.6";
        let fini = "_dl_fini@ld-linux-x86-64.so.2 __do_global_dtors_aux";
        assert!(is_clean(&work, &format!("{root} {exit} {fini}"), true));
        assert!(!is_clean(&work, &format!("{root} {exit} elsewhere"), true));
        assert!(!is_clean(
            &work,
            &format!("{root} __do_global_dtors_aux"),
            true
        ));
        let loader = "_dl_sysdep_start@ld-linux-x86-64.so.2 dl_main@ld-linux-x86-64.so.2";
        assert!(is_clean(
            &work,
            &format!("_start@ld-linux-x86-64.so.2 {loader}"),
            false
        ));
        assert!(is_clean(&work, loader, true));
        assert!(!is_clean(&work, loader, false));
    }
}
