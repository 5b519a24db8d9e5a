//! The counts that prove a capture whole, or say what it lacks.

use std::collections::BTreeMap;

use crate::event::Event;
use crate::profile::{StackEnd, UnwindMethod};
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
        /// The kernel did not show a thread leaving the CPU, or resuming: how long it waited is not
        /// known.
        SwitchNotSeen => "switch not seen",
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

    /// Adds the counts of another. Sums stop at the ends of their types; short of those the order
    /// of merging does not matter.
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
    /// How the user stacks of delivered samples were walked.
    pub user_methods: BTreeMap<UnwindMethod, u64>,
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
            user_methods: BTreeMap::new(),
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
        share(self.lost(), self.delivered)
    }

    /// Measurements skipped, for all reasons. Where more came than were expected, that makes up for none.
    pub fn skipped(&self) -> u64 {
        let skipped = self.skipped.values().map(|&count| count.max(0));
        skipped.fold(0, |sum, count| sum.saturating_add(count.unsigned_abs()))
    }

    /// Measurements the kernel left out although there was something to measure: those skipped, less the timer
    /// ticks that did not come. A CPU that idles sleeps through many, and they would have found nobody.
    pub fn left_out(&self) -> u64 {
        let ticks = self.skipped.get(&SkipReason::TickMissing);
        let ticks = ticks.map_or(0, |&count| count.max(0).unsigned_abs());
        self.skipped().saturating_sub(ticks)
    }

    /// The part of all there was to measure that was left out or lost, 0 to 1.
    pub fn missing_share(&self) -> f64 {
        let (left_out, lost) = (share(self.left_out(), self.observed), self.lost_share());
        left_out + lost - left_out * lost
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
            user_methods,
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
        add_all(&mut self.user_methods, user_methods, u64::saturating_add);
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

/// `part` of `part` and `rest` together, 0 to 1; 0 where there is neither.
fn share(part: u64, rest: u64) -> f64 {
    let all = part as f64 + rest as f64;
    if all > 0.0 { part as f64 / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn cpu() -> EventLedger {
        let mut ledger = EventLedger::new(Event::Cpu);
        ledger.expected = 1000;
        ledger.observed = 990;
        ledger.idle = 800;
        ledger.filtered = 100;
        ledger.unsampled = 10;
        ledger.counted = 80;
        ledger.delivered = 76;
        ledger.losses.insert(LossReason::RingBufferFull, 3);
        ledger.losses.insert(LossReason::MalformedRecord, 1);
        ledger.skipped.insert(SkipReason::Recursion, 11);
        ledger.skipped.insert(SkipReason::TickMissing, -1);
        ledger.user_stacks.insert(StackEnd::Whole, 76);
        ledger.user_methods.insert(UnwindMethod::Tables, 76);
        ledger
    }

    #[test]
    fn balanced_ledgers_verify() {
        assert_eq!(cpu().verify(), Ok(()));
        let mut io = EventLedger::new(Event::Io);
        assert_eq!(io.verify(), Ok(()));
        // What the kernel skipped of an event that has no rate is told, but there is nothing to
        // compare it with.
        io.skipped.insert(SkipReason::Recursion, 4);
        assert_eq!(io.verify(), Ok(()));
    }

    #[test]
    fn every_equation_is_verified() {
        type Change = fn(&mut EventLedger);
        let observed = "observed = idle + filtered + unsampled + counted";
        let counted = "counted = delivered + losses";
        let expected = "expected - observed = skipped";
        let cases: [(Change, &str); 9] = [
            (|ledger| ledger.observed += 1, observed),
            (|ledger| ledger.idle += 1, observed),
            (|ledger| ledger.filtered += 1, observed),
            (|ledger| ledger.unsampled += 1, observed),
            (|ledger| ledger.counted += 1, observed),
            (|ledger| ledger.delivered += 1, counted),
            (|ledger| ledger.losses.clear(), counted),
            (|ledger| ledger.expected += 1, expected),
            (|ledger| ledger.skipped.clear(), expected),
        ];
        for (change, equation) in cases {
            let mut ledger = cpu();
            change(&mut ledger);
            assert_eq!(ledger.verify().unwrap_err().equation, equation);
        }
        let mut io = EventLedger::new(Event::Io);
        io.expected = 1;
        assert_eq!(io.verify().unwrap_err().equation, "expected = 0");
    }

    #[test]
    fn an_imbalance_names_both_sides() {
        let mut ledger = cpu();
        ledger.delivered = 70;
        assert_eq!(
            ledger.verify().unwrap_err().to_string(),
            "the cpu ledger does not add up: counted = delivered + losses is 80 = 74"
        );
    }

    #[test]
    fn hostile_numbers_do_not_balance_by_overflow() {
        let mut ledger = EventLedger::new(Event::OffCpu);
        ledger.idle = u64::MAX;
        ledger.filtered = 1;
        assert!(ledger.verify().is_err());
        ledger.observed = u64::MAX;
        assert!(ledger.verify().is_err());

        let mut ledger = EventLedger::new(Event::Cpu);
        ledger.losses.insert(LossReason::RingBufferFull, u64::MAX);
        ledger.losses.insert(LossReason::Unexplained, 1);
        ledger.skipped.insert(SkipReason::Recursion, i64::MAX);
        ledger.skipped.insert(SkipReason::Throttled, i64::MAX);
        ledger.skipped.insert(SkipReason::TickMissing, 2);
        assert!(ledger.verify().is_err());
        assert_eq!(ledger.lost(), u64::MAX);
        let other = ledger.clone();
        ledger.merge(&other);
        assert_eq!(ledger.losses[&LossReason::RingBufferFull], u64::MAX);
        assert_eq!(ledger.skipped[&SkipReason::Recursion], i64::MAX);
        assert!(ledger.verify().is_err());
    }

    #[test]
    fn merged_ledgers_add_up_and_stay_sorted() {
        let io = EventLedger::new(Event::Io);
        let mut ledger = Ledger::default();
        for event in [&io, &cpu(), &cpu()] {
            ledger.add(event);
        }
        assert_eq!(ledger.events.len(), 2);
        let both = ledger.event(Event::Cpu).unwrap();
        assert_eq!((both.expected, both.lost()), (2000, 8));
        assert_eq!(both.user_stacks[&StackEnd::Whole], 152);
        assert_eq!(both.user_methods[&UnwindMethod::Tables], 152);
        assert_eq!(ledger.verify(), Ok(()));
        assert_eq!(ledger.lost(), 8);
        assert_eq!(both.lost_share(), 0.05);
    }

    #[test]
    fn what_was_skipped_and_what_was_lost_is_missing() {
        let mut ledger = EventLedger::new(Event::Cpu);
        assert_eq!((ledger.skipped(), ledger.missing_share()), (0, 0.0));
        ledger.observed = 75;
        ledger.delivered = 50;
        ledger.skipped.insert(SkipReason::Throttled, 25);
        // More than expected makes up for nothing.
        ledger.skipped.insert(SkipReason::TickMissing, -20);
        assert_eq!((ledger.skipped(), ledger.missing_share()), (25, 0.25));
        ledger.losses.insert(LossReason::RingBufferFull, 50);
        assert_eq!((ledger.left_out(), ledger.lost_share()), (25, 0.5));
        assert_eq!(ledger.missing_share(), 0.625);
    }

    #[test]
    fn survives_the_wire() {
        let mut ledger = Ledger::default();
        ledger.add(&cpu());
        assert_eq!(Ledger::from(pb::Ledger::from(&ledger)), ledger);
    }
}
