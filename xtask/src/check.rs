//! `cargo xtask check`: proves the invariants of ARCHITECTURE.md that a program can prove.
//!
//! Each rule is a function from the project to the places that break it; adding one is a function and a line in `RULES`.

mod dependencies;
mod objects;
mod sources;

use std::path::Path;

use anyhow::{Result, ensure};

use crate::{ebpf, paths, process};
use dependencies::Graph;

/// Proves the project's invariants: dependency direction, unsafe code, file sizes, the licence of the kernel objects.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

/// What the rules look at.
struct Project<'a> {
    root: &'a Path,
    objects: &'a Path,
    graph: Graph,
}

/// An invariant, and the function that lists the places where it does not hold.
struct Rule {
    invariant: &'static str,
    breaches: fn(&Project<'_>) -> Result<Vec<String>>,
}

const RULES: &[Rule] = &[
    Rule {
        invariant: "the command line depends on no kernel side: no aya, abi or symboliser",
        breaches: |project| dependencies::cli_reaches_no_kernel_side(&project.graph),
    },
    Rule {
        invariant: "abi and proto use no project crate; the agent uses abi and proto, the command line proto",
        breaches: |project| dependencies::direction(&project.graph),
    },
    Rule {
        invariant: "no unsafe code in proto, the command line and xtask",
        breaches: |project| sources::unsafe_is_forbidden(project.root),
    },
    Rule {
        invariant: "unsafe code in abi is `unsafe impl` only",
        breaches: |project| sources::abi_has_only_unsafe_impl(project.root),
    },
    Rule {
        invariant: "every crate but abi, which two workspaces share, takes the lints of the workspace",
        breaches: |project| sources::lints_are_inherited(project.root),
    },
    Rule {
        invariant: "main.rs has fewer than 150 lines",
        breaches: |project| sources::mains_are_short(project.root),
    },
    Rule {
        invariant: "kernel code drops no result: no `let _ =`",
        breaches: |project| sources::kernel_code_drops_nothing(project.root),
    },
    Rule {
        invariant: "one filter: every kernel event asks admit.rs",
        breaches: |project| sources::events_ask_the_filter(project.root),
    },
    Rule {
        invariant: "one way out: only emit.rs touches the ring buffer",
        breaches: |project| sources::only_emit_sends(project.root),
    },
    Rule {
        invariant: "kernel objects declare the licence GPL",
        breaches: |project| objects::licence_is_gpl(project.objects),
    },
];

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        ebpf::ensure()?;
        let project = Project {
            root: paths::root(),
            objects: &paths::objects(),
            graph: Graph::of_workspace()?,
        };
        let mut broken = 0;
        for rule in RULES {
            broken += usize::from(!holds(rule, &project)?);
        }
        ensure!(
            broken == 0,
            "{broken} of {} invariants do not hold",
            RULES.len()
        );
        process::heading(&format!("all {} invariants hold", RULES.len()));
        Ok(())
    }
}

fn holds(rule: &Rule, project: &Project<'_>) -> Result<bool> {
    let breaches = (rule.breaches)(project)?;
    let verdict = if breaches.is_empty() {
        "ok    "
    } else {
        "BROKEN"
    };
    println!("{verdict} {}", rule.invariant);
    for breach in &breaches {
        println!("         {breach}");
    }
    Ok(breaches.is_empty())
}
