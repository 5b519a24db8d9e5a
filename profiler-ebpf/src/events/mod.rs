//! Entry points, one file per event.

mod accounts;
mod cpu;
mod fork;
mod io;
mod offcpu;
