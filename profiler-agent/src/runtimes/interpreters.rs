//! Which files hold an interpreter, remembered for all processes that map them.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use super::python::{PythonBinary, PythonError};
use crate::unwind::elf::{ElfImage, ReadAt};

/// Most files remembered; past it all are looked at again.
const MAX_FILES: usize = 16_384;

/// An interpreter and where its code is.
#[derive(Debug)]
struct Found {
    python: PythonBinary,
    elf: ElfImage,
}

/// The files met so far, by what makes two of them the same.
#[derive(Debug)]
pub struct Interpreters<Id> {
    files: HashMap<Id, Option<Found>>,
    refused: BTreeSet<PythonError>,
}

impl<Id> Default for Interpreters<Id> {
    fn default() -> Self {
        Self {
            files: HashMap::new(),
            refused: BTreeSet::new(),
        }
    }
}

impl<Id: Eq + Hash> Interpreters<Id> {
    /// What the kernel programs need to know of a process that has mapped code
    /// of this file at `start`, from `offset` in the file on. Nothing where the
    /// file holds no interpreter that is known.
    pub fn describe(
        &mut self,
        id: Id,
        file: &dyn ReadAt,
        start: u64,
        offset: u64,
    ) -> Option<Vec<u8>> {
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&id) {
            self.files.clear();
        }
        let refused = &mut self.refused;
        let found = self.files.entry(id).or_insert_with(|| look(file, refused));
        let Found { python, elf } = found.as_ref()?;
        let bias = start.wrapping_sub(elf.address_of(offset)?);
        Some(python.describe(bias))
    }

    /// Why interpreters were found whose frames cannot be walked.
    pub fn refused(&self) -> impl Iterator<Item = &PythonError> {
        self.refused.iter()
    }
}

fn look(file: &dyn ReadAt, refused: &mut BTreeSet<PythonError>) -> Option<Found> {
    let elf = ElfImage::read(file).ok()?;
    match PythonBinary::find(file, &elf) {
        Ok(python) => Some(Found {
            python: python?,
            elf,
        }),
        Err(error) => {
            refused.insert(error);
            None
        }
    }
}
