//! Unwinding without frame pointers: from ELF files to the tables that the
//! kernel programs walk stacks by (`profiler_abi::unwind` is their format).
//!
//! `elf` reads files that others may change meanwhile; `table` builds what the
//! heap holds, from rows (`rows`) that come from call frame information
//! (`cfi`), Go's own tables (`go_rows`), procedure linkage tables (`plt`) and
//! code that is recognised by its bytes (`known_code`).

mod bell;
pub mod binary;
mod build;
mod cfi;
pub mod copied;
pub mod elf;
mod go_rows;
mod heap;
mod interpreter;
mod kernel_maps;
mod known_code;
pub mod loader;
mod plt;
mod registry;
mod rows;
pub mod shared;
mod space;
pub mod table;
mod window;
