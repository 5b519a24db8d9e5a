//! Several captures as one.

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::Capture;
use crate::capture_spec::CaptureSpec;
use crate::dictionary::Dictionary;
use crate::event::Event;
use crate::facts::{EventFacts, Facts, OwnCost, UnwindFacts};
use crate::profile::{
    AttributesId, FrameId, MappingId, ProcessId, Profile, StackId, StrId, ThreadId,
};
use crate::relabel::Relabel;

/// Between the hosts, kernels and so on of a merge.
const SEPARATOR: &str = ", ";
/// The host of a capture that does not say, once it is merged.
const UNKNOWN_HOST: &str = "unknown";

/// Captures that do not make one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MergeError {
    /// There is no capture.
    #[error("nothing to merge")]
    Nothing,
    /// What was asked for is not the same, so that samples of one are not samples of the other.
    #[error("captures of different {what} cannot be merged: {one} and {other}")]
    Different {
        /// What differs.
        what: &'static str,
        /// The value of one capture.
        one: String,
        /// The value of another.
        other: String,
    },
}

impl Capture {
    /// Merges captures: of several windows of one host, or of several hosts. The result is in
    /// [canonical form](Self::canonicalize) and does not depend on the order; merging some first
    /// and the rest later gives the same.
    ///
    /// Nothing is taken out: captures of one host whose windows overlap count what both saw twice.
    ///
    /// Samples are put together, accounts, device statistics and ledgers are added up. In a merge
    /// of several hosts every process and device names its host. The facts become: the window from
    /// the first start to the last end; host, kernel, architecture, agent version, mechanisms and
    /// reasons joined, each once, sorted; an event available where it was in all captures; CPUs,
    /// memory, resident memory, maps, unwind tables and duration the largest; CPU time, BPF runs and
    /// what unwinding counted added up; the end reason furthest from the plan; parameters the largest, or the smallest where the name
    /// ends in `_min`; warnings each once, sorted; no command.
    ///
    /// # Errors
    /// Fails where there is nothing to merge, or where the captures were not of the same events
    /// and target, or, with cpu among them, not of the same frequency.
    pub fn merge(captures: impl IntoIterator<Item = Self>) -> Result<Self, MergeError> {
        let mut captures: Vec<_> = captures.into_iter().collect();
        if captures.len() > 1 {
            name_hosts(&mut captures);
        }
        let mut merged: Option<Self> = None;
        for capture in captures {
            match &mut merged {
                None => merged = Some(capture),
                Some(merged) => merged.add(capture)?,
            }
        }
        let mut merged = merged.ok_or(MergeError::Nothing)?;
        merged.canonicalize();
        Ok(merged)
    }

    /// Sets the host of every process and device that has none.
    fn name_host(&mut self) {
        let mut dictionary = Dictionary::new();
        let host = dictionary.intern_string(&self.facts.host);
        let relabel = import(&mut dictionary, &self.dictionary, host);
        self.dictionary = dictionary;
        self.relabel(&relabel);
        for device in &mut self.devices {
            if device.host.is_none() {
                device.host = host;
            }
        }
    }

    fn relabel(&mut self, relabel: &Relabel) {
        let samples = self.profiles.iter_mut().flat_map(|p| &mut p.samples);
        samples.for_each(|sample| relabel.sample(sample));
        self.accounts
            .iter_mut()
            .for_each(|one| relabel.account(one));
        self.devices.iter_mut().for_each(|one| relabel.device(one));
    }

    fn add(&mut self, mut other: Self) -> Result<(), MergeError> {
        self.facts.merge(other.facts.clone())?;
        let relabel = import(&mut self.dictionary, &other.dictionary, StrId::NONE);
        other.relabel(&relabel);
        let Self {
            dictionary: _,
            profiles,
            accounts,
            devices,
            facts: _,
            ledger,
        } = other;
        for profile in profiles {
            self.add_profile(profile);
        }
        self.accounts.extend(accounts);
        self.devices.extend(devices);
        self.ledger.merge(&ledger);
        Ok(())
    }

    fn add_profile(&mut self, profile: Profile) {
        let same = |known: &&mut Profile| known.event == profile.event;
        match self.profiles.iter_mut().find(same) {
            Some(known) => known.samples.extend(profile.samples),
            None => self.profiles.push(profile),
        }
    }
}

/// Where the captures are of several hosts, names the host of each process and device.
fn name_hosts(captures: &mut [Capture]) {
    for capture in captures.iter_mut() {
        if capture.facts.host.is_empty() {
            capture.facts.host = UNKNOWN_HOST.to_owned();
        }
    }
    let hosts: BTreeSet<_> = captures.iter().flat_map(|c| parts(&c.facts.host)).collect();
    if hosts.len() == 1 {
        return;
    }
    for capture in captures {
        // A merge of several hosts has named them already.
        if parts(&capture.facts.host).len() == 1 {
            capture.name_host();
        }
    }
}

/// Adds all entries of a dictionary to another; `host` becomes that of processes without one.
fn import(into: &mut Dictionary, from: &Dictionary, host: StrId) -> Relabel {
    let mut to = Relabel {
        strings: vec![StrId::NONE],
        mappings: vec![MappingId::NONE],
        frames: vec![FrameId::NONE],
        stacks: vec![StackId::NONE],
        attributes: vec![AttributesId::NONE],
        processes: vec![ProcessId::NONE],
        threads: vec![ThreadId::NONE],
    };
    for string in from.strings.iter() {
        to.strings.push(into.intern_string(string));
    }
    for mapping in from.mappings.iter() {
        let mapping = to.mapping(mapping);
        to.mappings.push(into.intern_mapping(mapping));
    }
    for frame in from.frames.iter() {
        let frame = to.frame(frame);
        to.frames.push(into.intern_frame(frame));
    }
    for stack in from.stacks.iter() {
        let stack = to.stack(stack);
        to.stacks.push(into.intern_stack(stack));
    }
    for set in from.attributes.iter() {
        let set = to.attribute_set(set);
        to.attributes
            .push(into.intern_attributes(set.as_slice().to_vec()));
    }
    for process in from.processes.iter() {
        let mut process = to.process(process);
        if process.host.is_none() {
            process.host = host;
        }
        to.processes.push(into.intern_process(process));
    }
    for thread in from.threads.iter() {
        let thread = to.thread(thread);
        to.threads.push(into.intern_thread(thread));
    }
    to
}

impl Facts {
    /// See [`Capture::merge`].
    fn merge(&mut self, other: Self) -> Result<(), MergeError> {
        let Self {
            host,
            kernel,
            architecture,
            agent_version,
            online_cpus,
            start_ns,
            end_ns,
            spec,
            events,
            own_cost,
            end_reason,
            warnings,
            memory_bytes,
            command: _,
            unwind,
        } = other;
        merge_spec(&mut self.spec, &spec)?;
        self.host = join(&self.host, &host);
        self.kernel = join(&self.kernel, &kernel);
        self.architecture = join(&self.architecture, &architecture);
        self.agent_version = join(&self.agent_version, &agent_version);
        self.online_cpus = self.online_cpus.max(online_cpus);
        self.start_ns = self.start_ns.min(start_ns);
        self.end_ns = self.end_ns.max(end_ns);
        for event in events {
            self.merge_event(event);
        }
        merge_cost(&mut self.own_cost, &own_cost);
        self.end_reason = self.end_reason.max(end_reason);
        self.warnings.extend(warnings);
        self.warnings.sort_unstable();
        self.warnings.dedup();
        self.memory_bytes = self.memory_bytes.max(memory_bytes);
        self.command = None;
        merge_unwind(&mut self.unwind, unwind);
        Ok(())
    }

    fn merge_event(&mut self, event: EventFacts) {
        let same = |known: &&mut EventFacts| known.event == event.event;
        match self.events.iter_mut().find(same) {
            Some(known) => known.merge(event),
            None => self.events.push(event),
        }
    }
}

impl EventFacts {
    fn merge(&mut self, other: Self) {
        let Self {
            event: _,
            available,
            mechanism,
            reason,
            parameters,
        } = other;
        self.available &= available;
        self.mechanism = join(&self.mechanism, &mechanism);
        self.reason = join(&self.reason, &reason);
        merge_parameters(&mut self.parameters, parameters);
    }
}

fn merge_parameters(known: &mut BTreeMap<String, f64>, more: BTreeMap<String, f64>) {
    for (name, value) in more {
        let smallest = name.ends_with("_min");
        let known = known.entry(name).or_insert(value);
        *known = if smallest {
            known.min(value)
        } else {
            known.max(value)
        };
    }
}

fn merge_cost(cost: &mut OwnCost, other: &OwnCost) {
    let OwnCost {
        agent_cpu_ns,
        agent_rss_bytes,
        bpf_map_bytes,
        bpf_run_ns,
        bpf_runs,
    } = *other;
    cost.agent_cpu_ns = cost.agent_cpu_ns.saturating_add(agent_cpu_ns);
    cost.agent_rss_bytes = cost.agent_rss_bytes.max(agent_rss_bytes);
    cost.bpf_map_bytes = cost.bpf_map_bytes.max(bpf_map_bytes);
    cost.bpf_run_ns = cost.bpf_run_ns.saturating_add(bpf_run_ns);
    cost.bpf_runs = cost.bpf_runs.saturating_add(bpf_runs);
}

fn merge_unwind(facts: &mut UnwindFacts, other: UnwindFacts) {
    let UnwindFacts {
        tables_built,
        tables_refused,
        table_bytes,
        build_cpu_ns,
        processes_without_table,
        copies_taken,
        copies_lost,
    } = other;
    for (sum, more) in [
        (&mut facts.tables_built, tables_built),
        (&mut facts.build_cpu_ns, build_cpu_ns),
        (&mut facts.processes_without_table, processes_without_table),
        (&mut facts.copies_taken, copies_taken),
        (&mut facts.copies_lost, copies_lost),
    ] {
        *sum = sum.saturating_add(more);
    }
    for (reason, more) in tables_refused {
        let sum = facts.tables_refused.entry(reason).or_default();
        *sum = sum.saturating_add(more);
    }
    facts.table_bytes = facts.table_bytes.max(table_bytes);
}

/// Weights of one event and target add up; samples of different frequencies do not.
fn merge_spec(spec: &mut CaptureSpec, other: &CaptureSpec) -> Result<(), MergeError> {
    let CaptureSpec {
        events,
        target,
        duration,
        frequency,
    } = other;
    let different = |what, one: String, other: String| {
        let error = MergeError::Different { what, one, other };
        Err(error)
    };
    if spec.events != *events {
        return different("events", names(&spec.events), names(events));
    }
    if spec.target != *target {
        return different("targets", spec.target.to_string(), target.to_string());
    }
    if spec.frequency != *frequency && events.contains(&Event::Cpu) {
        let one = spec.frequency.to_string();
        return different("frequencies", one, frequency.to_string());
    }
    spec.frequency = spec.frequency.max(*frequency);
    spec.duration = spec.duration.max(*duration);
    Ok(())
}

fn names(events: &[Event]) -> String {
    let names: Vec<_> = events.iter().map(|event| event.name()).collect();
    names.join(",")
}

/// The different parts of what [`join`] made.
fn parts(text: &str) -> BTreeSet<&str> {
    text.split(SEPARATOR).collect()
}

/// Puts together what two captures say, each part once, sorted.
fn join(one: &str, other: &str) -> String {
    let mut all = parts(one);
    all.extend(parts(other));
    // Where one says nothing, that is no part.
    if all.len() > 1 {
        all.remove("");
    }
    let all: Vec<_> = all.into_iter().collect();
    all.join(SEPARATOR)
}
