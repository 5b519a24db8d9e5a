//! Tests of the crate through its public interface.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod chunks;
mod common;
mod files;
mod golden;
mod merge;
mod properties;
