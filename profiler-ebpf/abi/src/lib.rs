//! What crosses the boundary between the kernel programs and the agent: the
//! records in the ring buffer, the control words, the counters, the offsets of
//! kernel structures and the unwind tables.
//!
//! Everything is `repr(C)`, made of fixed-width integers with named padding,
//! and its layout is asserted at compile time, so that both sides, built by
//! different compilers, agree. Times are `CLOCK_MONOTONIC` nanoseconds unless
//! a name says otherwise.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

mod control;
mod counters;
mod offsets;
pub mod python;
mod records;
pub mod unwind;

pub use control::{Control, TargetFlags};
pub use counters::{COUNTERS, Counter, Counters};
pub use offsets::Offsets;
pub use records::*;

/// Implemented by the types whose bytes are exchanged as they are.
#[cfg(feature = "user")]
mod pod {
    use super::{ChosenWait, Control, Counters, IoKey, IoTotals, Offsets, unwind::ProcessEntry};

    // SAFETY: repr(C), only integers and arrays of them, no implicit padding
    // (asserted beside each definition), any bit pattern is valid.
    unsafe impl aya::Pod for Control {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ChosenWait {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for IoKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for IoTotals {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Offsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ProcessEntry {}
}
