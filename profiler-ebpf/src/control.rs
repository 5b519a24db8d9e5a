//! Constants and control words that the agent sets, and the ledger's counters.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use profiler_abi::{Control, Counter, Counters, Offsets};

/// Overridden by the agent before loading, then frozen: the verifier reads
/// constants through it.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNSET;

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

#[map(name = "COUNTERS")]
static COUNTS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Reads one constant of [`Offsets`]. Volatile, or the compiler would use the
/// initial value, which the agent replaces.
macro_rules! offset {
    ($field:ident) => {
        $crate::control::constant(&raw const (*$crate::control::constants()).$field)
    };
}
pub(crate) use offset;

#[inline(always)]
pub(crate) fn constants() -> *const Offsets {
    &raw const OFFSETS
}

/// # Safety
/// `field` must point into [`constants`].
#[inline(always)]
pub(crate) unsafe fn constant(field: *const u64) -> u64 {
    // SAFETY: the caller's promise; the static is never written in the kernel.
    unsafe { field.read_volatile() }
}

/// The control words while a session is enabled, else nothing: programs then
/// return at once.
#[inline(always)]
pub(crate) fn session() -> Option<&'static Control> {
    let control = CONTROL.get_ptr(0)?;
    // SAFETY: map memory lives as long as the program. User space writes the
    // words one by one, and each is used on its own.
    let control = unsafe { &*control };
    (control.enabled != 0).then_some(control)
}

/// The control words of a session that is over.
#[inline(always)]
pub(crate) fn ended_session() -> Option<&'static Control> {
    let control = CONTROL.get_ptr(0)?;
    // SAFETY: as above.
    let control = unsafe { &*control };
    (control.enabled == 0 && control.session_end_ns != 0).then_some(control)
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add(counter, 1);
}

/// Adds to this CPU's counter. For programs that nothing interrupts which uses
/// the same counter.
#[inline(always)]
pub(crate) fn add(counter: Counter, n: u64) {
    if let Some(counters) = COUNTS.get_ptr_mut(0) {
        // SAFETY: per-CPU map memory; the index is below COUNTERS by type.
        unsafe { (*counters).values[counter as usize] += n };
    }
}

/// The same for counters that an interrupt on this CPU adds to as well.
#[inline(always)]
pub(crate) fn add_atomic(counter: Counter, n: u64) {
    if let Some(counters) = COUNTS.get_ptr_mut(0) {
        // SAFETY: as above.
        atomic_add(unsafe { &raw mut (*counters).values[counter as usize] }, n);
    }
}

/// Adds to a number in map memory that others add to at the same time.
#[inline(always)]
pub(crate) fn atomic_add(number: *mut u64, n: u64) {
    // SAFETY: the callers' pointers are into map memory. AtomicU64 does not
    // exist for this target; the intrinsic compiles to an atomic add.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
            number, n,
        );
    }
}
