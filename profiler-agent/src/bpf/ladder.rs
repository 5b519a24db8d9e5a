//! The ladders: for each event the mechanisms that kernels offer, best first,
//! and attaching the first one that this kernel accepts.

use std::{fs, os::fd::AsFd, str::FromStr};

use aya::{Btf, Ebpf, programs::Program};
use profiler_proto::Frequency;

use super::{
    btf::KernelBtf,
    error::{BpfError, chain},
    perf::{Clock, Sampler},
};

/// What makes a CPU sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuRung {
    /// Hardware cycle counter.
    Cycles,
    /// Timer.
    CpuClock,
}

impl CpuRung {
    /// Best first.
    pub const ALL: [Self; 2] = [Self::Cycles, Self::CpuClock];

    /// As shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycles => "perf cycles",
            Self::CpuClock => "perf cpu-clock",
        }
    }

    fn clock(self) -> Clock {
        match self {
            Self::Cycles => Clock::Cycles,
            Self::CpuClock => Clock::CpuClock,
        }
    }
}

/// Where the stack of a wait is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffcpuRung {
    /// At the end of `__schedule`, in the resumed thread (Linux 6.16).
    SchedExit,
    /// fentry on `finish_task_switch`, in the resumed thread.
    Fentry,
    /// kprobe on the same.
    Kprobe,
    /// In `sched_switch`, before the length of the wait is known.
    SwitchOut,
}

impl OffcpuRung {
    /// Best first.
    pub const ALL: [Self; 4] = [Self::SchedExit, Self::Fentry, Self::Kprobe, Self::SwitchOut];

    /// As shown to people and as written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::SchedExit => "sched_exit_tp",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::SwitchOut => "switch-out",
        }
    }
}

/// The name is none of the ladder's.
#[derive(Debug, thiserror::Error)]
#[error("unknown off-CPU mechanism {0:?}: one of sched_exit_tp, fentry, kprobe, switch-out")]
pub struct UnknownRung(String);

impl FromStr for OffcpuRung {
    type Err = UnknownRung;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|rung| rung.name() == name)
            .ok_or_else(|| UnknownRung(name.to_owned()))
    }
}

/// Where the stack of a request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoRung {
    /// Where the submitting thread makes the request (Linux 6.5).
    IoStart,
    /// Where it is queued or, without a scheduler, issued.
    Insert,
}

impl IoRung {
    /// Best first.
    pub const ALL: [Self; 2] = [Self::IoStart, Self::Insert];

    /// As shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoStart => "block_io_start",
            Self::Insert => "block_rq_insert",
        }
    }
}

/// How the object is loaded: one constant of it depends on the off-CPU rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoadMode {
    /// [`profiler_abi::Offsets::sample_at_switch_out`].
    pub sample_at_switch_out: bool,
}

/// What this kernel may have, before trying.
pub(super) struct Ladder {
    has_sched_exit: bool,
    has_finish_task_switch: bool,
    has_io_start: bool,
    forced: Option<OffcpuRung>,
}

impl Ladder {
    /// Looks at the kernel's BTF only.
    pub(super) fn new(btf: &KernelBtf, forced: Option<OffcpuRung>) -> Result<Self, BpfError> {
        Ok(Self {
            has_sched_exit: btf.tracepoint_arguments("sched_exit_tp")?.is_some(),
            has_finish_task_switch: btf.has_function("finish_task_switch"),
            has_io_start: btf.tracepoint_arguments("block_io_start")?.is_some(),
            forced,
        })
    }

    /// The ways to load the object, best first.
    pub(super) fn load_modes(&self, offcpu: bool) -> Vec<LoadMode> {
        let mode = |sample_at_switch_out| LoadMode {
            sample_at_switch_out,
        };
        match self.forced {
            Some(OffcpuRung::SwitchOut) => vec![mode(true)],
            Some(_) => vec![mode(false)],
            None if offcpu => vec![mode(false), mode(true)],
            None => vec![mode(false)],
        }
    }

    /// Opens sampling events on all CPUs. The error is a sentence.
    pub(super) fn attach_cpu(
        &self,
        ebpf: &mut Ebpf,
        frequency: Frequency,
    ) -> Result<(Sampler, CpuRung), String> {
        let mut reasons = Vec::new();
        for rung in CpuRung::ALL {
            match attach_cpu_rung(ebpf, rung, frequency) {
                Ok(sampler) => return Ok((sampler, rung)),
                Err(reason) => reasons.push(format!("{}: {reason}", rung.name())),
            }
        }
        Err(advise(reasons.join("; ")))
    }

    /// Attaches the switch accounting and the best rung that works in `mode`.
    pub(super) fn attach_offcpu(
        &self,
        ebpf: &mut Ebpf,
        mode: LoadMode,
        kernel: &Btf,
    ) -> Result<OffcpuRung, String> {
        let rungs = OffcpuRung::ALL.into_iter().filter(|rung| {
            (*rung == OffcpuRung::SwitchOut) == mode.sample_at_switch_out
                && self.forced.is_none_or(|forced| forced == *rung)
        });
        let mut reasons = Vec::new();
        for rung in rungs {
            match self.attach_resume(ebpf, rung, kernel) {
                Ok(()) => {
                    attach_accounting(ebpf, kernel).map_err(advise)?;
                    return Ok(rung);
                }
                Err(reason) => reasons.push((rung, reason)),
            }
        }
        if let [(_, reason)] = &reasons[..] {
            return Err(advise(reason.clone()));
        }
        let reasons: Vec<String> = reasons
            .into_iter()
            .map(|(rung, reason)| format!("{}: {reason}", rung.name()))
            .collect();
        Err(advise(reasons.join("; ")))
    }

    fn attach_resume(&self, ebpf: &mut Ebpf, rung: OffcpuRung, kernel: &Btf) -> Result<(), String> {
        match rung {
            OffcpuRung::SchedExit if !self.has_sched_exit => {
                Err("no such tracepoint in this kernel (Linux 6.16 has it)".to_owned())
            }
            OffcpuRung::SchedExit => {
                attach_tracepoint_as(ebpf, "offcpu_resume_tp", "sched_exit_tp", kernel)
            }
            OffcpuRung::Fentry if !self.has_finish_task_switch => {
                Err("finish_task_switch is not in this kernel's BTF".to_owned())
            }
            OffcpuRung::Fentry => attach_fentry(ebpf, kernel),
            OffcpuRung::Kprobe => attach_kprobe(ebpf),
            OffcpuRung::SwitchOut => Ok(()),
        }
    }

    /// Attaches the best rung of block I/O.
    pub(super) fn attach_io(&self, ebpf: &mut Ebpf, kernel: &Btf) -> Result<IoRung, String> {
        let rung = if self.has_io_start {
            IoRung::IoStart
        } else {
            IoRung::Insert
        };
        attach_io_rung(ebpf, rung, kernel)?;
        Ok(rung)
    }
}

/// Attaches the block tracepoints. The last first, so that nothing begins that
/// would not be seen to end.
pub(super) fn attach_io_rung(ebpf: &mut Ebpf, rung: IoRung, kernel: &Btf) -> Result<(), String> {
    for program in ["block_rq_complete", "block_rq_issue", rung.name()] {
        attach_tracepoint(ebpf, program, kernel).map_err(advise)?;
    }
    Ok(())
}

/// Loads the sampling program, once, and opens its events.
pub(super) fn attach_cpu_rung(
    ebpf: &mut Ebpf,
    rung: CpuRung,
    frequency: Frequency,
) -> Result<Sampler, String> {
    let Some(Program::PerfEvent(program)) = ebpf.program_mut("cpu_sample") else {
        return Err("the embedded kernel object has no program cpu_sample".to_owned());
    };
    if program.fd().is_err() {
        program.load().map_err(|error| chain(&error))?;
    }
    let fd = program
        .fd()
        .map_err(|error| chain(&error))?
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| error.to_string())?;
    Sampler::open(fd, rung.clock(), frequency).map_err(|error| chain(&error))
}

fn attach_accounting(ebpf: &mut Ebpf, kernel: &Btf) -> Result<(), String> {
    let Some(Program::Iter(program)) = ebpf.program_mut("thread_accounts") else {
        return Err("the embedded kernel object has no program thread_accounts".to_owned());
    };
    program
        .load("task", kernel)
        .map_err(|error| chain(&error))?;
    attach_tracepoint(ebpf, "sched_switch", kernel)
}

/// Attaches the program `name` to the tracepoint of that name.
pub(super) fn attach_tracepoint(ebpf: &mut Ebpf, name: &str, kernel: &Btf) -> Result<(), String> {
    attach_tracepoint_as(ebpf, name, name, kernel)
}

fn attach_tracepoint_as(
    ebpf: &mut Ebpf,
    name: &str,
    tracepoint: &str,
    kernel: &Btf,
) -> Result<(), String> {
    let Some(Program::BtfTracePoint(program)) = ebpf.program_mut(name) else {
        return Err(format!("the embedded kernel object has no program {name}"));
    };
    program
        .load(tracepoint, kernel)
        .and_then(|()| program.attach())
        .map(drop)
        .map_err(|error| format!("tracepoint {tracepoint}: {}", chain(&error)))
}

fn attach_fentry(ebpf: &mut Ebpf, kernel: &Btf) -> Result<(), String> {
    let Some(Program::FEntry(program)) = ebpf.program_mut("offcpu_resume_fentry") else {
        return Err("the embedded kernel object has no program offcpu_resume_fentry".to_owned());
    };
    program
        .load("finish_task_switch", kernel)
        .and_then(|()| program.attach())
        .map(drop)
        .map_err(|error| format!("finish_task_switch: {}", chain(&error)))
}

fn attach_kprobe(ebpf: &mut Ebpf) -> Result<(), String> {
    let symbol = finish_task_switch_symbol()?;
    let Some(Program::KProbe(program)) = ebpf.program_mut("offcpu_resume_kprobe") else {
        return Err("the embedded kernel object has no program offcpu_resume_kprobe".to_owned());
    };
    program
        .load()
        .and_then(|()| program.attach(&symbol, 0))
        .map(drop)
        .map_err(|error| format!("{symbol}: {}", chain(&error)))
}

/// The compiler often renames the function (`finish_task_switch.isra.0`).
fn finish_task_switch_symbol() -> Result<String, String> {
    let symbols = fs::read_to_string("/proc/kallsyms")
        .map_err(|error| format!("read /proc/kallsyms: {error}"))?;
    symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .find(|symbol| {
            symbol
                .strip_prefix("finish_task_switch")
                .is_some_and(|rest| rest.is_empty() || is_suffix(rest))
        })
        .map(str::to_owned)
        .ok_or_else(|| "finish_task_switch is not in /proc/kallsyms".to_owned())
}

/// `.isra.N`, but not `.isra.N.cold`, which is another piece of code.
fn is_suffix(rest: &str) -> bool {
    rest.strip_prefix(".isra.")
        .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Adds what to do to a refusal.
fn advise(reason: String) -> String {
    if !(reason.contains("Operation not permitted") || reason.contains("Permission denied")) {
        return reason;
    }
    if rustix::process::geteuid().is_root() {
        format!("{reason}; the agent is root, so it is this kernel that does not allow it")
    } else {
        format!("{reason}; give the agent CAP_BPF and CAP_PERFMON, or run it as root")
    }
}
