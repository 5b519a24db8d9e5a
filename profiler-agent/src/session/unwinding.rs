//! What a session unwinds stacks with, and what is to be said of it in the end.

use profiler_abi::Counter;
use profiler_proto::UnwindFacts;

use crate::{
    aggregate::Aggregate,
    bpf::{CounterSums, Programs, online_cpus},
    resolver::Resolved,
    sideband::{Sideband, SidebandStatus},
    unwind::{
        loader::{SessionTables, UnwindReport, refusals},
        shared::SharedUnwinder,
    },
};

/// Without the side band processes that live shortly stay unknown.
pub(super) fn open_sideband(warnings: &mut Vec<String>) -> Option<Sideband> {
    let cpus = match online_cpus() {
        Ok(cpus) => cpus,
        Err(error) => {
            warnings.push(format!("list online CPUs: {error}"));
            return None;
        }
    };
    Sideband::open(&cpus)
        .inspect_err(|error| {
            warnings.push(format!(
                "{error}: processes that lived shortly have no names"
            ));
        })
        .ok()
}

/// Without tables every stack is copied, or walked by frame pointers.
pub(super) fn attach_tables(
    unwinder: &SharedUnwinder,
    programs: &Programs,
    warnings: &mut Vec<String>,
) -> Option<SessionTables> {
    let attach = || {
        let maps = programs.table_maps().map_err(|error| error.to_string())?;
        unwinder
            .get()?
            .attach(maps)
            .map_err(|error| error.to_string())
    };
    attach()
        .inspect_err(|error| warnings.push(format!("no unwind tables: {error}")))
        .ok()
}

/// What is to be said about the side band.
pub(super) fn sideband_warning(status: &SidebandStatus) -> Option<String> {
    let SidebandStatus {
        lost, malformed, ..
    } = status;
    (lost + malformed > 0).then(|| {
        format!(
            "{} records of what processes mapped were lost: frames of new processes may lack their files",
            lost + malformed
        )
    })
}

/// What tables could not cover for lack of room.
pub(super) fn warnings(report: &UnwindReport) -> Vec<String> {
    let UnwindReport {
        mappings_cut,
        lists_without_room,
        runtimes_without_room,
        processes_refused,
        ..
    } = report;
    [
        (
            *mappings_cut,
            "mappings of code have no unwind table, because their processes have too many",
        ),
        (
            *lists_without_room,
            "times the unwind tables of a process found no room (unwind_bytes)",
        ),
        (
            *runtimes_without_room,
            "times an interpreter's frames were left out for lack of room (unwind_bytes)",
        ),
        (
            *processes_refused,
            "processes have no unwind tables, because there are too many",
        ),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

/// What unwinding took, for the capture.
pub(super) fn facts(
    resolved: &Resolved,
    counters: &CounterSums,
    aggregate: &Aggregate,
) -> UnwindFacts {
    let report = resolved.unwind.clone().unwrap_or_default();
    UnwindFacts {
        tables_built: report.tables_built,
        tables_refused: refusals(&report.refused),
        table_bytes: report.table_bytes as u64,
        build_cpu_ns: report.build_cpu.as_nanos() as u64,
        processes_without_table: report.processes_without_table,
        copies_taken: aggregate.copies(),
        copies_lost: counters.get(Counter::CopyLost),
    }
}
