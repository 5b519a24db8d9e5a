//! Where names come from besides the symbol table of the mapped file itself.
//! Whatever is read here may have been made by somebody who wants to harm the
//! agent: each source bounds what it reads, and how long it takes.

pub mod cache;
pub mod code_map;
pub mod debug_data;
pub mod debug_files;
pub mod debuginfod;
pub mod demangle;
pub mod dwarf;
pub mod gopclntab;
pub mod jit;
pub mod jitdump;
pub mod perf_map;
pub mod process_file;
pub mod sections;
pub mod shared;
pub mod sources;
pub mod vdso;
