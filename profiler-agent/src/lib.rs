//! The profiling daemon as a library: the same agent for `main`, tests and
//! fuzzing. The data path, in order: `bpf` (kernel programs and their maps),
//! `reader` (bytes to records), `aggregate` (records to raw samples),
//! `resolver` with `processes`, `mapped_file`, `namer` with `symbolize`, and `kernel_symbols` (whose and
//! where), `assemble` (to a capture). `session` alone wires them.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod access;
pub mod aggregate;
pub mod assemble;
pub mod bpf;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod kernel_symbols;
pub mod ledger;
pub mod mapped_file;
pub mod monotonic;
pub mod namer;
pub mod own_cost;
mod perf_event;
pub mod processes;
pub mod reader;
pub mod resolver;
pub mod runtimes;
pub mod sampling;
pub mod server;
pub mod session;
pub mod sessions;
pub mod sideband;
pub mod symbolize;
pub mod symbols;
pub mod tls;
pub mod unwind;
