//! Perf events that run the cpu program: one per online CPU.

use std::{
    collections::BTreeMap,
    fs, io, mem,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use profiler_proto::Frequency;

use crate::perf_event::{self, Attr, SOFTWARE, time_enabled};

/// The kernel's list of CPUs that run, such as "0-3,5".
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// What makes the event fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// `PERF_COUNT_HW_CPU_CYCLES`: precise, needs a performance counter.
    Cycles,
    /// `PERF_COUNT_SW_CPU_CLOCK`: a timer per CPU.
    CpuClock,
}

/// `PERF_TYPE_HARDWARE`.
const HARDWARE: u32 = 0;
/// Bit `freq`: `sample` is a frequency, not a period.
const FREQ: u64 = 1 << 10;
/// `PERF_EVENT_IOC_SET_BPF` = `_IOW('$', 8, __u32)`.
const SET_BPF: libc::c_ulong = 0x4004_2408;

/// What failed on which CPU.
#[derive(Debug, thiserror::Error)]
#[error("{action} on cpu {cpu}: {source}")]
pub(super) struct PerfError {
    action: &'static str,
    cpu: u32,
    /// What the kernel says.
    pub source: io::Error,
}

struct Event {
    fd: OwnedFd,
    /// `time_enabled` at the last look.
    enabled_ns: u64,
}

/// The events of one session.
pub(super) struct Sampler {
    program: OwnedFd,
    clock: Clock,
    frequency: Frequency,
    events: BTreeMap<u32, Event>,
    /// Enabled time of events that are gone with their CPU.
    closed_ns: u64,
    /// Enabled time when counting began, to be left out.
    before_ns: u64,
    /// Enabled time of the session, once it is over.
    session_ns: u64,
}

impl Sampler {
    /// Opens an event on every online CPU that runs `program`.
    pub(super) fn open(
        program: OwnedFd,
        clock: Clock,
        frequency: Frequency,
    ) -> Result<Self, PerfError> {
        let mut sampler = Self {
            program,
            clock,
            frequency,
            events: BTreeMap::new(),
            closed_ns: 0,
            before_ns: 0,
            session_ns: 0,
        };
        for cpu in online_cpus().map_err(|source| PerfError {
            action: "list online CPUs",
            cpu: 0,
            source,
        })? {
            sampler.open_on(cpu)?;
        }
        Ok(sampler)
    }

    fn open_on(&mut self, cpu: u32) -> Result<(), PerfError> {
        let failed = |action| {
            move |source| PerfError {
                action,
                cpu,
                source,
            }
        };
        let fd = open_event(self.clock, self.frequency, cpu)
            .map_err(failed("open the sampling event"))?;
        set_bpf(&fd, self.program.as_raw_fd()).map_err(failed("attach the sampling program"))?;
        let event = Event { fd, enabled_ns: 0 };
        self.events.insert(cpu, event);
        Ok(())
    }

    /// From here on enabled time counts.
    pub(super) fn begin(&mut self) {
        self.before_ns = self.total_enabled_ns();
    }

    /// Up to here enabled time counts.
    pub(super) fn end(&mut self) {
        self.session_ns = self.total_enabled_ns().saturating_sub(self.before_ns);
    }

    /// Sum over CPUs of the time the events were enabled between
    /// [`Self::begin`] and [`Self::end`].
    pub(super) fn enabled_ns(&self) -> u64 {
        self.session_ns
    }

    fn total_enabled_ns(&mut self) -> u64 {
        let mut total = self.closed_ns;
        for event in self.events.values_mut() {
            event.enabled_ns = time_enabled(&event.fd).unwrap_or(event.enabled_ns);
            total += event.enabled_ns;
        }
        total
    }

    /// Follows CPUs that went or came: the kernel takes the events of a CPU
    /// that goes offline and does not give them back. Called about once a
    /// second. Errors concern CPUs that could not be sampled (again).
    pub(super) fn follow_hotplug(&mut self) -> Vec<PerfError> {
        let Ok(online) = online_cpus() else {
            return Vec::new();
        };
        let gone: Vec<u32> = self
            .events
            .iter_mut()
            .filter_map(|(cpu, event)| {
                let stopped = match time_enabled(&event.fd) {
                    Ok(now) => mem::replace(&mut event.enabled_ns, now) == now,
                    Err(_) => true,
                };
                (stopped || !online.contains(cpu)).then_some(*cpu)
            })
            .collect();
        for cpu in gone {
            if let Some(event) = self.events.remove(&cpu) {
                self.closed_ns += event.enabled_ns;
            }
        }
        let mut errors = Vec::new();
        for cpu in online {
            if !self.events.contains_key(&cpu)
                && let Err(error) = self.open_on(cpu)
            {
                errors.push(error);
            }
        }
        errors
    }
}

fn open_event(clock: Clock, frequency: Frequency, cpu: u32) -> io::Result<OwnedFd> {
    let attr = Attr {
        kind: match clock {
            Clock::Cycles => HARDWARE,
            Clock::CpuClock => SOFTWARE,
        },
        // Both PERF_COUNT_HW_CPU_CYCLES and PERF_COUNT_SW_CPU_CLOCK are 0.
        config: 0,
        sample: u64::from(frequency.get()),
        flags: FREQ,
        ..Attr::default()
    };
    perf_event::open(attr, cpu)
}

fn set_bpf(event: &OwnedFd, program: RawFd) -> io::Result<()> {
    // SAFETY: both descriptors are open; the request takes an integer.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Numbers of the CPUs that run.
pub fn online_cpus() -> io::Result<Vec<u32>> {
    let list = fs::read_to_string(ONLINE)?;
    parse_cpu_list(&list)
        .ok_or_else(|| io::Error::other(format!("{ONLINE} is not a list of CPUs: {list:?}")))
}

fn parse_cpu_list(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("7\n"), Some(vec![7]));
        assert_eq!(parse_cpu_list("x"), None);
    }
}
