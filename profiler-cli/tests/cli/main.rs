//! The program as its users meet it: arguments in, exit code, text and files out.
//!
//! Needs neither root nor an agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake_agent;
mod place;
mod reading;
mod recording;
mod remote;
#[path = "../../src/sample_capture.rs"]
mod sample_capture;
