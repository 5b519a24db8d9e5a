//! What the end-to-end tests are made of: workloads that record what they did, the programs under test as
//! processes, questions to a capture, and pieces of the host that are given back.
//!
//! The tests themselves are in `scenarios/`, the workloads in `workloads/`.

mod agent;
mod build;
pub mod catalogue;
pub mod chain;
mod guards;
mod kernel;
mod lab;
pub mod measure;
pub mod perf;
mod process;
mod reading;
pub mod score;
mod skip;
mod truth;
mod workload;

pub use agent::Agent;
pub use build::{Build, program};
pub use guards::{Cgroup, LoopDisk, Tmpfs, cgroup_v1_root, cgroup2_root};
pub use kernel::{Loaded, MemoryAndFiles, proc_start_ticks, schedstat, until};
pub use lab::Lab;
pub use process::{Finished, Running, run};
pub use reading::{Reading, Stack, Walked, folded_lines};
pub use skip::{Skipped, skip};
pub use truth::{Sum, Truth, Window};
pub use workload::Workload;
