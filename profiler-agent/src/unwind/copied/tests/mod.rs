#![allow(clippy::unwrap_used)]

mod hostile;
mod image;
#[cfg(target_arch = "x86_64")]
mod odd;
#[cfg(target_arch = "x86_64")]
mod programs;
#[cfg(target_arch = "x86_64")]
mod stopped;
mod synthetic;
