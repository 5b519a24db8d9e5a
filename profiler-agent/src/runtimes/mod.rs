//! Interpreters: finding them in a file, so that the kernel programs can walk
//! their frames (`python`), and putting those frames in their places among the
//! native ones (`merge`). Each interpreter is one file here and one of the same
//! name among the kernel programs.

pub mod merge;
pub mod python;
mod report;

pub use merge::{Merged, Place, merge};
pub use python::PythonBinary;
pub use report::RuntimeReport;
