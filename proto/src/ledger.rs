//! The counts that prove a capture whole, or say what it lacks.

use std::collections::BTreeMap;

use crate::event::Event;
use crate::pb;
use crate::profile::StackEnd;
use crate::wire_enum::wire_enum;

wire_enum! {
    /// Why a measurement that was chosen did not arrive.
    LossReason {
        /// The ring buffer between kernel and agent was full.
        RingBufferFull => "ring buffer full",
        /// A kernel map that tracks waits or requests was full.
        TrackingMapFull => "tracking map full",
        /// A record that the agent could not parse.
        MalformedRecord => "malformed record",
        /// The agent's memory budget for samples was reached.
        SampleBudget => "sample budget reached",
        /// The kernel counted it and it never arrived. Never seen in a healthy agent.
        Unexplained => "unexplained",
    }
}

wire_enum! {
    /// Why a measurement that was expected was not taken.
    SkipReason {
        /// The kernel did not run the program because it was already running on that CPU.
        Recursion => "program already running",
        /// The kernel throttled the perf event.
        Throttled => "throttled by the kernel",
        /// Timer ticks that did not come, for no reason that the kernel names.
        TickMissing => "timer tick missing",
    }
}

/// The ledgers of all events of a capture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// At most one per event, sorted by event.
    pub events: Vec<EventLedger>,
}

impl Ledger {
    /// The ledger of one event.
    pub fn event(&self, event: Event) -> Option<&EventLedger> {
        self.events.iter().find(|one| one.event == event)
    }

    /// Adds the counts of another. Sums stop at the ends of their types.
    pub fn merge(&mut self, other: &Self) {
        for event in &other.events {
            self.add(event);
        }
    }

    /// Adds the counts of one event.
    pub fn add(&mut self, event: &EventLedger) {
        match self.events.binary_search_by_key(&event.event, |e| e.event) {
            Ok(at) => self.events[at].merge(event),
            Err(at) => self.events.insert(at, event.clone()),
        }
    }

    /// Measurements lost, all events and reasons.
    pub fn lost(&self) -> u64 {
        let lost = self.events.iter().map(EventLedger::lost);
        lost.fold(0, u64::saturating_add)
    }

    /// The share of the event that lost the largest one, 0 to 1.
    pub fn lost_share(&self) -> f64 {
        let shares = self.events.iter().map(EventLedger::lost_share);
        shares.fold(0.0, f64::max)
    }

    /// Verifies the ledgers of all events.
    ///
    /// # Errors
    /// Names the first equation that does not hold.
    pub fn verify(&self) -> Result<(), Imbalance> {
        self.events.iter().try_for_each(EventLedger::verify)
    }
}

/// The ledger of one event. Balanced when
///
/// - `observed = idle + filtered + unsampled + counted`
/// - `counted = delivered + sum(losses)`
/// - cpu: `expected - observed = sum(skipped)`; other events: `expected = 0`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventLedger {
    /// What was measured.
    pub event: Event,
    /// Enabled time x frequency, summed over CPUs; 0 for all but cpu.
    pub expected: u64,
    /// Measurements that the kernel programs saw.
    pub observed: u64,
    /// Of those, on the idle task.
    pub idle: u64,
    /// Of those, not of the target.
    pub filtered: u64,
    /// Of those, left out by the sampling decision; others of their kind carry their weight.
    pub unsampled: u64,
    /// Of those, chosen to be delivered.
    pub counted: u64,
    /// Arrived.
    pub delivered: u64,
    /// Chosen and did not arrive.
    pub losses: BTreeMap<LossReason, u64>,
    /// Expected and not seen. Negative where more came than were expected.
    pub skipped: BTreeMap<SkipReason, i64>,
    /// How the user stacks of delivered samples ended.
    pub user_stacks: BTreeMap<StackEnd, u64>,
    /// How the kernel stacks of delivered samples ended.
    pub kernel_stacks: BTreeMap<StackEnd, u64>,
    /// User frames delivered.
    pub user_frames: u64,
    /// Of those, without a function name.
    pub unnamed_user_frames: u64,
    /// Exact sum from the kernel's own counters, in the unit of weight; 0 where there is none.
    pub exact_weight: u64,
    /// What the samples add up to, in the unit of weight.
    pub sampled_weight: u64,
}

impl EventLedger {
    /// A ledger with nothing in it.
    pub fn new(event: Event) -> Self {
        Self {
            event,
            expected: 0,
            observed: 0,
            idle: 0,
            filtered: 0,
            unsampled: 0,
            counted: 0,
            delivered: 0,
            losses: BTreeMap::new(),
            skipped: BTreeMap::new(),
            user_stacks: BTreeMap::new(),
            kernel_stacks: BTreeMap::new(),
            user_frames: 0,
            unnamed_user_frames: 0,
            exact_weight: 0,
            sampled_weight: 0,
        }
    }

    /// Measurements lost, for all reasons.
    pub fn lost(&self) -> u64 {
        self.losses.values().copied().fold(0, u64::saturating_add)
    }

    /// Lost of those chosen to be delivered, 0 to 1; 0 where nothing was chosen.
    pub fn lost_share(&self) -> f64 {
        let lost = self.lost() as f64;
        let all = lost + self.delivered as f64;
        if all > 0.0 { lost / all } else { 0.0 }
    }

    /// Verifies that the counts add up. The sums are exact, whatever the numbers.
    ///
    /// # Errors
    /// Names the first equation that does not hold, and its two sides.
    pub fn verify(&self) -> Result<(), Imbalance> {
        let sum = |parts: &[u64]| parts.iter().copied().map(i128::from).sum::<i128>();
        let losses: i128 = self.losses.values().copied().map(i128::from).sum();
        let skipped: i128 = self.skipped.values().copied().map(i128::from).sum();
        self.equal(
            "observed = idle + filtered + unsampled + counted",
            self.observed.into(),
            sum(&[self.idle, self.filtered, self.unsampled, self.counted]),
        )?;
        let arrived_or_lost = i128::from(self.delivered) + losses;
        self.equal(
            "counted = delivered + losses",
            self.counted.into(),
            arrived_or_lost,
        )?;
        if self.event == Event::Cpu {
            let missing = i128::from(self.expected) - i128::from(self.observed);
            self.equal("expected - observed = skipped", missing, skipped)
        } else {
            self.equal("expected = 0", self.expected.into(), 0)
        }
    }

    fn equal(&self, equation: &'static str, left: i128, right: i128) -> Result<(), Imbalance> {
        if left == right {
            return Ok(());
        }
        Err(Imbalance {
            event: self.event,
            equation,
            left,
            right,
        })
    }

    /// Adds the counts of another ledger of the same event. Sums stop at the ends of their types.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            event: _,
            expected,
            observed,
            idle,
            filtered,
            unsampled,
            counted,
            delivered,
            losses,
            skipped,
            user_stacks,
            kernel_stacks,
            user_frames,
            unnamed_user_frames,
            exact_weight,
            sampled_weight,
        } = other;
        for (sum, more) in [
            (&mut self.expected, expected),
            (&mut self.observed, observed),
            (&mut self.idle, idle),
            (&mut self.filtered, filtered),
            (&mut self.unsampled, unsampled),
            (&mut self.counted, counted),
            (&mut self.delivered, delivered),
            (&mut self.user_frames, user_frames),
            (&mut self.unnamed_user_frames, unnamed_user_frames),
            (&mut self.exact_weight, exact_weight),
            (&mut self.sampled_weight, sampled_weight),
        ] {
            *sum = sum.saturating_add(*more);
        }
        add_all(&mut self.losses, losses, u64::saturating_add);
        add_all(&mut self.skipped, skipped, i64::saturating_add);
        add_all(&mut self.user_stacks, user_stacks, u64::saturating_add);
        add_all(&mut self.kernel_stacks, kernel_stacks, u64::saturating_add);
    }
}

fn add_all<K: Ord + Copy, V: Copy + Default>(
    sums: &mut BTreeMap<K, V>,
    more: &BTreeMap<K, V>,
    add: fn(V, V) -> V,
) {
    for (&key, &value) in more {
        let sum = sums.entry(key).or_default();
        *sum = add(*sum, value);
    }
}

/// A ledger that does not add up.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the {event} ledger does not add up: {equation} is {left} = {right}")]
pub struct Imbalance {
    /// Of which event.
    pub event: Event,
    /// Which equation does not hold.
    pub equation: &'static str,
    /// The value of its left side.
    pub left: i128,
    /// The value of its right side.
    pub right: i128,
}

impl From<&Ledger> for pb::Ledger {
    fn from(ledger: &Ledger) -> Self {
        Self {
            events: ledger.events.iter().map(Into::into).collect(),
        }
    }
}

impl From<pb::Ledger> for Ledger {
    /// Leaves out the ledgers of events that this version does not know, and adds up those of
    /// one event.
    fn from(message: pb::Ledger) -> Self {
        let mut ledger = Self::default();
        for event in message.events {
            if let Ok(known) = Event::from_wire(event.event) {
                ledger.add(&event_ledger(known, event));
            }
        }
        ledger
    }
}

impl From<&EventLedger> for pb::EventLedger {
    fn from(ledger: &EventLedger) -> Self {
        let ends = |ends: &BTreeMap<StackEnd, u64>| {
            let ends = ends.iter().map(|(end, &count)| pb::StackEndCount {
                end: end.to_wire(),
                count,
            });
            ends.collect()
        };
        let losses = ledger.losses.iter().map(|(reason, &count)| pb::Loss {
            reason: reason.to_wire(),
            count,
        });
        let skipped = ledger.skipped.iter().map(|(reason, &count)| pb::Skip {
            reason: reason.to_wire(),
            count,
        });
        Self {
            event: ledger.event.to_wire(),
            expected: ledger.expected,
            observed: ledger.observed,
            idle: ledger.idle,
            filtered: ledger.filtered,
            unsampled: ledger.unsampled,
            counted: ledger.counted,
            delivered: ledger.delivered,
            losses: losses.collect(),
            skipped: skipped.collect(),
            user_stacks: ends(&ledger.user_stacks),
            kernel_stacks: ends(&ledger.kernel_stacks),
            user_frames: ledger.user_frames,
            unnamed_user_frames: ledger.unnamed_user_frames,
            exact_weight: ledger.exact_weight,
            sampled_weight: ledger.sampled_weight,
        }
    }
}

fn event_ledger(event: Event, message: pb::EventLedger) -> EventLedger {
    let ends = |ends: Vec<pb::StackEndCount>| {
        let ends = ends.into_iter();
        sums(
            ends.map(|one| (StackEnd::from_wire(one.end), one.count)),
            u64::saturating_add,
        )
    };
    let losses = message.losses.into_iter();
    let skipped = message.skipped.into_iter();
    EventLedger {
        event,
        expected: message.expected,
        observed: message.observed,
        idle: message.idle,
        filtered: message.filtered,
        unsampled: message.unsampled,
        counted: message.counted,
        delivered: message.delivered,
        losses: sums(
            losses.map(|one| (LossReason::from_wire(one.reason), one.count)),
            u64::saturating_add,
        ),
        skipped: sums(
            skipped.map(|one| (SkipReason::from_wire(one.reason), one.count)),
            i64::saturating_add,
        ),
        user_stacks: ends(message.user_stacks),
        kernel_stacks: ends(message.kernel_stacks),
        user_frames: message.user_frames,
        unnamed_user_frames: message.unnamed_user_frames,
        exact_weight: message.exact_weight,
        sampled_weight: message.sampled_weight,
    }
}

/// Several entries of one reason, such as two that this version does not know, are added up.
fn sums<K: Ord, V: Copy + Default>(
    entries: impl Iterator<Item = (K, V)>,
    add: fn(V, V) -> V,
) -> BTreeMap<K, V> {
    let mut sums = BTreeMap::new();
    for (key, value) in entries {
        let sum: &mut V = sums.entry(key).or_default();
        *sum = add(*sum, value);
    }
    sums
}
