//! Entry points, one file per event.

mod cpu;
mod fork;
mod io;
mod offcpu;
