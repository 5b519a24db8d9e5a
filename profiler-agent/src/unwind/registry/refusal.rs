//! Why a binary has no unwind table, and whether that may change.

use std::time::Duration;

use crate::unwind::table::BuildError;

/// Why a binary has no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It says nothing of how to unwind its code.
    NoRules,
    /// It is for another machine, or no ELF file.
    NotElf,
    /// Its table would be larger than the budget.
    TooLarge,
    /// Its table takes too long to build.
    TooSlow,
    /// It cannot be read.
    Unreadable,
    /// Building its table failed: a bug.
    Failed,
    /// Tables took as much CPU time as they may lately.
    CpuBudget,
    /// Tables that are in use take as much memory as they may.
    MemoryBudget,
    /// The kernel gives no more memory.
    Kernel,
    /// Too many others wait.
    Busy,
}

impl Refusal {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoRules => "no unwind information",
            Self::NotElf => "not an ELF file of this machine",
            Self::TooLarge => "table larger than the memory budget",
            Self::TooSlow => "table takes too long to build",
            Self::Unreadable => "cannot be read",
            Self::Failed => "building the table failed",
            Self::CpuBudget => "CPU budget for building tables spent",
            Self::MemoryBudget => "memory budget for tables spent",
            Self::Kernel => "no kernel memory for tables",
            Self::Busy => "too many tables wait to be built",
        }
    }

    /// When it makes sense to try again; `None`: never.
    pub(super) fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Busy => Some(Duration::from_secs(1)),
            Self::CpuBudget => Some(Duration::from_secs(5)),
            Self::MemoryBudget | Self::Kernel => Some(Duration::from_secs(10)),
            _ => None,
        }
    }
}

impl From<&BuildError> for Refusal {
    fn from(error: &BuildError) -> Self {
        match error {
            BuildError::Elf(_) => Self::NotElf,
            BuildError::NoRules => Self::NoRules,
            BuildError::TooLarge(_) => Self::TooLarge,
            BuildError::TooSlow(_) => Self::TooSlow,
            BuildError::Read { .. } => Self::Unreadable,
        }
    }
}
