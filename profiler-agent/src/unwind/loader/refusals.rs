//! Which files of a session have no table, and why.

use std::{collections::BTreeMap, sync::Arc};

use super::process::Code;
use crate::unwind::registry::{Lookup, Refusal};

/// Most files that are remembered.
const MAX_FILES: usize = 256;

/// By path; at most 256.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    files: BTreeMap<Arc<str>, Refusal>,
}

impl Refusals {
    /// Looks through the code of a process.
    pub(super) fn note(&mut self, code: &[Code]) {
        for (path, lookup) in code.iter().filter_map(Code::lookup) {
            match lookup {
                Lookup::Refused(reason) => self.insert(path, reason),
                Lookup::Table { .. } if !self.files.is_empty() => {
                    self.files.remove(path);
                }
                Lookup::Table { .. } | Lookup::Pending => {}
            }
        }
    }

    fn insert(&mut self, path: &Arc<str>, reason: Refusal) {
        if let Some(known) = self.files.get_mut(path) {
            *known = reason;
        } else if self.files.len() < MAX_FILES {
            self.files.insert(Arc::clone(path), reason);
        }
    }

    /// How many, by reason.
    pub(super) fn by_reason(&self) -> BTreeMap<Refusal, u64> {
        let mut counts = BTreeMap::new();
        for reason in self.files.values() {
            *counts.entry(*reason).or_default() += 1;
        }
        counts
    }

    /// All of them.
    pub(super) fn files(&self) -> Vec<(Arc<str>, Refusal)> {
        let pair = |(path, reason): (&Arc<str>, &Refusal)| (Arc::clone(path), *reason);
        self.files.iter().map(pair).collect()
    }
}
