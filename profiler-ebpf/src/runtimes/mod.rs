//! Stacks of interpreters, one file each.

mod python;

use profiler_abi::unwind::{HeapRef, runtime_kind};

use crate::unwind::Place;

/// Appends the frames of the current thread's interpreter to the native ones,
/// of which `native` stand in the record of `slot`. Returns how many. `runtime`
/// is what is known of the process; its first word says which interpreter it
/// is. A function of its own to the verifier.
#[unsafe(export_name = "walk_runtime")]
#[inline(never)]
pub(crate) extern "C" fn walk(slot: u32, native: u32, runtime: HeapRef) -> u32 {
    let Some(info) = Place::of(runtime) else {
        return 0;
    };
    if info.read_u32() == u32::from(runtime_kind::PYTHON) {
        python::walk(slot, native, info)
    } else {
        0
    }
}
