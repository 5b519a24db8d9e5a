//! The kernel's own clock on its programs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::{BtfTracePoint, ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};
use aya::{Btf, Ebpf};
use profiler_tests::Loaded;

/// Lets the kernel time its programs while the answer lives. It is a descriptor, so that the clock is off again also when
/// this process is killed.
pub(crate) fn timing() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("cannot turn on the kernel's statistics of programs")
}

/// How long a program ran and how often. The time includes the two readings of the clock around each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) ns: u64,
    pub(crate) count: u64,
}

impl Runs {
    fn of(info: &ProgramInfo) -> Self {
        Self {
            ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
            count: info.run_count(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            ns: self.ns.saturating_sub(before.ns),
            count: self.count.saturating_sub(before.count),
        }
    }

    /// Nanoseconds per run.
    ///
    /// # Errors
    /// Fails where it did not run.
    pub(crate) fn ns_per_run(self) -> Result<f64> {
        self.ns_per(self.count)
    }

    /// Nanoseconds per something of which there were `count`.
    ///
    /// # Errors
    /// Fails where there was none.
    pub(crate) fn ns_per(self, count: u64) -> Result<f64> {
        anyhow::ensure!(
            count > 0,
            "a kernel program did not run while it was measured"
        );
        Ok(self.ns as f64 / count as f64)
    }
}

/// `BPF_OBJ_NAME_LEN` (include/uapi/linux/bpf.h) without the NUL.
const NAME_BYTES: usize = 15;

/// The programs that a process has loaded, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs(BTreeMap<String, Runs>);

impl Programs {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let held = Loaded::by(pid)?.programs;
        let mut programs = BTreeMap::new();
        // One that goes away while the list is read is none of a running session's.
        for info in loaded_programs().flatten() {
            if let Some(name) = held.get(&info.id()) {
                programs.insert(name.clone(), Runs::of(&info));
            }
        }
        Ok(Self(programs))
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let runs = self.0.iter().map(|(name, runs)| {
            let before = before.0.get(name).copied().unwrap_or_default();
            (name.clone(), runs.since(before))
        });
        Self(runs.collect())
    }

    /// Those whose name begins so. The kernel cuts names, so that they may also be the beginning.
    pub(crate) fn named(&self, beginning: &str) -> Runs {
        let is_meant = |name: &str| name.starts_with(&beginning[..beginning.len().min(NAME_BYTES)]);
        let found = self.0.iter().filter(|(name, _)| is_meant(name));
        found.fold(Runs::default(), |sum, (_, runs)| Runs {
            ns: sum.ns + runs.ns,
            count: sum.count + runs.count,
        })
    }
}

/// Runs the program that does nothing at every context switch.
///
/// # Errors
/// Fails where the kernel does not take it.
pub(crate) fn run_empty(object: &Path, window: Duration) -> Result<Runs> {
    let mut ebpf =
        Ebpf::load_file(object).with_context(|| format!("cannot load {}", object.display()))?;
    let program = ebpf
        .program_mut("empty")
        .with_context(|| format!("{} has no program `empty`", object.display()))?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load("sched_switch", &Btf::from_sys_fs()?)?;
    program.attach()?;
    let before = Runs::of(&program.info()?);
    thread::sleep(window);
    Ok(Runs::of(&program.info()?).since(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_by_name() {
        let programs = |ns, count| {
            Programs(BTreeMap::from([(
                "offcpu_resume_t".to_owned(),
                Runs { ns, count },
            )]))
        };
        let grown = programs(500, 7).since(&programs(100, 3));
        let runs = grown.named("offcpu_resume");
        assert_eq!(grown.named("offcpu_resume_tp"), runs);
        assert_eq!(runs, Runs { ns: 400, count: 4 });
        assert_eq!(runs.ns_per_run().unwrap(), 100.0);
        assert_eq!(grown.named("cpu_sample"), Runs::default());
        grown.named("cpu_sample").ns_per_run().unwrap_err();
    }
}
