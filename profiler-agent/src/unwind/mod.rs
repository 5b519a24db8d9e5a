//! Unwinding without frame pointers: from ELF files to the tables that the
//! kernel programs walk stacks by (`profiler_abi::unwind` is their format).
//!
//! `elf` reads files that others may change meanwhile; `table` builds what the
//! heap holds, from rows (`rows`) that come from call frame information
//! (`cfi`), procedure linkage tables (`plt`) and Go's own tables (`go_rows`).

mod build;
mod cfi;
pub mod copied;
pub mod elf;
mod go_rows;
mod rows;
pub mod table;
mod window;
