//! End-to-end tests on the live kernel: the release binaries against workloads that know what they did.
//!
//! They load kernel programs, so they need root, and `PROFILER_E2E=1` says that they are wanted:
//! `cargo xtask test` sets it. Otherwise all are reported as ignored. They run one after the other: each
//! measures the whole machine.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use profiler_tests::{Lab, Skipped};

mod bad_files;
mod bad_input;
mod command;
mod cpu;
mod crash;
mod differential;
mod doctor;
mod formats;
mod hostile;
mod hostile_processes;
mod io;
mod leaks;
mod offcpu;
mod overflow;
mod python;
mod sessions;
mod target;
mod tls;
mod truthful;
mod unwinding;

type Test = fn(&Lab) -> Result<()>;

/// Every test. The cheap ones that tell most come first.
const TESTS: &[(&str, Test)] = &[
    (
        "workloads_tell_the_truth",
        truthful::workloads_tell_the_truth,
    ),
    (
        "doctor_json_has_its_fields",
        doctor::doctor_json_has_its_fields,
    ),
    (
        "doctor_tells_of_a_process",
        doctor::doctor_tells_of_a_process,
    ),
    (
        "status_json_has_its_fields",
        doctor::status_json_has_its_fields,
    ),
    ("cpu_split_and_call_chain", cpu::split_and_call_chain),
    (
        "cpu_whole_host_expects_every_tick",
        cpu::whole_host_expects_every_tick,
    ),
    (
        "cpu_ticks_in_the_kernel_have_user_stacks",
        cpu::ticks_in_the_kernel_have_user_stacks,
    ),
    (
        "cpu_deep_recursion_is_marked_cut",
        cpu::deep_recursion_is_marked_cut,
    ),
    (
        "python_functions_of_every_version",
        python::functions_of_every_version,
    ),
    (
        "python_interpreter_that_lies",
        python::an_interpreter_that_lies,
    ),
    (
        "offcpu_exact_and_sampled_on_every_rung",
        offcpu::exact_and_sampled_on_every_rung,
    ),
    (
        "offcpu_runnable_when_two_share_a_cpu",
        offcpu::runnable_when_two_share_a_cpu,
    ),
    (
        "io_bytes_requests_flushes_and_writer",
        io::bytes_requests_flushes_and_writer,
    ),
    ("unwind_c_and_libc", unwinding::c_and_libc),
    ("unwind_recursion", unwinding::recursion),
    ("unwind_too_deep_is_cut", unwinding::too_deep_is_cut),
    ("unwind_threads", unwinding::threads),
    ("unwind_cpp_and_rust", unwinding::cpp_and_rust),
    ("unwind_odd_frames", unwinding::odd_frames),
    ("unwind_linkage_tables", unwinding::linkage_tables),
    ("unwind_every_kind_of_file", unwinding::every_kind_of_file),
    (
        "unwind_code_made_at_run_time",
        unwinding::code_made_at_run_time,
    ),
    ("unwind_go", unwinding::go),
    (
        "unwind_processes_of_two_milliseconds",
        unwinding::processes_of_two_milliseconds,
    ),
    (
        "unwind_many_different_stacks",
        unwinding::many_different_stacks,
    ),
    ("unwind_waits", unwinding::waits),
    ("unwind_requests", unwinding::requests),
    (
        "unwind_same_stacks_as_perf",
        differential::same_stacks_as_perf,
    ),
    (
        "hostile_mappings",
        hostile_processes::as_many_mappings_as_there_can_be,
    ),
    (
        "hostile_perf_map",
        hostile_processes::a_perf_map_of_a_gibibyte,
    ),
    (
        "hostile_children",
        hostile_processes::children_that_come_and_go,
    ),
    (
        "hostile_programs",
        hostile_processes::broken_programs_mapped_as_code,
    ),
    ("hostile_storm", hostile_processes::a_storm_of_processes),
    ("target_pids", target::pids),
    ("target_comm", target::comm),
    ("target_cgroup_v2", target::cgroup_v2),
    ("target_cgroup_v1", target::cgroup_v1),
    ("target_pid_is_not_reused", target::pid_is_not_reused),
    (
        "sessions_two_at_a_time_and_no_third",
        sessions::two_at_a_time_and_no_third,
    ),
    ("ring_overflow_adds_up", overflow::ring_overflow_adds_up),
    (
        "command_exit_code_and_children",
        command::exit_code_and_children,
    ),
    ("command_that_is_killed", command::that_is_killed),
    ("command_that_cannot_run", command::that_cannot_run),
    (
        "interrupt_ends_early_and_writes",
        command::interrupt_ends_early_and_writes,
    ),
    (
        "directory_has_every_format",
        formats::directory_has_every_format,
    ),
    (
        "single_files_and_default_name",
        formats::single_files_and_default_name,
    ),
    ("captures_render_again", formats::captures_render_again),
    ("hostile_names_forge_nothing", hostile::names_forge_nothing),
    (
        "bad_flags_are_usage_errors",
        bad_input::flags_are_usage_errors,
    ),
    ("bad_targets_are_named", bad_input::targets_are_named),
    ("no_privilege_is_denied", bad_input::no_privilege_is_denied),
    (
        "unwritable_places_are_found_early",
        bad_files::unwritable_places_are_found_early,
    ),
    (
        "full_disk_leaves_nothing",
        bad_files::full_disk_leaves_nothing,
    ),
    (
        "closed_pipe_is_no_failure",
        bad_files::closed_pipe_is_no_failure,
    ),
    (
        "broken_captures_are_refused",
        bad_files::broken_captures_are_refused,
    ),
    (
        "tcp_needs_both_certificates",
        tls::tcp_needs_both_certificates,
    ),
    (
        "agent_killed_leaves_no_program",
        crash::agent_killed_leaves_no_program,
    ),
    (
        "agent_terminated_delivers",
        crash::agent_terminated_delivers,
    ),
    (
        "client_killed_ends_its_capture",
        crash::client_killed_ends_its_capture,
    ),
    (
        "private_agent_dies_with_its_client",
        crash::private_agent_dies_with_its_client,
    ),
    (
        "two_hundred_captures_leak_nothing",
        leaks::two_hundred_captures_leak_nothing,
    ),
];

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let obstacle = Lab::obstacle();
    if let Some(reason) = &obstacle {
        println!("{} end-to-end tests are ignored: {reason}", TESTS.len());
    }
    let lab = Arc::new(Lab::new()?);
    let trials = TESTS
        .iter()
        .map(|(name, test)| trial(name, *test, &lab, obstacle.as_deref()));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    Ok(conclusion.exit_code())
}

fn trial(name: &str, test: Test, lab: &Arc<Lab>, obstacle: Option<&str>) -> Trial {
    let Some(reason) = obstacle else {
        let (lab, name_again) = (lab.clone(), name.to_owned());
        return Trial::ignorable_test(name, move || run(&name_again, test, &lab));
    };
    let kind = format!("ignored: {reason}");
    // Also with `--include-ignored`: it cannot run.
    let reason = reason.to_owned();
    Trial::ignorable_test(name, move || Ok(Completion::ignored_with(reason)))
        .with_kind(kind)
        .with_ignored_flag(true)
}

fn run(name: &str, test: Test, lab: &Lab) -> Result<Completion, Failed> {
    // Off the line that names the test.
    println!();
    match test(lab) {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skipped>() {
            Some(skipped) => {
                println!("{name} is ignored: {skipped}");
                Ok(Completion::ignored_with(skipped))
            }
            None => Err(format!("{error:#}").into()),
        },
    }
}
