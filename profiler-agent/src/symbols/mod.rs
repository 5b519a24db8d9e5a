//! Where names come from besides the symbol table of the mapped file itself.
//! Whatever is read here may have been made by somebody who wants to harm the
//! agent: each source bounds what it reads, and how long it takes.

pub mod demangle;
pub mod dwarf;
pub mod sections;
