//! What a capture says about itself: the host, the window, what could be measured and how.

use std::collections::BTreeMap;

use crate::assembler::ModelError;
use crate::capture_spec::CaptureSpec;
use crate::event::{Event, UnknownEvent};
use crate::pb;
use crate::wire_enum::wire_enum;

/// What a capture says about itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// Name of the host.
    pub host: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Its architecture, as `uname -m` prints it.
    pub architecture: String,
    /// Version of the agent.
    pub agent_version: String,
    /// CPUs online at the start.
    pub online_cpus: u32,
    /// Start of the window, UTC nanoseconds since the epoch.
    pub start_ns: u64,
    /// End of the window, UTC nanoseconds since the epoch.
    pub end_ns: u64,
    /// What was asked for.
    pub spec: CaptureSpec,
    /// What became of each event asked for, sorted by event.
    pub events: Vec<EventFacts>,
    /// What the profiler itself cost.
    pub own_cost: OwnCost,
    /// Why the capture ended.
    pub end_reason: EndReason,
    /// Sentences for the reader: what limits this capture.
    pub warnings: Vec<String>,
    /// Memory of the host, bytes.
    pub memory_bytes: u64,
    /// What became of the command that was profiled.
    pub command: Option<CommandResult>,
    /// What unwinding by tables took; nothing in captures of agents that had no tables.
    pub unwind: UnwindFacts,
}

impl Facts {
    /// What became of one event; none where it was not asked for.
    pub fn event(&self, event: Event) -> Option<&EventFacts> {
        self.events.iter().find(|one| one.event == event)
    }
}

/// How one event was measured, or why it was not.
#[derive(Clone, PartialEq, Debug)]
pub struct EventFacts {
    /// The event.
    pub event: Event,
    /// Whether it was measured.
    pub available: bool,
    /// Rung of the ladder in use (`perf cycles`, `sched_exit_tp`, ...).
    pub mechanism: String,
    /// Where it was not measured: what failed on what, and what to do.
    pub reason: String,
    /// Sampling parameters by name, all finite.
    pub parameters: BTreeMap<String, f64>,
}

/// What the profiler itself cost during the capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnCost {
    /// CPU time of the agent, nanoseconds.
    pub agent_cpu_ns: u64,
    /// Resident memory of the agent, bytes.
    pub agent_rss_bytes: u64,
    /// Memory of its BPF maps, bytes.
    pub bpf_map_bytes: u64,
    /// Time in its BPF programs, nanoseconds; 0 unless the kernel's `bpf_stats` are on.
    pub bpf_run_ns: u64,
    /// Runs of its BPF programs; 0 unless the kernel's `bpf_stats` are on.
    pub bpf_runs: u64,
}

/// What unwinding by tables took during the capture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnwindFacts {
    /// Tables that were built.
    pub tables_built: u64,
    /// Files that have no table, by the reason in words.
    pub tables_refused: BTreeMap<String, u64>,
    /// Memory of all tables loaded at the end, bytes.
    pub table_bytes: u64,
    /// CPU time that building took, nanoseconds.
    pub build_cpu_ns: u64,
    /// Processes that were sampled and of which no mapping had a table.
    pub processes_without_table: u64,
    /// Stacks copied to be walked in the agent.
    pub copies_taken: u64,
    /// Stacks that were to be copied and found no room.
    pub copies_lost: u64,
}

wire_enum! {
    /// Why a capture ended. Later ones are further from the plan.
    EndReason {
        /// The time was over.
        Duration => "time over",
        /// Every target process has exited.
        TargetExited => "target exited",
        /// The client asked for an early end.
        Stopped => "stopped early",
        /// The agent was told to shut down.
        Shutdown => "agent shut down",
    }
}

/// What became of the command that was profiled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandResult {
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// As a shell reports it: the exit code, or 128 + signal.
    pub exit_code: i32,
}

impl From<&Facts> for pb::Facts {
    fn from(facts: &Facts) -> Self {
        Self {
            host: facts.host.clone(),
            kernel: facts.kernel.clone(),
            architecture: facts.architecture.clone(),
            agent_version: facts.agent_version.clone(),
            online_cpus: facts.online_cpus,
            start_ns: facts.start_ns,
            end_ns: facts.end_ns,
            spec: Some((&facts.spec).into()),
            events: facts.events.iter().map(Into::into).collect(),
            own_cost: Some(facts.own_cost.into()),
            end_reason: facts.end_reason.to_wire(),
            warnings: facts.warnings.clone(),
            memory_bytes: facts.memory_bytes,
            command: facts.command.as_ref().map(Into::into),
            unwind: Some((&facts.unwind).into()),
        }
    }
}

impl TryFrom<pb::Facts> for Facts {
    type Error = ModelError;

    /// Leaves out events that this version does not know, and says so in a warning.
    fn try_from(message: pb::Facts) -> Result<Self, ModelError> {
        let mut warnings = message.warnings;
        let mut spec = message.spec.ok_or(ModelError::Missing("the spec"))?;
        let unknown = leave_out_unknown(&mut spec.events)?;
        if unknown > 0 {
            warnings.push(format!(
                "{unknown} of the events asked for are not known to this version and left out"
            ));
        }
        let events = read_events(message.events)?;
        Ok(Self {
            host: message.host,
            kernel: message.kernel,
            architecture: message.architecture,
            agent_version: message.agent_version,
            online_cpus: message.online_cpus,
            start_ns: message.start_ns,
            end_ns: message.end_ns,
            spec: spec.try_into()?,
            events,
            own_cost: message.own_cost.unwrap_or_default().into(),
            end_reason: EndReason::from_wire(message.end_reason),
            warnings,
            memory_bytes: message.memory_bytes,
            command: message.command.map(Into::into),
            unwind: message.unwind.unwrap_or_default().into(),
        })
    }
}

/// How many there were. That all are unknown is an error: nothing would be left.
fn leave_out_unknown(events: &mut Vec<i32>) -> Result<usize, ModelError> {
    let mut unknown = events.clone();
    unknown.retain(|&event| Event::from_wire(event).is_err());
    if let Some(&first) = unknown.first()
        && unknown.len() == events.len()
    {
        return Err(UnknownEvent(first).into());
    }
    events.retain(|&event| Event::from_wire(event).is_ok());
    unknown.sort_unstable();
    unknown.dedup();
    Ok(unknown.len())
}

/// The facts of known events, sorted by event.
fn read_events(messages: Vec<pb::EventFacts>) -> Result<Vec<EventFacts>, ModelError> {
    let mut events = BTreeMap::new();
    for message in messages {
        let Ok(event) = Event::from_wire(message.event) else {
            continue;
        };
        if events.insert(event, message.try_into()?).is_some() {
            return Err(ModelError::EventTwice(event));
        }
    }
    Ok(events.into_values().collect())
}

impl From<&EventFacts> for pb::EventFacts {
    fn from(facts: &EventFacts) -> Self {
        Self {
            event: facts.event.to_wire(),
            available: facts.available,
            mechanism: facts.mechanism.clone(),
            reason: facts.reason.clone(),
            parameters: facts.parameters.clone(),
        }
    }
}

impl TryFrom<pb::EventFacts> for EventFacts {
    type Error = ModelError;

    fn try_from(message: pb::EventFacts) -> Result<Self, ModelError> {
        let not_finite = message
            .parameters
            .iter()
            .find(|(_, value)| !value.is_finite());
        if let Some((name, &value)) = not_finite {
            let name = name.clone();
            return Err(ModelError::Parameter { name, value });
        }
        Ok(Self {
            event: Event::from_wire(message.event)?,
            available: message.available,
            mechanism: message.mechanism,
            reason: message.reason,
            parameters: message.parameters,
        })
    }
}

impl From<OwnCost> for pb::OwnCost {
    fn from(cost: OwnCost) -> Self {
        let OwnCost {
            agent_cpu_ns,
            agent_rss_bytes,
            bpf_map_bytes,
            bpf_run_ns,
            bpf_runs,
        } = cost;
        Self {
            agent_cpu_ns,
            agent_rss_bytes,
            bpf_map_bytes,
            bpf_run_ns,
            bpf_runs,
        }
    }
}

impl From<pb::OwnCost> for OwnCost {
    fn from(message: pb::OwnCost) -> Self {
        Self {
            agent_cpu_ns: message.agent_cpu_ns,
            agent_rss_bytes: message.agent_rss_bytes,
            bpf_map_bytes: message.bpf_map_bytes,
            bpf_run_ns: message.bpf_run_ns,
            bpf_runs: message.bpf_runs,
        }
    }
}

impl From<&UnwindFacts> for pb::UnwindFacts {
    fn from(facts: &UnwindFacts) -> Self {
        let UnwindFacts {
            tables_built,
            tables_refused,
            table_bytes,
            build_cpu_ns,
            processes_without_table,
            copies_taken,
            copies_lost,
        } = facts;
        Self {
            tables_built: *tables_built,
            tables_refused: tables_refused.clone(),
            table_bytes: *table_bytes,
            build_cpu_ns: *build_cpu_ns,
            processes_without_table: *processes_without_table,
            copies_taken: *copies_taken,
            copies_lost: *copies_lost,
        }
    }
}

impl From<pb::UnwindFacts> for UnwindFacts {
    fn from(message: pb::UnwindFacts) -> Self {
        Self {
            tables_built: message.tables_built,
            tables_refused: message.tables_refused,
            table_bytes: message.table_bytes,
            build_cpu_ns: message.build_cpu_ns,
            processes_without_table: message.processes_without_table,
            copies_taken: message.copies_taken,
            copies_lost: message.copies_lost,
        }
    }
}

impl From<&CommandResult> for pb::CommandResult {
    fn from(command: &CommandResult) -> Self {
        Self {
            argv: command.argv.clone(),
            exit_code: command.exit_code,
        }
    }
}

impl From<pb::CommandResult> for CommandResult {
    fn from(message: pb::CommandResult) -> Self {
        Self {
            argv: message.argv,
            exit_code: message.exit_code,
        }
    }
}
