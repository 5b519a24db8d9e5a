//! End-to-end tests on the live kernel.
