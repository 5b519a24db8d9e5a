//! Functions and the calls that were inlined into them.

use std::cell::Cell;

use crate::unwind::elf::{ReadAt, u32_at, u64_at};

use super::{GoNames, table::Format, values};

/// Numbers of the tables of a function (src/internal/abi/symtab.go).
const PCDATA_INL_TREE_INDEX: u64 = 2;
const FUNCDATA_INL_TREE: u64 = 3;

/// One function (`_func` of src/runtime/runtime2.go).
#[derive(Debug)]
pub(super) struct Function {
    /// Its first address, before relocation.
    pub(super) entry: u64,
    /// Of its name.
    pub(super) name: u32,
    file_values: u32,
    line_values: u32,
    /// Of its compilation unit's list of files.
    unit: u32,
    value_tables: u64,
    data_tables: u64,
    /// Where the list of its value tables is, and behind it that of its data.
    tables: u64,
    /// Ranges that may still be looked through for the address.
    ranges_left: Cell<usize>,
}

impl Function {
    /// The function that holds an address.
    pub(super) fn find(go: &GoNames, file: &dyn ReadAt, address: u64) -> Option<Self> {
        let entry = |index: u64| Some(entry_at(go, file, index)?.0);
        // Behind the last function stands where its code ends.
        if address < entry(0)? || address >= entry(go.header.count)? {
            return None;
        }
        let (mut low, mut high) = (0, go.header.count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match entry(middle)? <= address {
                true => low = middle,
                false => high = middle,
            }
        }
        let (entry, at) = entry_at(go, file, low)?;
        Self::read(go, file, entry, go.header.functions.checked_add(at)?)
    }

    fn read(go: &GoNames, file: &dyn ReadAt, entry: u64, at: u64) -> Option<Self> {
        let (entry_size, size) = match go.header.format {
            Format::V116 => (8, 44),
            Format::V118 => (4, 40),
            Format::V120 => (4, 44),
        };
        let mut bytes = [0; 44];
        go.read(file, at, &mut bytes[..size])?;
        let field = |index: usize| u32_at(&bytes, entry_size + 4 * index);
        Some(Self {
            entry,
            name: field(0),
            file_values: field(4),
            line_values: field(5),
            value_tables: field(6).into(),
            unit: field(7),
            // The last byte before the tables.
            data_tables: bytes[size - 1].into(),
            tables: at.checked_add(size as u64)?,
            ranges_left: Cell::new(values::MAX_RANGES),
        })
    }

    /// File and line of an address in it; empty and 0 where not known.
    pub(super) fn line(&self, go: &GoNames, file: &dyn ReadAt, address: u64) -> (String, u32) {
        let value = |table| self.value(go, file, table, address);
        let line = value(self.line_values).and_then(|line| u32::try_from(line).ok());
        let path = value(self.file_values)
            .and_then(|index| u64::try_from(index).ok())
            .and_then(|index| self.file(go, file, index));
        (path.unwrap_or_default(), line.unwrap_or_default())
    }

    fn value(&self, go: &GoNames, file: &dyn ReadAt, table: u32, address: u64) -> Option<i32> {
        values::at(go, file, table, self.entry, address, &self.ranges_left)
    }

    fn file(&self, go: &GoNames, file: &dyn ReadAt, index: u64) -> Option<String> {
        const NONE: u32 = u32::MAX;
        let index = u64::from(self.unit).checked_add(index)?;
        let place = go.number(file, go.header.units.checked_add(index.checked_mul(4)?)?)?;
        match place {
            NONE => None,
            place => go.text(file, go.header.files.checked_add(place.into())?),
        }
    }

    /// Which inlined call an address is of.
    fn inlined_index(&self, go: &GoNames, file: &dyn ReadAt, address: u64) -> Option<u64> {
        if self.value_tables <= PCDATA_INL_TREE_INDEX {
            return None;
        }
        let at = self.tables.checked_add(4 * PCDATA_INL_TREE_INDEX)?;
        let table = go.number(file, at)?;
        let index = self.value(go, file, table, address)?;
        index.try_into().ok()
    }

    /// Where in the file its tree of inlined calls is.
    fn inlining_tree(&self, go: &GoNames, file: &dyn ReadAt) -> Option<u64> {
        if self.data_tables <= FUNCDATA_INL_TREE {
            return None;
        }
        let list = self.tables.checked_add(4 * self.value_tables)?;
        let address = if go.header.format == Format::V116 {
            // Addresses, aligned.
            let mut bytes = [0; 8];
            let at = list.checked_next_multiple_of(8)?;
            go.read(file, at.checked_add(8 * FUNCDATA_INL_TREE)?, &mut bytes)?;
            u64::from_le_bytes(bytes)
        } else {
            let offset = go.number(file, list.checked_add(4 * FUNCDATA_INL_TREE)?)?;
            if offset == u32::MAX {
                return None;
            }
            go.module.function_data?.checked_add(offset.into())?
        };
        go.image.offset_of(address)
    }
}

/// Entry and place of function `index`.
fn entry_at(go: &GoNames, file: &dyn ReadAt, index: u64) -> Option<(u64, u64)> {
    let mut bytes = [0; 16];
    if go.header.format == Format::V116 {
        // Behind the last one there is only an address.
        let size = if index == go.header.count { 8 } else { 16 };
        let at = go.header.functions.checked_add(16 * index)?;
        go.read(file, at, &mut bytes[..size])?;
        return Some((u64_at(&bytes, 0), u64_at(&bytes, 8)));
    }
    let size = if index == go.header.count { 4 } else { 8 };
    let at = go.header.functions.checked_add(8 * index)?;
    go.read(file, at, &mut bytes[..size])?;
    let entry = go.module.text.checked_add(u32_at(&bytes, 0).into())?;
    Some((entry, u32_at(&bytes, 4).into()))
}

/// A call that was inlined (`inlinedCall` of src/runtime/symtabinl.go).
#[derive(Debug)]
pub(super) struct InlinedCall {
    /// Of the called function's name.
    pub(super) name: u32,
    /// An instruction of where it was called, from the function's entry.
    pub(super) parent: u64,
}

impl InlinedCall {
    /// The innermost one at an address of a function.
    pub(super) fn at(
        go: &GoNames,
        file: &dyn ReadAt,
        function: &Function,
        address: u64,
    ) -> Option<Self> {
        let index = function.inlined_index(go, file, address)?;
        let tree = function.inlining_tree(go, file)?;
        let (size, name, parent) = match go.header.format {
            Format::V116 | Format::V118 => (20, 12, 16),
            Format::V120 => (16, 4, 8),
        };
        let mut bytes = [0; 20];
        let at = tree.checked_add(index.checked_mul(size)?)?;
        file.read_exact_at(&mut bytes[..size as usize], at).ok()?;
        // Negative is nowhere.
        let parent = i32::try_from(u32_at(&bytes, parent)).ok()?;
        Some(Self {
            name: u32_at(&bytes, name),
            parent: parent.try_into().ok()?,
        })
    }
}
