//! The kernel's counters and what arrived -> the ledger.

use profiler_abi::Counter;
use profiler_proto::{CaptureSpec, Event, EventFacts, EventLedger, Ledger, LossReason, SkipReason};

use crate::{
    aggregate::Aggregate,
    bpf::{CounterSums, CpuRung},
};

/// What the ledger is made of.
pub struct LedgerInput<'a> {
    /// Of the kernel programs, after everything was detached.
    pub counters: &'a CounterSums,
    /// Chosen waits whose threads were not seen to resume.
    pub left_over_waits: u64,
    /// What arrived.
    pub aggregate: &'a Aggregate,
    /// Time the sampling events were enabled, summed over CPUs.
    pub cpu_enabled_ns: u64,
    /// Runs that the kernel skipped, by event.
    pub recursions: [u64; 3],
    /// What was asked for.
    pub spec: &'a CaptureSpec,
    /// What became of it.
    pub facts: &'a [EventFacts],
}

/// Samples that the kernel side could not hand over.
pub fn lost_in_kernel(counters: &CounterSums) -> u64 {
    [
        Counter::CpuLostRing,
        Counter::OffcpuLostRing,
        Counter::OffcpuLostTracking,
        Counter::IoLostRing,
        Counter::IoLostTracking,
    ]
    .into_iter()
    .map(|counter| counters.get(counter))
    .sum()
}

impl LedgerInput<'_> {
    /// The ledger of the events that were measured.
    pub fn ledger(&self) -> Ledger {
        let measured = self.facts.iter().filter(|facts| facts.available);
        let mut ledger = Ledger {
            events: measured.map(|facts| self.event(facts.event)).collect(),
        };
        // A record that cannot be parsed does not say whose it was.
        let mut malformed = self.aggregate.malformed();
        for event in &mut ledger.events {
            malformed -= explain(event, LossReason::MalformedRecord, malformed);
            event.losses.retain(|_, count| *count > 0);
        }
        ledger
    }

    fn event(&self, event: Event) -> EventLedger {
        let mut ledger = match event {
            Event::Cpu => self.cpu(),
            Event::OffCpu => self.offcpu(),
            Event::Io => self.io(),
        };
        ledger.delivered = self.aggregate.store().delivered(event);
        ledger.losses.insert(
            LossReason::SampleBudget,
            self.aggregate.store().over_budget(event),
        );
        let known: u64 = ledger.losses.values().sum();
        let missing = ledger
            .counted
            .saturating_sub(ledger.delivered)
            .saturating_sub(known);
        ledger.losses.insert(LossReason::Unexplained, missing);
        match self.recursions[event as usize] {
            0 => {}
            count => {
                ledger.skipped.insert(SkipReason::Recursion, count as i64);
            }
        }
        ledger
    }

    /// Whether ticks come at a fixed rate. A cycle counter stands still while
    /// its CPU idles, so how many ticks there will be cannot be foretold.
    fn has_fixed_rate(&self) -> bool {
        self.facts
            .iter()
            .any(|facts| facts.event == Event::Cpu && facts.mechanism == CpuRung::CpuClock.name())
    }

    fn cpu(&self) -> EventLedger {
        let get = |counter| self.counters.get(counter);
        let mut ledger = EventLedger::new(Event::Cpu);
        ledger.observed = get(Counter::CpuObserved);
        ledger.idle = get(Counter::CpuIdle);
        ledger.filtered = get(Counter::CpuFiltered);
        ledger.counted = get(Counter::CpuCounted);
        ledger
            .losses
            .insert(LossReason::RingBufferFull, get(Counter::CpuLostRing));
        ledger.expected = ledger.observed;
        if self.has_fixed_rate() {
            let hertz = u128::from(self.spec.frequency.get());
            let ticks = u128::from(self.cpu_enabled_ns) * hertz;
            ledger.expected = ((ticks + 500_000_000) / 1_000_000_000) as u64;
        }
        let skipped = ledger.expected as i64 - ledger.observed as i64;
        if skipped != 0 {
            ledger.skipped.insert(SkipReason::TickMissing, skipped);
        }
        ledger
    }

    /// Waits that had not ended were not counted by the kernel programs; the
    /// task iterator delivers them, so they count on both sides.
    fn offcpu(&self) -> EventLedger {
        let get = |counter| self.counters.get(counter);
        let mut ledger = EventLedger::new(Event::OffCpu);
        let unfinished = self.aggregate.unfinished();
        ledger.observed = get(Counter::OffcpuObserved) + unfinished.count;
        ledger.filtered = get(Counter::OffcpuFiltered);
        ledger.unsampled = get(Counter::OffcpuUnsampled);
        ledger.counted = get(Counter::OffcpuCounted) + unfinished.count;
        ledger
            .losses
            .insert(LossReason::RingBufferFull, get(Counter::OffcpuLostRing));
        ledger.losses.insert(
            LossReason::TrackingMapFull,
            get(Counter::OffcpuLostTracking),
        );
        ledger
            .losses
            .insert(LossReason::SwitchNotSeen, self.left_over_waits);
        ledger.exact_weight = get(Counter::OffcpuExactNs) + unfinished.weight_ns;
        ledger.sampled_weight = self.sampled_weight(Event::OffCpu);
        ledger
    }

    fn io(&self) -> EventLedger {
        let get = |counter| self.counters.get(counter);
        let mut ledger = EventLedger::new(Event::Io);
        ledger.observed = get(Counter::IoObserved);
        ledger.filtered = get(Counter::IoFiltered);
        ledger.unsampled = get(Counter::IoUnsampled);
        ledger.counted = get(Counter::IoCounted);
        ledger
            .losses
            .insert(LossReason::RingBufferFull, get(Counter::IoLostRing));
        ledger
            .losses
            .insert(LossReason::TrackingMapFull, get(Counter::IoLostTracking));
        ledger.exact_weight = get(Counter::IoExactNs);
        ledger.sampled_weight = self.sampled_weight(Event::Io);
        ledger
    }

    fn sampled_weight(&self, event: Event) -> u64 {
        self.aggregate
            .store()
            .samples(event)
            .iter()
            .map(|sample| sample.weight)
            .sum()
    }

    /// What else limits the capture, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        [
            (
                Counter::OffcpuLostAccount,
                "threads exited without their account of times: the ring buffer was full",
            ),
            (
                Counter::IoLostTotals,
                "requests are missing from the device statistics: too many devices",
            ),
            (
                Counter::ForkLost,
                "child processes were not followed: too many of them",
            ),
            (
                Counter::StackLost,
                "stacks found no room in the ring buffer; samples without a stack are marked so",
            ),
            (
                Counter::CodeLost,
                "names of interpreted functions found no room in the ring buffer; they were sent again when next met",
            ),
        ]
        .into_iter()
        .filter_map(|(counter, sentence)| match self.counters.get(counter) {
            0 => None,
            count => Some(format!("{count} {sentence}")),
        })
        .chain(self.agent_warnings())
        .collect()
    }

    fn agent_warnings(&self) -> impl Iterator<Item = String> {
        let lost = self.aggregate.lost_accounts();
        let accounts = (lost > 0).then(|| {
            format!("{lost} threads have no account of times: more threads than the agent keeps")
        });
        let slot = self.aggregate.store().slot_ns() / 1_000_000_000;
        let times = (slot > 0).then(|| {
            format!("sample times are rounded to {slot} s: more samples than the agent keeps apart")
        });
        let rate = (self.spec.events.contains(&Event::Cpu) && !self.has_fixed_rate()).then(|| {
            "cpu is sampled by a cycle counter, whose rate varies: weights are right on average, \
             and ticks that the kernel left out are not known"
                .to_owned()
        });
        accounts.into_iter().chain(times).chain(rate)
    }
}

/// Moves up to `count` from the unexplained losses to a named one. Returns how
/// many that were.
fn explain(ledger: &mut EventLedger, reason: LossReason, count: u64) -> u64 {
    let unexplained = ledger.losses.entry(LossReason::Unexplained).or_default();
    let moved = count.min(*unexplained);
    *unexplained -= moved;
    *ledger.losses.entry(reason).or_default() += moved;
    moved
}
