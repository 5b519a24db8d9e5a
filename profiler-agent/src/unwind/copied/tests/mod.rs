#![allow(clippy::unwrap_used)]

#[cfg(target_arch = "x86_64")]
mod odd;
#[cfg(target_arch = "x86_64")]
mod programs;
#[cfg(target_arch = "x86_64")]
mod stopped;
