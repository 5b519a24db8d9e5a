//! The profiler's kernel programs. `events/` holds one file per event: its
//! entry points. What they share: `admit` (is this the target), `stack` and
//! `unwind` (where was it), `emit` (the one way out), `task` (who was it).
#![no_std]
#![no_main]
#![allow(internal_features)]
#![feature(core_intrinsics)]
#![deny(unsafe_op_in_unsafe_fn)]

mod admit;
mod control;
mod emit;
mod events;
mod runtimes;
mod stack;
mod task;
mod thread_state;
mod unwind;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
