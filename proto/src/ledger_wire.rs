//! The ledger as a message.

use std::collections::BTreeMap;

use crate::event::Event;
use crate::ledger::{EventLedger, Ledger, LossReason, SkipReason};
use crate::pb;
use crate::profile::{StackEnd, UnwindMethod};

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
        let methods = ledger
            .user_methods
            .iter()
            .map(|(method, &count)| pb::UnwindMethodCount {
                method: method.to_wire(),
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
            user_methods: methods.collect(),
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
    let methods = message.user_methods.into_iter();
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
        user_methods: sums(
            methods.map(|one| (UnwindMethod::from_wire(one.method), one.count)),
            u64::saturating_add,
        ),
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
